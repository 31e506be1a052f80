"""The class-score map of one image, and its picture over the image (Sec. 3.2): dense evaluation gives it for free."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.sharding import Mesh

from vgg_jax import sharding
from vgg_jax.data.decode import rescale
from vgg_jax.files import printable
from vgg_jax.inference.arrays import check_net, check_scales, scaled_arrays
from vgg_jax.inference.buckets import ScaledImage
from vgg_jax.inference.pictures import save_picture
from vgg_jax.inference.runner import Maps, Runner
from vgg_jax.model.vgg import VGG

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt8

HEAT_MAP = "heat map"
"""The kind of its pictures."""


def class_score_map(net: VGG, image: UInt8[np.ndarray, "h w 3"], scale: int) -> Float[np.ndarray, "h2 w2 classes"]:
    """The map of posteriors of one image: the soft-max at every place of the class-score map (Sec. 3.2).

    Place (i, j) sees the square of the rescaled image that begins at (32 i, 32 j), as wide as the net's crop, and its
    surroundings.

    Args:
      net: the network.
      image: RGB uint8 (height, width, 3).
      scale: Q, what the image's smaller side is rescaled to, in pixels: at least the net's crop.

    Raises:
      ConfigError: the scale is smaller than the net's crop.
      DataError: the image is of another type or shape, or too elongated.
    """
    check_net(net)
    check_scales((scale,), net.crop)
    with scaled_arrays([image], (scale,), threads=1) as examples:
        ((rescaled,),) = (example.images for example in examples)
    device = Mesh(np.array(jax.local_devices()[:1]), (sharding.DATA,))
    runner = Runner(net, posterior_maps, smallest=net.crop, batch_size=1, mesh=device)
    ((_, outputs),) = runner([ScaledImage(None, rescaled)])
    return outputs["posteriors"]


def posterior_maps(net: VGG, images: UInt8[Array, "n h w 3"], sizes: Int[Array, "n 2"]) -> dict[str, Maps]:
    """The soft-max at every place of the class-score maps of images in the upper left corners of a bucket."""
    return {"posteriors": Maps(jax.nn.softmax(net(images, sizes=sizes)), net.map_sizes(sizes))}


def map_extent(net: VGG, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Where a class-score map is drawn over its rescaled image: the `extent` of Matplotlib's `imshow`, in pixels.

    A place is drawn as the 32 x 32 pixels in the middle of the crop that it sees.

    Args:
      net: the network.
      shape: of the map, (h2, w2) or more.

    Returns:
      left, right, bottom, top. Matplotlib draws pixel (0, 0) around that point, from -0.5.
    """
    edge, stride = (net.crop - net.spec.stride) / 2 - 0.5, net.spec.stride
    return edge, edge + stride * shape[1], edge + stride * shape[0], edge


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
