"""Pictures of predicted boxes over their image, and of all dense boxes before and after merging (App. A)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vgg_jax.files import printable
from vgg_jax.inference.pictures import save_picture

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

BOXES = "boxes"
"""The kind of these pictures."""

_COLORS = ("lime", "deepskyblue", "orange", "magenta", "yellow")


def save_box_picture(
    path: Path,
    image: UInt8[np.ndarray, "h w 3"],
    panels: dict[str, Sequence[tuple[str, Float[np.ndarray, "n 4"]]]],
    *,
    of: Path,
) -> None:
    """Writes a PNG: the image with boxes, once for each panel.

    Args:
      path: the file.
      image: RGB.
      panels: by title, names and their boxes, as corners in pixels of the image; each name has a color.
      of: the image's path.

    Raises:
      ConfigError: it cannot be written.
    """
    from matplotlib.figure import Figure

    height, width = image.shape[:2]
    figure = Figure(figsize=(5 * len(panels), 5 * height / width + 0.6), layout="constrained")
    for axes, (title, named) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        show_image(axes, image)
        for number, (name, boxes) in enumerate(named):
            color = _COLORS[number % len(_COLORS)]
            draw_boxes(axes, boxes, color, 2.5 if len(boxes) == 1 else 0.7)
            if len(boxes) == 1:
                corner = max(boxes[0][0], 0), max(boxes[0][1], 0)
                axes.text(*corner, printable(name), fontsize=8, backgroundcolor=color, va="top", parse_math=False)
        axes.set_title(printable(title), fontsize=9, parse_math=False)
        axes.set_axis_off()
    save_picture(path, figure, BOXES, of)


def show_image(axes, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Shows an image, and no more than it, in its pixels: corners lie between pixels."""
    height, width = image.shape[:2]
    axes.imshow(image, extent=(0, width, height, 0))
    axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)


def draw_boxes(axes, boxes: Float[np.ndarray, "n 4"], color: str, line: float) -> None:
    """Draws boxes, given by their corners, over `show_image`."""
    from matplotlib.patches import Rectangle

    for left, top, right, bottom in boxes:
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, linewidth=line))
