"""One update, as a pure function of the state and a batch (Sec. 3.1, 3.3)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from vgg_jax import sharding
from vgg_jax.model.vgg import VGG
from vgg_jax.train.state import TrainState, held_by

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Loss = Callable[[VGG, Batch, jax.Array], tuple[jax.Array, Metrics]]
"""`loss(net, batch, keys)`: what is minimized, and metrics by name, each summed over the images whose mask is 1; see
`vgg_jax.train.task.Task.loss`."""


def image_keys(seed: int, step: jax.Array, batch_size: int) -> jax.Array:
    """One PRNG key per image, a function of the seed, the step and the image's place in the global batch alone."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(jnp.arange(batch_size))


def make_train_step(
    graphdef: nnx.GraphDef,
    loss: Loss,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    seed: int,
    microbatches: int = 1,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """The update `step(state, batch, rate) -> (state, metrics)`, to be jitted by the caller with its shardings.

    The gradient is that of the mean loss over the images of the global batch whose mask is 1, however many devices or
    microbatches it is computed on. (Batch normalization, which is not the paper's, sees a microbatch at a time.)

    Args:
      graphdef: the net's structure, from `new_state`.
      loss: the task's.
      optimizer: `krizhevsky_momentum`.
      seed: of the keys that the loss is given: of augmentation and dropout.
      microbatches: the parts, one after another, in which the gradient is computed; saves activation memory.

    Returns:
      The function. Its batch holds `mask` (n,) float32 and what the loss reads, arrays of n rows. Its metrics are means
      over the batch, and `gradient_norm`.
    """

    def gradient(trainable, rest, part, keys, count):
        def total(trainable):
            # A copy: merged variables are otherwise the state's own, which an outer trace may not see changed.
            net = nnx.merge(graphdef, trainable, rest, copy=True)
            value, metrics = loss(net, part, keys)
            return value / count, (metrics, nnx.split(net, nnx.Not(held_by(trainable)), ...)[1])

        return jax.grad(total, has_aux=True)(trainable)

    def step(state: TrainState, batch: Batch, rate: jax.Array) -> tuple[TrainState, Metrics]:
        keys = image_keys(seed, state.step, len(batch["mask"]))
        count = jnp.maximum(batch["mask"].sum(), 1.0)
        if microbatches == 1:
            gradients, (sums, rest) = gradient(state.trainable, state.rest, batch, keys, count)
        else:
            gradients, sums, rest = accumulate(state, batch, keys, count)
        metrics = {name: total / count for name, total in sums.items()}
        updates, velocity = optimizer.update(gradients, state.optimizer, state.trainable, rate=rate)
        trainable = optax.apply_updates(state.trainable, updates)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        return TrainState(state.step + 1, trainable, rest, velocity), metrics

    def accumulate(state, batch, keys, count):
        # Every microbatches-th image, so that each part is spread over all devices as the batch is.
        def parts(x):
            return jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0)

        def body(carry, part):
            gradients, sums, rest = carry
            more, (more_sums, rest) = gradient(state.trainable, rest, *part, count)
            return (*jax.tree.map(jnp.add, (gradients, sums), (more, more_sums)), rest), None

        split = jax.tree.map(parts, batch), parts(keys)
        first = jax.tree.map(lambda x: x[0], split)
        shapes = jax.eval_shape(gradient, state.trainable, state.rest, *first, count)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[1][0]))
        return jax.lax.scan(body, (*zeros, state.rest), split)[0]

    return step


def trace_step(
    update: Callable, state: TrainState, batch_shapes: dict[str, jax.ShapeDtypeStruct], mesh: Mesh, jit: Callable
) -> jax.stages.Traced:
    """The update for states and batches that lie on a mesh: `.lower().compile()` makes the program of it.

    Args:
      update: from `make_train_step`.
      state: arrays on the mesh, or their shapes with shardings.
      batch_shapes: of the global batch.
      mesh: all devices.
      jit: `jax.jit`, or one with compiler options.
    """
    split, whole = sharding.split_batch(mesh), sharding.replicated(mesh)
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=split), batch_shapes)
    rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    kept = jax.tree.map(lambda a: a.sharding, state), whole
    with jax.set_mesh(mesh):
        return jit(update, donate_argnums=0, out_shardings=kept).trace(state, batch, rate)
