"""Everything a training run changes, as one pytree."""

from __future__ import annotations

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from vgg_jax.errors import ConfigError
from vgg_jax.model.specs import Spec
from vgg_jax.model.vgg import VGG


@flax.struct.dataclass
class TrainState:
    """The state of a run; the rest is a function of it and the config.

    Attributes:
      step: updates done, int32.
      trainable: the parameters that are trained.
      rest: frozen parameters, the mean RGB and the averages of batch normalization.
      optimizer: the velocities of the trainable parameters.
    """

    step: jax.Array
    trainable: nnx.State
    rest: nnx.State
    optimizer: optax.OptState


def new_state(
    net: VGG, freeze: tuple[str, ...], optimizer: optax.GradientTransformation
) -> tuple[nnx.GraphDef, TrainState]:
    """The state of a run at step 0, and the structure that `nnx.merge` puts its parameters into.

    Frozen layers are not differentiated, so those below the lowest trainable layer cost no backward pass and none of
    them has a velocity.
    """
    trained = lambda path, value: isinstance(value, nnx.Param) and not is_frozen(path[0], freeze)
    graphdef, trainable, rest = nnx.split(net, trained, ...)
    velocity = jax.jit(optimizer.init)(trainable)  # else JAX compiles a program for each shape
    return graphdef, TrainState(jnp.zeros((), jnp.int32), trainable, rest, velocity)


def arrays_of(state: TrainState) -> dict[str, dict]:
    """What a checkpoint keeps of a state, as trees of arrays by layer: `net` and `optimizer`, the velocities.

    How the parameters are split into trained and frozen ones is not part of it.
    """
    return {
        "net": nnx.to_pure_dict(nnx.merge_state(state.trainable, state.rest)),
        "optimizer": nnx.to_pure_dict(optax.tree.get(state.optimizer, "trace")),
    }


def with_arrays(state: TrainState, arrays: dict[str, dict], step: int) -> TrainState:
    """A state with these arrays, as `arrays_of` gives them, in place of its own, after `step` updates."""
    net = nnx.merge_state(state.trainable, state.rest)
    nnx.replace_by_pure_dict(net, arrays["net"])
    trainable, rest = nnx.split_state(net, held_by(state.trainable), ...)
    trace = optax.tree.get(state.optimizer, "trace")
    nnx.replace_by_pure_dict(trace, arrays["optimizer"])
    step = jax.device_put(jnp.asarray(step, jnp.int32), state.step.sharding)
    return TrainState(step, trainable, rest, optax.tree.set(state.optimizer, trace=trace))


def held_by(state: nnx.State) -> Callable[[tuple, object], bool]:
    """A filter, as `nnx.split` takes them, for the variables that a state holds."""
    paths = {path for path, _ in nnx.to_flat_state(state)}
    return lambda path, _: path in paths


def layers_of(group: str, layers: list[str]) -> list[str]:
    """Layers that a group names: itself, or a stage's, `conv1` for conv1_1 and conv1_2.

    >>> layers_of("conv1", ["conv1_1", "conv1_2", "conv2_1"])
    ['conv1_1', 'conv1_2']
    """
    return [layer for layer in layers if layer == group or layer.startswith(group + "_")]


def is_frozen(layer: str, groups: tuple[str, ...]) -> bool:
    """Whether a layer belongs to one of the frozen groups; batch normalization goes with its convolution."""
    convolution = layer.replace("bn", "conv", 1) if layer.startswith("bn") else layer
    return any(layers_of(group, [convolution]) for group in groups)


def check_freeze(spec: Spec, freeze: tuple[str, ...]) -> None:
    """Refuses groups of layers that the net does not have, and freezing all of it.

    Raises:
      ConfigError: with the layers that there are.
    """
    layers = spec.layers()
    for group in freeze:
        if not layers_of(group, layers):
            raise ConfigError(
                f"config.train.freeze: no layer {group!r} in net {spec.name}; there are {', '.join(layers)}"
            )
    if all(is_frozen(layer, freeze) for layer in layers):
        raise ConfigError("config.train.freeze names every layer: nothing is left to train")
