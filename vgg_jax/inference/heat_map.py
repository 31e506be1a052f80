"""The picture of a class-score map over its image (Sec. 3.2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vgg_jax.data.rescaling import rescale
from vgg_jax.files import printable
from vgg_jax.inference.pictures import save_picture
from vgg_jax.inference.score_map import class_score_map, map_extent
from vgg_jax.model.vgg import VGG

if TYPE_CHECKING:
    from jaxtyping import UInt8

HEAT_MAP = "heat map"
"""The kind of these pictures."""


def save_heat_map(
    path: Path, net: VGG, image: UInt8[np.ndarray, "h w 3"], scale: int, number: int, *, of: Path
) -> None:
    """Writes a PNG: the image at a test scale, and over it the probability of one class at every place of the map.

    Args:
      path: the file.
      net, image, scale: as in `class_score_map`.
      number: of the class.
      of: the image's path.

    Raises:
      ConfigError: it cannot be written.
    """
    from matplotlib.figure import Figure

    heat = class_score_map(net, image, scale)[:, :, number]
    shown = rescale(image, scale)
    extent = map_extent(net, heat.shape)
    figure = Figure(figsize=(9, 4.5 * shown.shape[0] / shown.shape[1] + 0.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(shown)
    left.set_title(printable(of.stem), fontsize=9, parse_math=False)
    right.imshow(shown.mean(-1), cmap="gray", vmin=0, vmax=255)
    over = right.imshow(heat, extent=extent, cmap="inferno", alpha=0.6, vmin=0, vmax=1, interpolation="nearest")
    right.set(xlim=left.get_xlim(), ylim=left.get_ylim())
    name = printable(net.classes[number]) if net.classes else f"class {number}"
    title = f"{name}: {heat.shape[0]} x {heat.shape[1]} places at Q = {scale}"
    right.set_title(title, fontsize=9, parse_math=False)
    for axes in (left, right):
        axes.set_axis_off()
    figure.colorbar(over, ax=right, shrink=0.8, label="probability")
    save_picture(path, figure, HEAT_MAP, of)
