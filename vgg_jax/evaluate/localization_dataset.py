"""Networks that localize, on a source: what they see there by both protocols, and how often they are right (App. A).

Every image is read by one process, and each knows in the end what all have found out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from vgg_jax.config import eval_scale, eval_scales
from vgg_jax.data.decode import decode
from vgg_jax.data.pipeline import scaled_images
from vgg_jax.data.source import Source
from vgg_jax.errors import DataError
from vgg_jax.evaluate.gallery import Shown, spread
from vgg_jax.evaluate.localization import TOP, by_image, overlaps, questions
from vgg_jax.inference.central_boxes import CentralBoxes
from vgg_jax.inference.dense_boxes import Classifier, DenseBoxes, PlacedBoxes, joined
from vgg_jax.inference.localization import Asked, best_boxes
from vgg_jax.model.vgg import VGG
from vgg_jax.progress import Progress

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class DatasetBoxes(NamedTuple):
    """What a network sees in this process's images."""

    net: VGG
    """The network without its parameters."""
    central: dict[int, Float[np.ndarray, 4]]
    """By protocol 1, by the number of the question: the box of its class."""
    dense: dict[int, dict[int, PlacedBoxes]]
    """By protocol 2, by Q and image: all boxes of the classes that are asked for."""


class LocalizationDataset:
    """The questions about a source's images, and the answers that networks give by their boxes.

    Args:
      source: images with objects. Every class of every image is a question (`vgg_jax.evaluate.localization`).
      posteriors: of the source's classes in each image, by a network that classifies; without them labels are given.
      problems: why images have no posteriors, {name: reason}; they are left out.

    Attributes:
      problems: also what could not be read since.
    """

    def __init__(
        self, source: Source, posteriors: Float[np.ndarray, "images classes"] | None, problems: dict[str, str]
    ):
        self.source, self.posteriors, self.problems = source, posteriors, dict(problems)
        self._questions = questions(source.objects)
        self._of_image = by_image(self._questions)
        images = [image for image in self._of_image if source.name_of(image) not in problems]
        self._asked = {image: self._asked_of(image) for image in images[jax.process_index() :: jax.process_count()]}

    def _asked_of(self, image: int) -> Asked:
        """The five most probable classes of an image, and behind them those that are in it."""
        inside = [self._questions[number].label for number in self._of_image[image]]
        if self.posteriors is None:
            return Asked(np.array(inside), np.ones(len(inside)))
        row = self.posteriors[image]
        best = np.argsort(-row, kind="stable")[:TOP]
        classes = np.array([*best, *(label for label in inside if label not in best)])
        return Asked(classes, row[classes])

    def boxes(
        self, net: VGG, config: ConfigDict, outputs: Int[np.ndarray, " classes"], classifier: Classifier | None
    ) -> DatasetBoxes:
        """What a network sees.

        Args:
          net: the network.
          config: at which Q it is evaluated, and how images are read.
          outputs: which of the network's boxes are those of the source's classes; one for all classes is each one's.
          classifier: what rates the windows of protocol 2.

        Raises:
          ConfigError: a scale is smaller than the net's crop, or the classifier's crop is another.
          DataError: an image cannot be read, or none can.
        """
        images, scale, flip = [*self._asked], eval_scale(config), config.data.flip
        reading = {"threads": config.data.threads, "on_error": config.data.on_error}
        size = config.evaluate.batch_size or None
        options = {"outputs": outputs, "classifier": classifier, "batch_size": size}
        scales = dict.fromkeys((scale, *eval_scales(config)))
        at_places = {q: DenseBoxes([net], (q,), flip, **options) for q in scales}
        crops = CentralBoxes(net, scale, flip, batch_size=size)
        central = {
            number: boxes[outputs[self._questions[number].label] if len(boxes) > 1 else 0]
            for image, boxes in crops(self.source, images, self.problems, **reading)
            for number in self._of_image[image]
        }
        dense, classes = {}, {image: asked.classes for image, asked in self._asked.items()}
        for q, boxes_of in at_places.items():
            unread, progress = {}, Progress(f"boxes, Q={q}")
            examples = lambda q=q: scaled_images(self.source, images, (q,), **reading)
            dense[q] = boxes_of(examples, classes, unread, progress)
            progress.clear()
            self.problems |= {self.source.name_of(image): reason for image, reason in unread.items()}
        return DatasetBoxes(crops.runner.net, central, dense)

    def central_overlaps(self, boxes: DatasetBoxes) -> Float[np.ndarray, " known"]:
        """By protocol 1, the overlap of the box of the true class; of the questions that could be answered.

        Raises:
          DataError: there are none.
        """
        found = np.full((len(self._questions), 1), -1.0)
        for number, box in boxes.central.items():
            found[number] = overlaps(self._questions[number], box[None])
        return self._known(found)[:, 0]

    def dense_overlaps(
        self, parts: Sequence[dict[int, PlacedBoxes]], *, match: str, threshold: float
    ) -> tuple[Float[np.ndarray, " known"], Float[np.ndarray, "known 5"] | None]:
        """By protocol 2, the overlaps of the boxes with the label given, and of the boxes of the most probable classes.

        Args:
          parts: the dense boxes of one or several networks at one or several Q, which are merged.
          match, threshold: as in `vgg_jax.inference.merge.merge`.

        Returns:
          Of the questions that could be answered; the latter is None where there are no posteriors.

        Raises:
          DataError: there are none.
        """
        found = np.full((len(self._questions), 1 + TOP), -1.0)
        for image, asked in self._asked.items():
            if not all(image in part for part in parts):
                continue
            placed = joined([part[image] for part in parts])
            answer = best_boxes(placed, asked, match=match, threshold=threshold)
            for number in self._of_image[image]:
                question = self._questions[number]
                given = overlaps(question, answer.corners[answer.classes == question.label])
                guessed = overlaps(question, answer.corners[:TOP], answer.classes[:TOP])
                found[number] = np.pad([*given, *guessed], (0, TOP - len(guessed)))
        found = self._known(found)
        return found[:, 0], None if self.posteriors is None else found[:, 1:]

    def gallery(self, boxes: DatasetBoxes) -> list[Shown]:
        """Some of this process's images with the boxes of protocol 1, from the best to the worst."""
        numbers = sorted(boxes.central)
        best = np.array([overlaps(self._questions[number], boxes.central[number][None])[0] for number in numbers])
        shown = []
        for place in spread(best):
            question = self._questions[numbers[place]]
            pixels = decode(self.source[question.image]["image"])
            shown.append(Shown(pixels, question.corners, boxes.central[numbers[place]], float(best[place])))
        return shown

    def _known(self, found: Float[np.ndarray, "questions k"]) -> Float[np.ndarray, "known k"]:
        """What all processes found out, each about its images: -1 where it does not know."""
        found = np.reshape(multihost_utils.process_allgather(found), (-1, *found.shape)).max(0)
        known = found[:, 0] >= 0
        for question in itertools.compress(self._questions, ~known):  # why is known to the process that read it
            self.problems.setdefault(self.source.name_of(question.image), "could not be read")
        if not known.any():
            raise DataError(f"{self.source.describe()}: no image could be read, there is nothing to evaluate on")
        return found[known]
