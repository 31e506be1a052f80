"""The programs of a config, compiled from shapes alone for devices that are not here (Sec. 3.1, 3.2)."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vgg_jax import sharding
from vgg_jax.ahead.roofline import operations
from vgg_jax.config import eval_scale
from vgg_jax.data.augment import augment
from vgg_jax.data.statistics import IMAGENET
from vgg_jax.inference.buckets import rounded_up
from vgg_jax.inference.runner import PIXELS
from vgg_jax.inference.scorer import dense_posteriors
from vgg_jax.model.from_config import computation_dtype, new_network
from vgg_jax.tasks.classification import classification_loss
from vgg_jax.tasks.random_crops import split_keys
from vgg_jax.train.optimizer import krizhevsky_momentum
from vgg_jax.train.state import TrainState, new_state
from vgg_jax.train.step import Loss, make_train_step, trace_step


class Program(NamedTuple):
    """A function, traced for a mesh of devices."""

    name: str
    traced: jax.stages.Traced
    state: TrainState | nnx.State
    """Shapes and shardings of what it is given beside the images: a `TrainState`, or a network's arrays."""
    images: int
    """Of one call, over all devices."""
    side: tuple[int, int]
    """Height and width of an image in pixels."""
    operations: float
    """Additions and multiplications for an image, as its layers are defined."""

    def compile(self, platform: str) -> jax.stages.Compiled:
        """The program by the compiler of a platform: tpu, cuda or cpu."""
        return self.traced.lower(lowering_platforms=(platform,)).compile()


def training_step(config: ConfigDict, outputs: int, mesh: Mesh) -> Program:
    """The update of `vgg_jax.train.loop`, on random crops.

    Args:
      config: the run's.
      outputs: channels of the network's last layer.
      mesh: devices, which need not be here.

    Raises:
      ConfigError: the batch or the FC layers do not divide over the devices.
    """
    size, crop = config.train.batch_size, config.data.crop
    sharding.check_batch_size("config.train.batch_size", size, mesh.size, config.train.microbatches)
    optimizer = krizhevsky_momentum(config.train.momentum, config.train.weight_decay)
    structure, state = nnx.split(_network(config, outputs))
    # The structure of a network of shapes: nothing is allocated.
    graphdef = None

    def fresh(state: nnx.State):
        nonlocal graphdef
        graphdef, first = new_state(nnx.merge(structure, state), tuple(config.train.freeze), optimizer)
        return first

    state = _placed(jax.eval_shape(fresh, state), mesh, zero=config.mesh.zero)
    update = make_train_step(
        graphdef, _loss(config), optimizer, seed=config.seed, microbatches=config.train.microbatches
    )
    batch = {
        "image": jax.ShapeDtypeStruct((size, crop, crop, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((size,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((size,), jnp.float32),
    }
    traced, side = trace_step(update, state, batch, mesh, jax.jit), (crop, crop)
    return Program("training step", traced, state, size, side, operations(config, outputs, side, training=True))


def dense_evaluation(config: ConfigDict, outputs: int, mesh: Mesh) -> Program:
    """Posteriors of whole images at the scale Q of the validation, 3 : 4 as most photographs are, in full buckets."""
    mesh = Mesh(mesh.devices.reshape(-1), (sharding.DATA,))
    scale = eval_scale(config)
    height, width = rounded_up(scale), rounded_up(scale * 4 // 3)
    pixels = config.evaluate.batch_size * config.data.crop**2 or mesh.size * PIXELS["accelerator"]
    images = max(1, round(pixels / (height * width * mesh.size))) * mesh.size
    graphdef, state = nnx.split(_network(config, outputs))
    function = functools.partial(dense_posteriors, flip=config.data.flip)
    split = sharding.split_batch(mesh)
    state = _placed(state, mesh)
    traced = jax.jit(lambda state, images, sizes: function(nnx.merge(graphdef, state), images, sizes)).trace(
        state,
        jax.ShapeDtypeStruct((images, height, width, 3), jnp.uint8, sharding=split),
        jax.ShapeDtypeStruct((images, 2), jnp.int32, sharding=split),
    )
    counted = operations(config, outputs, (height, width), training=False) * (2 if config.data.flip else 1)
    return Program("dense evaluation", traced, state, images, (height, width), counted)


def _network(config: ConfigDict, outputs: int) -> nnx.Module:
    """The network, of shapes instead of arrays."""
    net = nnx.eval_shape(lambda: new_network(config, outputs, computation_dtype(config, "accelerator")))
    net.conv = "lax"  # "auto" asks for the backend that is here
    return net


def _placed(tree, mesh: Mesh, **how):
    """Shapes with the shardings that `vgg_jax.sharding` gives them."""
    place = lambda a, where: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where)
    return jax.tree.map(place, tree, sharding.state_shardings(tree, mesh, **how))


def _loss(config: ConfigDict) -> Loss:
    """The classification's; colors of ImageNet stand in for the training set's, which are constants too."""
    shift = functools.partial(
        augment,
        flip=config.data.flip,
        color_shift=config.data.color_shift,
        eigenvalues=np.float32(IMAGENET.eigenvalues),
        eigenvectors=np.float32(IMAGENET.eigenvectors),
    )

    def loss(net, batch, keys):
        pixels, dropout = split_keys(keys)
        return classification_loss(net(shift(batch, pixels)["image"], keys=dropout), batch)

    return loss
