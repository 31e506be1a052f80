"""Ten images of an evaluation, from the best to the worst, with true and predicted boxes (App. A)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vgg_jax.inference.box_picture import draw_boxes, show_image

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

_MOST, _COLUMNS = 10, 5


class Shown(NamedTuple):
    """An image of the gallery; corners are in its pixels."""

    image: UInt8[np.ndarray, "h w 3"]
    objects: Float[np.ndarray, "m 4"]
    predicted: Float[np.ndarray, 4]
    overlap: float
    """The IoU of the predicted box with the object that it overlaps most."""


def spread(overlaps: Float[np.ndarray, " n"]) -> Int[np.ndarray, " k"]:
    """Which ten stand for all: the best, the worst, and as many on the way from the one to the other.

    >>> spread(np.array([0.2, 0.9, 0.5])).tolist()
    [1, 2, 0]
    """
    order = np.argsort(-overlaps, kind="stable")
    return order[np.linspace(0, len(order) - 1, min(_MOST, len(order))).round().astype(int)]


def save_gallery(path: Path, gallery: Sequence[Shown]) -> None:
    """Draws each image with the true boxes, green, and the predicted one, red.

    Args:
      path: of the JPEG.
      gallery: ten at most.
    """
    from matplotlib.figure import Figure

    rows = -(-len(gallery) // _COLUMNS)
    figure = Figure(figsize=(2.4 * _COLUMNS, 2.2 * rows), layout="constrained")
    for place, shown in enumerate(gallery, start=1):
        axes = figure.add_subplot(rows, _COLUMNS, place)
        show_image(axes, shown.image)
        draw_boxes(axes, shown.objects, "lime", 1.8)
        draw_boxes(axes, shown.predicted[None], "red", 1.8)
        axes.set_title(f"IoU {shown.overlap:.2f}", fontsize=9)
        axes.set_axis_off()
    figure.savefig(path, dpi=90, format="jpg", pil_kwargs={"quality": 85})
