"""The paper's input: a fresh random crop of every image in every epoch (Sec. 3.1)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vgg_jax.data.augment import augment
from vgg_jax.data.source import Source
from vgg_jax.data.statistics import ColorStatistics
from vgg_jax.model.vgg import VGG


class Crops:
    """Crops from the host, flipped and shifted in colour on the device; see `vgg_jax.train.loop.Inputs`.

    Args:
      config: the run's.
      source: the training images.
      colors: their principal colours.
    """

    def __init__(self, config: ConfigDict, source: Source, colors: ColorStatistics):
        self._config, self._source = config, source
        self.augment = augmentation(config, colors)
        size, crop = config.train.batch_size, config.data.crop
        self.batch = {
            "image": jax.ShapeDtypeStruct((size, crop, crop, 3), jnp.uint8),
            "label": jax.ShapeDtypeStruct((size,), jnp.int32),
            "mask": jax.ShapeDtypeStruct((size,), jnp.float32),
        }

    def remaining(self, net: VGG) -> VGG:
        """The whole net."""
        return net

    def stream(self, net: VGG, start: int):
        """The batches from the `start`-th on."""
        from vgg_jax.data.train_stream import TrainStream

        config = self._config
        return TrainStream(
            self._source,
            batch_size=config.train.batch_size,
            crop=config.data.crop,
            scale=tuple(config.data.scale),
            seed=config.seed,
            start=start,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            threads=config.data.threads,
            on_error=config.data.on_error,
        )

    def first_seen(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """The crops, augmented."""
        return self.augment(images, keys)


def augmentation(config: ConfigDict, colors: ColorStatistics) -> functools.partial:
    """`augment` as the config has it: a function of images and keys."""
    return functools.partial(
        augment,
        flip=config.data.flip,
        color_shift=config.data.color_shift,
        eigenvalues=jnp.asarray(colors.eigenvalues),
        eigenvectors=jnp.asarray(colors.eigenvectors),
    )
