"""Synchronous data parallelism over whatever devices there are (Sec. 3.3).

The batch is split over the devices, the parameters lie on them as `RULES` says: whole, on each of them. `jax.jit` over
these shardings averages the gradients, so the result is that of one device.
"""

from __future__ import annotations

import re

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vgg_jax.errors import ConfigError

BATCH_AXIS = "data"

RULES: tuple[tuple[str, PartitionSpec], ...] = (("", PartitionSpec()),)
"""How arrays of a network or of a run's state lie on the mesh: (pattern, axes). The first pattern that is found in an
array's name, `trainable/fc6/kernel/value` or `conv1_1/bias/value`, counts."""


def device_mesh() -> Mesh:
    """All devices of all processes in one row."""
    return jax.make_mesh((jax.device_count(),), (BATCH_AXIS,), axis_types=(jax.sharding.AxisType.Auto,))


def local_mesh() -> Mesh:
    """The devices of this process in one row, for work that the processes do apart."""
    return Mesh(np.array(jax.local_devices()), (BATCH_AXIS,))


def check_batch_size(key: str, batch_size: int, devices: int, microbatches: int = 1) -> None:
    """Refuses a batch that does not divide over the devices.

    Raises:
      ConfigError: with the nearest sizes that do.
    """
    unit = devices * microbatches
    if batch_size % unit:
        lower = batch_size // unit * unit
        way_out = f"use {lower} or {lower + unit}" if lower else f"use {unit}"
        over = f"{devices} device{'s' * (devices > 1)}" + f" x {microbatches} microbatches" * (microbatches > 1)
        raise ConfigError(f"{key}={batch_size} does not divide over {over}; {way_out}")


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the devices: images, labels, keys."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXIS))


def place_state(tree, mesh: Mesh):
    """A tree of arrays by layer, a network's or a run's state, placed on the mesh by `RULES`."""

    def sharding(path: tuple, _: jax.Array) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, next(axes for pattern, axes in RULES if re.search(pattern, name)))

    return jax.device_put(tree, jax.tree.map_with_path(sharding, tree))


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """One global batch out of each process's share of it; returns while the copy is still under way.

    Args:
      batch: this process's share, arrays of shape (local_batch, ...).
    """
    return {name: jax.make_array_from_process_local_data(split_batch(mesh), share) for name, share in batch.items()}


def agreed(answer: bool) -> bool:
    """Whether any process says yes; all processes get the same answer at the same step."""
    return bool(multihost_utils.process_allgather(np.asarray(answer)).any())
