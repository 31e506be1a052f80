"""Whole images rescaled isotropically, and how large they become (Sec. 3.1, 3.2).

Sizes take no package, and neither does an image that is at its scale already; Pillow is imported for the others alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from vgg_jax.errors import DataError

MAX_PIXELS = 2**22
"""The most pixels of one rescaled image: 2048 x 2048. Net D's activations of one stage take a gigabyte there."""


class ScaledExample(NamedTuple):
    """An example of a source, rescaled."""

    index: int
    """Its position in the source."""
    label: int
    images: tuple[np.ndarray, ...]
    """RGB uint8 (height, width, 3), one for each scale; none if it could not be read."""
    problem: str
    """Why it could not be read, or ""."""
    size: tuple[int, int] = (0, 0)
    """Height and width of the image as it was decoded, in pixels."""


def rescaled_size(height: int, width: int, smaller_side: int) -> tuple[int, int]:
    """Size of an image rescaled isotropically (S in Sec. 3.1, Q in Sec. 3.2).

    Args:
      height, width: the image's size in pixels.
      smaller_side: what its smaller side becomes, in pixels.

    Returns:
      (height, width) in pixels, rounded half up; the smaller one is exactly `smaller_side`.

    >>> rescaled_size(375, 500, 256)
    (256, 341)
    """
    smaller = min(height, width)
    # In integers: a float's floor(x + 1/2) would round some exact halves down.
    return tuple((2 * side * smaller_side + smaller) // (2 * smaller) for side in (height, width))


def check_rescaled_size(height: int, width: int, scales: Iterable[int]) -> None:
    """Refuses an image that takes too much memory at one of the scales, before it is rescaled.

    Raises:
      DataError: it is too elongated.
    """
    for scale in scales:
        rows, columns = rescaled_size(height, width, scale)
        if rows * columns > MAX_PIXELS:
            raise DataError(
                f"{height} x {width} pixels are too elongated: at the test scale Q = {scale} they are "
                f"{rows} x {columns}, and {MAX_PIXELS:,} is the most; crop the image, or use a smaller test scale"
            )


def rescale(image: np.ndarray, smaller_side: int) -> np.ndarray:
    """A whole image rescaled isotropically (Q in Sec. 3.2).

    Args:
      image: RGB uint8 (height, width, 3).
      smaller_side: Q in pixels. A smaller image is enlarged.

    Returns:
      RGB uint8, of the size that `rescaled_size` says.
    """
    height, width = rescaled_size(*image.shape[:2], smaller_side)
    if (height, width) == image.shape[:2]:
        return image
    from vgg_jax.data._pillow import Image

    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
