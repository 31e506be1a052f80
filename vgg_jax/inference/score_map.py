"""The class-score map of one image (Sec. 3.2): dense evaluation gives it for free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.sharding import Mesh

from vgg_jax import sharding
from vgg_jax.inference.arrays import check_net, check_scales, scaled_arrays
from vgg_jax.inference.buckets import ScaledImage
from vgg_jax.inference.runner import Maps, Runner
from vgg_jax.model.vgg import VGG

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt8


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
