"""Synchronous parallelism over whatever devices there are (Sec. 3.3), and the FC layers split over some of them.

The devices stand in a mesh `data` x `model`. The batch is split over all of them, so each convolution is computed
once; the convolutions' parameters lie whole on each device. The FC layers, 89 % of net D's parameters, are split over
the model axis (Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks"): fc6 by its
outputs, fc7 by its inputs. At pool5 the devices of a model axis gather each other's activations; after fc7, whose
parts are summed, each goes on with its own images. `jax.jit` over these shardings averages the gradients, so the
result is that of one device.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vgg_jax.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Array, Float

DATA, MODEL = "data", "model"

RULES: tuple[tuple[str, P], ...] = (
    ("fc6/kernel", P(None, None, None, MODEL)),
    ("fc6/bias", P(MODEL)),
    ("fc7/kernel", P(None, None, MODEL)),
    ("", P()),
)
"""How arrays of a network or of a run's state lie on the mesh: (pattern, axes). The first pattern that is found in an
array's name, `trainable/fc6/kernel/value` or `conv1_1/bias/value`, counts; an axis that a mesh lacks splits nothing."""


def device_mesh(model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices of all processes, those of a model axis side by side and joined by the fast network.

    That network, NVLink or a TPU's interconnect, joins the devices of a slice: a host's GPUs, or a TPU slice.

    Args:
      model: devices that share the FC layers.
      devices: others, of which programs are compiled ahead.

    Raises:
      ConfigError: it does not divide the devices, or those of a slice.
    """
    slices: dict[int, list[jax.Device]] = {}
    for device in jax.devices() if devices is None else devices:
        slices.setdefault(getattr(device, "slice_index", 0), []).append(device)
    for members in slices.values():
        if (count := len(members)) % model:
            one_of = f" of one of {len(slices)} hosts or slices" if len(slices) > 1 else ""
            fitting = ", ".join(str(number) for number in range(1, count + 1) if count % number == 0)
            found = f"{count} device{'s' * (count > 1)}{one_of}"
            raise ConfigError(f"config.mesh.model={model} does not divide {found}; use one of {fitting}")
    # Neither `jax.make_mesh` nor `create_hybrid_device_mesh`: the one refuses several slices, and to split a side of a
    # TPU slice, the other devices that are in none.
    parts = [
        create_device_mesh((len(members) // model, model), members, allow_split_physical_axes=True)
        for _, members in sorted(slices.items())
    ]
    return Mesh(np.concatenate(parts), (DATA, MODEL), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def local_mesh() -> Mesh:
    """The devices of this process in one row, for work that the processes do apart."""
    return Mesh(np.array(jax.local_devices()), (DATA,))


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
    return NamedSharding(mesh, P())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis split over all devices: images, labels, keys."""
    return NamedSharding(mesh, P(mesh.axis_names))


def state_shardings(tree, mesh: Mesh, *, zero: bool = False):
    """How a tree of arrays by layer, a network's or a run's state, lies on the mesh by `RULES`.

    Args:
      tree: arrays, or their shapes.
      mesh: the devices.
      zero: whether the optimizer's arrays are split over the data axis too (Rajbhandari et al. 2020, ZeRO, stage 1).

    Raises:
      ConfigError: the model axis does not divide the units of an FC layer.
    """

    def sharding(path: tuple, array: jax.Array) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axes = next(axes for pattern, axes in RULES if re.search(pattern, name))
        axes = [axis if axis in mesh.axis_names else None for axis in axes] + [None] * (array.ndim - len(axes))
        for size, axis in zip(array.shape, axes, strict=True):
            if axis and size % mesh.shape[axis]:
                raise ConfigError(f"config.mesh.model={mesh.shape[axis]} does not divide the {size} units of {name}")
        if zero and name.startswith("optimizer"):
            free = (place for place, axis in enumerate(axes) if not axis and array.shape[place] % mesh.shape[DATA] == 0)
            if (place := max(free, key=lambda place: array.shape[place], default=None)) is not None:
                axes[place] = DATA
        return NamedSharding(mesh, P(*axes))

    return jax.tree.map_with_path(sharding, tree)


def place_state(tree, mesh: Mesh, *, zero: bool = False):
    """A tree of arrays placed on the mesh by `state_shardings`; all processes have the same."""
    return jax.tree.map(_placed, tree, state_shardings(tree, mesh, zero=zero))


def place_number(value: float, mesh: Mesh) -> jax.Array:
    """A float32 on all devices; all processes have the same."""
    return _placed(np.float32(value), replicated(mesh))


def _placed(array: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    # `jax.device_put` gathers the arrays of all processes on each of them, to compare them.
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])


def whole(array: jax.Array) -> jax.Array | np.ndarray:
    """An array that this process can read, of one that may lie in parts on several processes' devices.

    All processes must ask for the same arrays in the same order.
    """
    if array.is_fully_addressable:
        return array
    return (
        array.addressable_data(0) if array.is_fully_replicated else multihost_utils.process_allgather(array, tiled=True)
    )


ACTIVATIONS = {"pool5": P(DATA), "fc6": P(DATA, None, None, MODEL), "fc7": P((DATA, MODEL))}
"""How maps around the split layers lie, and their gradients: read by all devices of a model axis, by units as fc6's
kernel, and by images over all devices again. Without the one in the middle XLA would gather the kernels of fc6 and fc7
for the backward pass, where there is a data axis too: three times the bytes on 64 GPUs."""


def split_activation(x: Float[Array, "n h w c"], name: str) -> Float[Array, "n h w c"]:
    """A map, by its name in `ACTIVATIONS`, with a mesh in context (`jax.set_mesh`) that has a model axis."""
    if jax.sharding.get_abstract_mesh().shape.get(MODEL, 1) == 1:
        return x
    return jax.lax.with_sharding_constraint(x, ACTIVATIONS[name])


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a global batch that lie on this process's devices, rising: its share, and all that it has to read."""
    parts = split_batch(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique([np.arange(batch_size)[part] for part in parts])


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """One global batch out of each process's share of it; returns while the copy is still under way.

    Args:
      batch: this process's share, arrays of its `local_rows`.
    """

    def placed(share: np.ndarray) -> jax.Array:
        size = len(share) * mesh.size // len(mesh.local_devices)
        rows = local_rows(mesh, size)
        part = lambda index: share[np.searchsorted(rows, np.arange(size)[index[0]])]
        return jax.make_array_from_callback((size, *share.shape[1:]), split_batch(mesh), part)

    return {name: placed(share) for name, share in batch.items()}
