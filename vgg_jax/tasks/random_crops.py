"""What all tasks of this package share: a fresh random crop of every example in every epoch (Sec. 3.1)."""

from __future__ import annotations

import collections
import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vgg_jax import sharding
from vgg_jax.config import eval_scale
from vgg_jax.data.augment import augment
from vgg_jax.data.open import open_source
from vgg_jax.data.pipeline import check_readable
from vgg_jax.data.sampler import Requests, Sampler
from vgg_jax.data.source import Source
from vgg_jax.data.statistics import IMAGENET, color_statistics
from vgg_jax.data.training_batches import TrainingBatches
from vgg_jax.errors import DataError
from vgg_jax.model.vgg import VGG
from vgg_jax.train.step import Metrics

if TYPE_CHECKING:
    from jaxtyping import Array, Float

log = logging.getLogger(__name__)


class RandomCrops(ABC):
    """A task on random crops; its subclasses say what is asked of the network, by `criterion` and `evaluate`.

    See `vgg_jax.train.task.Task` for what a task is.

    Args:
      config: the run's.
      mesh: all devices.
      workdir: the run's folder; the color statistics are kept in its `colors.json`.
      source, validation_source: the images.
      outputs: channels of the network's last layer.
      corners: float (len(source), 4), of a box in each example; the batches then have `boxes`.

    Attributes:
      targets: what the criterion is given of an example beside the outputs: {name: (shape, dtype)}.

    Raises:
      DataError: no image of `validation_source` can be read, or the color statistics cannot be computed.
    """

    monitor: str

    def __init__(
        self,
        config: ConfigDict,
        mesh: Mesh,
        workdir: Path,
        source: Source,
        validation_source: Source,
        outputs: int,
        corners: Float[np.ndarray, "n 4"] | None = None,
    ):
        data = config.data
        self.config, self.mesh, self.corners = config, mesh, corners
        self.source, self.validation_source = source, validation_source
        log.info("training on %s; validation on %s", source.describe(), validation_source.describe())
        _announce_evaluation(config)
        self.classes, self.outputs = source.classes, outputs
        _warn_of_shared_images(source, validation_source)
        self.reading = {"threads": data.threads, "on_error": data.on_error}
        check_readable(validation_source, eval_scale(config), **self.reading)  # not after the first 5,000 steps
        self.colors = IMAGENET
        if data.statistics == "computed":
            self.colors = color_statistics(source, cache=workdir / "colors.json", **self.reading)
        self.mean_rgb = self.colors.mean
        self.augment = functools.partial(
            augment,
            flip=data.flip,
            color_shift=data.color_shift,
            eigenvalues=jnp.asarray(self.colors.eigenvalues),
            eigenvectors=jnp.asarray(self.colors.eigenvectors),
        )
        self.problems = collections.ChainMap()
        self.targets = {"label": ((), jnp.int32)} | ({} if corners is None else {"boxes": ((4,), jnp.float32)})
        self.batch_shapes = self.shapes_with(image=((data.crop, data.crop, 3), jnp.uint8))

    @abstractmethod
    def criterion(self, outputs: Float[Array, "n h w c"], batch: dict[str, Array]) -> tuple[Array, Metrics]:
        """What is minimized, and metrics by name, each summed over the images whose mask is 1.

        Args:
          outputs: the network's.
          batch: `mask` and the `targets`, of the images as the network saw them.
        """

    @abstractmethod
    def evaluate(self, net: VGG) -> dict[str, float]:
        """As `Task.evaluate`."""

    def batches(self, net: VGG, start: int) -> TrainingBatches:
        """Random crops at random scales: `image` uint8 (n, crop, crop, 3), the `targets`, and `mask` (n,)."""
        del net
        rows = sharding.local_rows(self.mesh, self.config.train.batch_size)
        stream = self.crops(self._sampler(rows), start=start)
        self.problems.maps.append(stream.problems)
        return stream

    def images(self, k: int) -> list[str]:
        """The names of the images of batch k."""
        return list(map(self.source.name_of, self._sampler()(k).index.tolist()))

    def _sampler(self, rows: np.ndarray | None = None) -> Sampler:
        config = self.config
        return Sampler(
            len(self.source),
            batch_size=config.train.batch_size,
            scale=tuple(config.data.scale),
            seed=config.seed,
            rows=rows,
        )

    def crops(self, requests: Callable[[int], Requests], **span: int) -> TrainingBatches:
        """The crops that are asked for, with their targets; `span` is `start` and `stop`."""
        crop = self.config.data.crop
        return TrainingBatches(self.source, requests, crop=crop, corners=self.corners, **span, **self.reading)

    def loss(self, net: VGG, batch: dict[str, Array], keys: Array) -> tuple[Array, Metrics]:
        """The criterion of the augmented crops."""
        pixel_keys, dropout_keys = split_keys(keys)
        batch = self.augment(batch, pixel_keys)
        return self.criterion(net(batch["image"], keys=dropout_keys), batch)

    def preview(self, batch: dict[str, np.ndarray], keys: Array) -> tuple[np.ndarray, Sequence[str]]:
        """The crops, flipped and shifted in color, with their classes."""
        return self.shown(self.augment(batch, split_keys(keys)[0]))

    def shown(self, batch: dict[str, Array]) -> tuple[np.ndarray, Sequence[str]]:
        """Augmented crops and a title for each."""
        return np.asarray(batch["image"]), [self.classes[label] for label in batch["label"]]

    def shapes_with(self, **inputs: tuple[tuple[int, ...], jnp.dtype]) -> dict[str, jax.ShapeDtypeStruct]:
        """The arrays of a global batch: inputs by name, (shape of one, dtype); the targets; and the mask."""
        rows = inputs | self.targets | {"mask": ((), jnp.float32)}
        size = self.config.train.batch_size
        return {name: jax.ShapeDtypeStruct((size, *shape), dtype) for name, (shape, dtype) in rows.items()}


def split_keys(keys: Array) -> tuple[Array, Array]:
    """Two independent keys of each image's: for its pixels, and for the network's dropout."""
    pixels, dropout = jax.vmap(jax.random.split, out_axes=1)(keys)
    return pixels, dropout


def _announce_evaluation(config: ConfigDict) -> None:
    """Says before the training, not after, where --mode=evaluate lacks its split or another one stands in."""
    if config.evaluate.split != config.data.validation_split:
        try:
            source = open_source(config.data.source, config.evaluate.split)
        except DataError as error:
            log.warning("--mode=evaluate will need another config.evaluate.split: %s", error)
        else:
            if source.note:
                log.info("--mode=evaluate will be on %s", source.describe())


def _warn_of_shared_images(train: Source, validation: Source) -> None:
    """Warns of images that are both trained and validated on."""
    if common := validation.shared_with(train):
        log.warning(
            "%s of the %s images to validate on are trained on as well (splits %s and %s): the validation does not say "
            "how good the network is on images that are new to it",
            *(f"{common:,}", f"{len(validation):,}", train.split, validation.split),
        )
