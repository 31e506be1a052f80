"""Localization's criterion: a box is right whose IoU with an object of its class is above 0.5 (App. A).

What counts is every class of every image: in ILSVRC an image has one. Any of the objects of that class may be met, and
what VOC calls difficult does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vgg_jax.data.boxes import iou
from vgg_jax.data.source import Objects

if TYPE_CHECKING:
    from jaxtyping import Float, Int

CORRECT = 0.5
"""The IoU above which a box is right."""

TOP = 5
"""The most probable classes of an image, which have a box."""


class Question(NamedTuple):
    """A class that is to be found in an image."""

    image: int
    """Its position in the source."""
    label: int
    corners: Float[np.ndarray, "m 4"]
    """Of the objects of that class."""


def questions(objects: Objects) -> list[Question]:
    """Every class of every image that has an object that is not difficult, by image and class."""
    counted = ~objects.difficult
    pairs, corners = np.column_stack([objects.image, objects.label])[counted], objects.corners[counted]
    order = np.lexsort(pairs.T[::-1])
    pairs, first = np.unique(pairs[order], axis=0, return_index=True)
    return [Question(*pair, of) for pair, of in zip(pairs.tolist(), np.split(corners[order], first[1:]))]


def by_image(asked: Sequence[Question]) -> dict[int, list[int]]:
    """The numbers of the questions about each image, as `questions` gives them.

    >>> nowhere = np.zeros((0, 4))
    >>> by_image([Question(0, 2, nowhere), Question(0, 3, nowhere), Question(7, 2, nowhere)])
    {0: [0, 1], 7: [2]}
    """
    numbers: dict[int, list[int]] = {}
    for number, question in enumerate(asked):
        numbers.setdefault(question.image, []).append(number)
    return numbers


def overlaps(
    question: Question, boxes: Float[np.ndarray, "k 4"], labels: Int[np.ndarray, " k"] | None = None
) -> Float[np.ndarray, " k"]:
    """The IoU of each box with the object that it overlaps most; 0 where the label is wrong.

    Args:
      question: the class to be found.
      boxes: corners.
      labels: what the boxes are said to be; None where the label was given.

    >>> asked = Question(0, 7, np.array([[0.0, 0, 2, 2], [2, 0, 4, 2]]))
    >>> overlaps(asked, np.array([[2.0, 0, 4, 4], [2, 0, 4, 2]]), np.array([7, 3])).tolist()
    [0.5, 0.0]
    """
    best = iou(boxes[:, None], question.corners).max(1)
    return best if labels is None else best * (labels == question.label)


def localization_error(found: Sequence[Float[np.ndarray, " k"]], top: int = TOP) -> float:
    """The error in %: how often none of the first `top` boxes is right.

    Args:
      found: the `overlaps` of each question, the most probable class first.
      top: 5 or 1.
    """
    return 100 * float(np.mean([not (each[:top] > CORRECT).any() for each in found]))


def accuracy_curve(best: Float[np.ndarray, " n"], thresholds: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """The fraction of questions whose best overlap is above each threshold.

    >>> accuracy_curve(np.array([0.2, 0.6, 0.8]), np.array([0.0, 0.5, 0.7])).round(2).tolist()
    [1.0, 0.67, 0.33]
    """
    return (best[:, None] > thresholds).mean(0)


def save_curves(path: Path, best: dict[str, Float[np.ndarray, " n"]]) -> None:
    """Draws the accuracy over the IoU that a right box must have, a curve for each name.

    Args:
      path: of the PNG.
      best: the best overlap of each question.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    thresholds = np.linspace(0, 1, 101)
    for name, values in best.items():
        axes.plot(thresholds, 100 * accuracy_curve(values, thresholds), label=name)
    axes.axvline(CORRECT, color="gray", linewidth=0.8, linestyle="dotted")
    axes.set(xlabel="IoU above which a box is right", ylabel="right, %", xlim=(0, 1), ylim=(0, 100))
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
