"""What a training step needs of a device's memory, known before it is compiled, and what to change if that is too much.

Parameters, optimizer and gradients are exact; a compiler that updates a layer at once keeps fewer of the gradients. Of
the activations it is what a good program keeps for the backward pass, and the gradients of the convolution that it is
at; a compiler may need more.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vgg_jax.errors import ConfigError, UserError
from vgg_jax.model.specs import scaled, spec_of
from vgg_jax.train.state import TrainState

log = logging.getLogger(__name__)

TPU_LANES = 128
"""A TPU stores channels in multiples of these."""


class OutOfMemory(UserError):
    """A device's memory does not suffice."""


class Plan(NamedTuple):
    """Bytes on one device."""

    parameters: int
    optimizer: int
    gradients: int
    activations: int

    @property
    def total(self) -> int:
        return sum(self)


def plan(config: ConfigDict, state: TrainState, mesh: Mesh, itemsize: int, lanes: int = 1) -> Plan:
    """The memory of a training step.

    Args:
      config: the run's.
      state: arrays with shardings, or their shapes.
      mesh: all devices.
      itemsize: bytes of a number of the computation, 2 for bfloat16.
      lanes: channels are stored in multiples of these.
    """
    images = -(-config.train.batch_size // (mesh.size * config.train.microbatches))
    gradients = _bytes_of(state.trainable)
    return Plan(
        gradients + _bytes_of(state.rest),
        _bytes_of(state.optimizer),
        gradients,
        images * activations(config, itemsize, lanes),
    )


def activations(config: ConfigDict, itemsize: int, lanes: int = 1) -> int:
    """Bytes for an image where a step needs most: what is kept so far, and the gradients of a layer's input and output.

    Kept are the outputs of ReLUs and of pools, a ReLU's before a pool excepted, and a byte for each window's maximum.
    With `config.model.remat` they are the outputs of pools, and of one stage all.
    """
    model, side = config.model, config.data.crop
    most = kept = before = 0  # no gradient goes to the image
    for rows in spec_of(model.net).stages:
        channels = [-(-scaled(row.channels, model.width) // lanes) * lanes for row in rows]
        stage = 0
        for number, count in enumerate(channels, start=1):
            size = side**2 * count * itemsize
            most = max(most, kept + stage + before + size)
            stage += size * (model.batch_norm + (number < len(channels)))
            before = size
        side //= 2
        windows = side**2 * channels[-1]
        before = windows * itemsize
        kept += before if model.remat else stage + before + windows
    return max(most, kept)


def ways_out(config: ConfigDict, state: TrainState, mesh: Mesh, itemsize: int, lanes: int, capacity: float) -> str:
    """The settings with which a step would fit by its plan, each with what it would need then."""

    def with_setting(key: str, value: object) -> tuple[str, float]:
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict({key: value})
        return f"config.{key}={value}", plan(changed, state, mesh, itemsize, lanes).total

    size, parts = config.train.batch_size, config.train.microbatches
    halvings = [2**power for power in range(1, 21) if size % (mesh.size * parts * 2**power) == 0]
    choices = [
        [with_setting("train.microbatches", parts * by) for by in halvings],
        [] if config.model.remat else [with_setting("model.remat", True)],
        [with_setting("train.batch_size", size // by) for by in halvings],
    ]
    fitting = [next((each for each in choice if each[1] <= capacity), None) for choice in choices]
    named = [f"{setting} ({need / 1e9:.1f} GB)" for setting, need in filter(None, fitting)]
    return ", ".join(named) or (
        "config.mesh.model, over which the FC layers are split, config.mesh.zero=True, or fewer images in each step"
    )


def check(config: ConfigDict, state: TrainState, mesh: Mesh, itemsize: int) -> None:
    """Compares a run's plan with its devices' memory, where they report it.

    It refuses what is certainly too large, and warns if only the estimate of the activations is.

    Raises:
      ConfigError: parameters, optimizer and gradients alone do not fit.
    """
    capacity = device_memory(mesh)
    if capacity is None:
        return
    needed = plan(config, state, mesh, itemsize, _lanes(mesh))
    if needed.total <= capacity:
        return
    change = ways_out(config, state, mesh, itemsize, _lanes(mesh), capacity)
    message = f"this step needs about {needed.total / 1e9:.1f} GB of each device, which has {capacity / 1e9:.1f} GB"
    if needed.total - needed.activations > capacity:
        raise ConfigError(f"{message}: change {change}")
    log.warning("%s; if it ends for want of memory, change %s", message, change)


@contextlib.contextmanager
def out_of_memory_named(config: ConfigDict, state: TrainState, mesh: Mesh, itemsize: int) -> Iterator[None]:
    """Says of memory that a device lacks which setting to change.

    Raises:
      OutOfMemory: in place of JAX's error.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = plan(config, state, mesh, itemsize, _lanes(mesh)).total
        change = ways_out(config, state, mesh, itemsize, _lanes(mesh), 0.9 * min(needed, device_memory(mesh) or needed))
        reason = str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
        raise OutOfMemory(f"a device's memory is full ({reason}); change {change}") from error


def device_memory(mesh: Mesh) -> int | None:
    """Bytes that a device of this process lets JAX have; None where it does not say."""
    stats = mesh.local_devices[0].memory_stats()
    return stats.get("bytes_limit") if stats else None


def _lanes(mesh: Mesh) -> int:
    return TPU_LANES if mesh.devices.flat[0].platform == "tpu" else 1


def _bytes_of(tree) -> int:
    """Of the arrays of a tree, on one device."""
    return sum(math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree))
