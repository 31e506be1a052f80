"""Classification: multinomial logistic regression on the class scores of random crops (Sec. 3.1)."""

from __future__ import annotations

import collections
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from vgg_jax.config import eval_scale
from vgg_jax.data.augment import augment
from vgg_jax.data.open import open_source
from vgg_jax.data.pipeline import TrainingBatches, check_readable
from vgg_jax.data.sampler import Sampler
from vgg_jax.data.source import Source
from vgg_jax.data.statistics import IMAGENET, color_statistics
from vgg_jax.errors import DataError
from vgg_jax.evaluate.dataset import evaluate_dataset
from vgg_jax.evaluate.metrics import hits, summary, warn_of_few_classes
from vgg_jax.inference.runner import Runner
from vgg_jax.inference.scorer import eval_views, posterior_runner
from vgg_jax.model.vgg import VGG
from vgg_jax.progress import Progress

log = logging.getLogger(__name__)


class Classification:
    """A fresh random crop of every image in every epoch, its class, and the error on the validation split.

    See `vgg_jax.train.task.Task` for what a task is.

    Args:
      config: the run's.
      mesh: all devices.
      workdir: the run's folder; the color statistics are kept in its `colors.json`.

    Raises:
      DataError: the source or a split of it is not there, or its color statistics cannot be computed.
    """

    monitor = "top1"

    def __init__(self, config: ConfigDict, mesh: Mesh, workdir: Path):
        del mesh
        data = config.data
        self._config = config
        self.source = open_source(data.source, data.train_split)
        self._validation_source = open_source(data.source, data.validation_split)
        log.info("training on %s; validation on %s", self.source.describe(), self._validation_source.describe())
        _announce_evaluation(config)
        self.classes, self.outputs = self.source.classes, len(self.source.classes)
        warn_of_few_classes(self.outputs)
        self._reading = {"threads": data.threads, "on_error": data.on_error}
        _check_sources(self.source, self._validation_source)
        check_readable(self._validation_source, eval_scale(config), **self._reading)  # not after the first 5,000 steps
        self._colors = IMAGENET
        if data.statistics == "computed":
            self._colors = color_statistics(self.source, cache=workdir / "colors.json", **self._reading)
        self.mean_rgb = self._colors.mean
        self._augment = functools.partial(
            augment,
            flip=data.flip,
            color_shift=data.color_shift,
            eigenvalues=jnp.asarray(self._colors.eigenvalues),
            eigenvectors=jnp.asarray(self._colors.eigenvectors),
        )
        self._views = eval_views([config.evaluate.validation], [eval_scale(config)])
        self._runner: Runner | None = None
        self.problems = collections.ChainMap()
        self.batch_shapes = batch_shapes(config.train.batch_size, image=((data.crop, data.crop, 3), jnp.uint8))

    def batches(self, net: VGG, start: int) -> Iterator[dict[str, np.ndarray]]:
        """Random crops at random scales: `image` uint8 (n, crop, crop, 3), `label` and `mask` (n,)."""
        del net
        config = self._config
        sampler = Sampler(
            len(self.source),
            batch_size=config.train.batch_size,
            crop=config.data.crop,
            scale=tuple(config.data.scale),
            seed=config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        stream = TrainingBatches(self.source, sampler, crop=config.data.crop, start=start, **self._reading)
        self.problems.maps.append(stream.problems)
        return stream

    def loss(self, net: VGG, batch: dict[str, Array], keys: Array) -> tuple[Array, dict[str, Array]]:
        """`classification_loss` of the augmented crops."""
        pixel_keys, dropout_keys = split_keys(keys)
        scores = net(self._augment(batch, pixel_keys)["image"], keys=dropout_keys)
        return classification_loss(scores, batch)

    def evaluate(self, net: VGG) -> dict[str, float]:
        """`loss`, `top1` and `top5` on the validation split, and `images`, how many were counted.

        Raises:
          DataError: an image cannot be read, or none can.
        """
        if self._runner is None:  # its programs are compiled once
            config = self._config
            size = config.evaluate.batch_size or None
            self._runner = posterior_runner(net, self._views, config.data.flip, batch_size=size)
        self._runner.use(nnx.state(net))
        progress = Progress("validation")
        predictions = evaluate_dataset(
            self._runner, self._validation_source, self._views, progress=progress, **self._reading
        )
        progress.clear()
        self.problems |= predictions.problems
        return summary(np.mean(list(predictions.posteriors.values()), axis=0), predictions.labels)

    def preview(self, batch: dict[str, np.ndarray], keys: Array) -> tuple[np.ndarray, Sequence[str]]:
        """The crops, flipped and shifted in color, with their classes."""
        shown = self._augment(batch, split_keys(keys)[0])
        return np.asarray(shown["image"]), [self.classes[label] for label in batch["label"]]


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


def _check_sources(train: Source, validation: Source) -> None:
    """Refuses a source of one class, and warns of images that are both trained and validated on.

    Raises:
      DataError: there is nothing to tell apart.
    """
    if len(train.classes) < 2:
        raise DataError(
            f"{train.describe()}: there is nothing to tell {train.classes[0]!r} from; the classes of a folder are the "
            "folders directly in it, or in its train/"
        )
    if common := validation.shared_with(train):
        log.warning(
            "%s of the %s images to validate on are trained on as well (splits %s and %s): the validation does not say "
            "how good the network is on images that are new to it",
            *(f"{common:,}", f"{len(validation):,}", train.split, validation.split),
        )


def classification_loss(
    scores: Float[Array, "n h w classes"], batch: dict[str, Array]
) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy of the soft-max, top-1 and top-5 hits, each summed over the images whose mask is 1.

    Args:
      scores: maps of class scores, which are averaged over their places.
      batch: `label` (n,) int32 and `mask` (n,) float32.
    """
    scores = scores.mean((1, 2))
    entropy = optax.softmax_cross_entropy_with_integer_labels(scores, batch["label"])
    total = (entropy * batch["mask"]).sum()
    return total, {"loss": total, **hits(scores, batch["label"], batch["mask"])}


def batch_shapes(size: int, **inputs: tuple[tuple[int, ...], jnp.dtype]) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays of a global batch: of inputs by name, (shape of one, dtype); and of labels and mask."""
    rows = inputs | {"label": ((), jnp.int32), "mask": ((), jnp.float32)}
    return {name: jax.ShapeDtypeStruct((size, *shape), dtype) for name, (shape, dtype) in rows.items()}


def split_keys(keys: Array) -> tuple[Array, Array]:
    """Two independent keys of each image's: for its pixels, and for the network's dropout."""
    pixels, dropout = jax.vmap(jax.random.split, out_axes=1)(keys)
    return pixels, dropout
