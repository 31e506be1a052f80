"""Localization: regression of the box of an object in random crops (App. A).

A box is learned whole, also where a crop shows a part of it only. Of a crop that shows less than half of it, the object
is lost: it counts for nothing in the loss, but among the images over which the loss is a mean, and is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict
from PIL import Image, ImageDraw

from vgg_jax.config import eval_scale
from vgg_jax.data.boxes import from_window, iou, visible
from vgg_jax.data.objects import EachObject, checked
from vgg_jax.data.open import open_source
from vgg_jax.data.source import Source
from vgg_jax.errors import DataError
from vgg_jax.evaluate.localization import CORRECT, by_image, overlaps, questions
from vgg_jax.inference.central_boxes import CentralBoxes
from vgg_jax.model.box_outputs import boxes_of, outputs_of
from vgg_jax.model.vgg import VGG
from vgg_jax.progress import Progress
from vgg_jax.tasks.random_crops import RandomCrops
from vgg_jax.train.step import Metrics

if TYPE_CHECKING:
    from jaxtyping import Array, Float

SEEN = 0.5
"""The part of an object that a crop must show to be trained on, as in OverFeat."""

_WINDOW = np.array([0.0, 0, 1, 1], np.float32)


class Localization(RandomCrops):
    """The box of every object, and how many objects are found in the validation split.

    Args:
      config: the run's.
      mesh: all devices.
      workdir: the run's folder; the color statistics are kept in its `colors.json`.

    Raises:
      DataError: the source or a split of it is not there or has no boxes, or its color statistics cannot be computed.
    """

    monitor = "localized"

    def __init__(self, config: ConfigDict, mesh: Mesh, workdir: Path):
        data = config.data
        source, validation_source = (boxed_source(config, s) for s in (data.train_split, data.validation_split))
        each = EachObject(source)
        boxes = len(each.classes) if config.localization.per_class else 1
        super().__init__(config, mesh, workdir, each, validation_source, 4 * boxes, each.objects.corners)
        self._boxes: CentralBoxes | None = None

    def criterion(self, outputs: Float[Array, "n h w channels"], batch: dict[str, Array]) -> tuple[Array, Metrics]:
        """`localization_loss`."""
        return localization_loss(outputs, batch)

    def evaluate(self, net: VGG) -> dict[str, float]:
        """Protocol 1 on the validation split: the box of the true class in the central crop.

        Returns:
          Over every class of every image: `localized`, how often the box is right, and its mean `iou`, with the object
          of that class that it overlaps most; and `images`, how many were counted. Difficult objects do not count.

        Raises:
          DataError: an image cannot be read, or none can.
        """
        config, source = self.config, self.validation_source
        if self._boxes is None:  # its program is compiled once
            size = config.evaluate.batch_size or None
            self._boxes = CentralBoxes(net, eval_scale(config), config.data.flip, batch_size=size)
        self._boxes.runner.use(nnx.state(net))
        asked = questions(source.objects)
        of_image, found = by_image(asked), np.full(len(asked), -1.0)  # -1 is not known here
        indices = [*of_image][jax.process_index() :: jax.process_count()]
        progress, problems = Progress("validation"), {}
        predictions = self._boxes(source, indices, problems, **self.reading)
        for done, (index, boxes) in enumerate(predictions, start=1):
            for number in of_image[index]:
                own = boxes[asked[number].label if len(boxes) > 1 else 0]
                found[number] = overlaps(asked[number], own[None])[0]
            progress(done, len(indices) - len(problems))
        progress.clear()
        self.problems |= problems
        found = np.reshape(multihost_utils.process_allgather(found), (-1, len(found))).max(0)
        known = np.flatnonzero(found >= 0)
        if not len(known):
            raise DataError(f"{source.describe()}: no image could be read, there is nothing to evaluate on")
        return {
            "localized": float((found[known] > CORRECT).mean()),
            "iou": float(found[known].mean()),
            "images": float(len({asked[number].image for number in known})),
        }

    def shown(self, batch: dict[str, Array]) -> tuple[np.ndarray, Sequence[str]]:
        """Augmented crops with their boxes, and a title for each."""
        images, titles = super().shown(batch)
        corners = from_window(np.asarray(batch["boxes"]), _WINDOW) * images.shape[1]
        return np.stack([_outlined(image, edges) for image, edges in zip(images, corners, strict=True)]), titles


def localization_loss(outputs: Float[Array, "n h w channels"], batch: dict[str, Array]) -> tuple[Array, Metrics]:
    """The Euclidean loss 1/2 |p - t|^2 of the box of the true class, in the units of `vgg_jax.model.box_outputs`.

    Args:
      outputs: maps of outputs, which are averaged over their places.
      batch: `label` (n,) int32, `boxes` (n, 4) float32 relative to the crop, and `mask` (n,) float32.

    Returns:
      Summed over the images whose mask is 1: the loss; and beside it `iou`; `localized`, how many boxes are right; and
      `lost`, how many crops show less than half of their object. These add to `lost` alone.
    """
    outputs, corners = outputs.mean((1, 2)), from_window(jnp.asarray(batch["boxes"]), _WINDOW)
    each = outputs.reshape(len(outputs), -1, 4)
    number = batch["label"] if each.shape[1] > 1 else jnp.zeros_like(batch["label"])
    own = jnp.take_along_axis(each, number[:, None, None], 1)[:, 0]
    seen = visible(corners, _WINDOW) >= SEEN
    errors = 0.5 * ((own - outputs_of(batch["boxes"][:, None])) ** 2).sum(1)
    overlap = iou(from_window(boxes_of(own)[:, 0], _WINDOW), corners)
    counted = batch["mask"] * seen
    metrics = {
        "loss": errors * counted,
        "iou": overlap * counted,
        "localized": (overlap > CORRECT) * counted,
        "lost": batch["mask"] * ~seen,
    }
    sums = {name: values.sum() for name, values in metrics.items()}
    return sums["loss"], sums


def boxed_source(config: ConfigDict, split: str) -> Source:
    """A split of `config.data.source`, whose images have boxes, checked against the images as
    `config.data.on_error` says.

    Raises:
      DataError: there is no such source, or it has none; or a box does not lie in its image.
    """
    name = config.data.source
    source = open_source(name, split)
    if source.objects is None:
        raise DataError(
            f"config.data.source={name!r} has no boxes, and config.task='localization' needs them: use a source that "
            "has, such as voc:PATH, or config.task='classification'"
        )
    source = checked(source, on_error=config.data.on_error)
    if source.objects.difficult.all():
        raise DataError(f"{source.describe()}: there is no object, or none that is not difficult")
    return source


def _outlined(image: Float[np.ndarray, "h w 3"], corners: Float[np.ndarray, 4]) -> np.ndarray:
    """An image with a box drawn over it."""
    picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    ImageDraw.Draw(picture).rectangle(corners.tolist(), outline="lime", width=max(1, picture.width // 64))
    return np.asarray(picture)
