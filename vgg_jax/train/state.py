"""Everything a training run changes, as one pytree."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from vgg_jax.config import frozen
from vgg_jax.model.vgg import VGG


@flax.struct.dataclass
class TrainState:
    """The state of a run; the rest is a function of it and the config.

    Attributes:
      step: updates done, int32.
      trainable: the parameters that are trained.
      rest: frozen parameters, the mean RGB and the averages of batch normalisation.
      optimizer: the velocities of the trainable parameters.
    """

    step: jax.Array
    trainable: nnx.State
    rest: nnx.State
    optimizer: optax.OptState


def split_network(net: VGG, freeze: tuple[str, ...]) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """A net as its structure, its trainable parameters and the rest.

    Frozen layers are not differentiated, so those below the lowest trainable layer cost no backward pass and none of
    them has a velocity.
    """
    return nnx.split(net, lambda path, value: isinstance(value, nnx.Param) and not frozen(path[0], freeze), ...)


def new_state(
    net: VGG, freeze: tuple[str, ...], optimizer: optax.GradientTransformation
) -> tuple[nnx.GraphDef, TrainState]:
    """The state of a run at step 0, and the structure that `nnx.merge` puts its parameters into."""
    graphdef, trainable, rest = split_network(net, freeze)
    return graphdef, TrainState(jnp.zeros((), jnp.int32), trainable, rest, optimizer.init(trainable))
