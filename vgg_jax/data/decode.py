"""From encoded bytes to the pixels of one crop, or of the whole image, with Pillow (Sec. 3.1, 3.2).

The paper rescales the whole image to smaller side S and cuts a window out of it. Here only the window is made: its
pixels are weighted means of a few pixels of the image, by Pillow's BILINEAR filter, a triangle that widens when the
image shrinks, so nothing aliases.

This is the fallback that has an answer to every image, and what arrays take; `vgg_jax.data.jpeg` does the same to plain
JPEGs in TensorFlow's graph. What becomes of the rest:

  palette, alpha      composited on white
  gray                the value repeated in R, G and B
  16-bit gray         scaled to 8 bits (v * 255 / 65535, rounded); 16-bit RGB keeps its high byte
  CMYK, YCCK          Pillow's plain conversion, without a color profile
  EXIF orientation    applied: the image stands upright
  animations          the first frame

The format is read from the bytes: a PNG named .JPEG (ImageNet has one) is a PNG.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from vgg_jax.data._pillow import ExifTags, Image, ImageOps, UnidentifiedImageError
from vgg_jax.data.rescaling import rescaled_size
from vgg_jax.errors import DataError

MAX_ENCODED_PIXELS = Image.MAX_IMAGE_PIXELS
"""89 million: Pillow's own limit. A larger image is a mistake or an attack, not a photograph."""


def crop(image: Image.Image, smaller_side: int, place: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A window of the isotropically rescaled image.

    Args:
      image: in RGB, of `upright`.
      smaller_side: S, at least `size`, in pixels. A smaller image is enlarged.
      place: in [0, 1), where the window lies in the free room, vertically and horizontally. Every window is equally
        wide in it; 0.5 is the center, rounded half up.
      size: side of the crop, in pixels.

    Returns:
      RGB uint8 (size, size, 3), and the window that it shows, in pixels of the image: float32 (4,), its top, left,
      height and width.
    """
    sides = image.height, image.width
    spans = []
    for side, rescaled, free in zip(sides, rescaled_size(*sides, smaller_side), place.tolist(), strict=True):
        ratio = side / rescaled
        first = int(free * (rescaled - size + 1)) * ratio
        spans.append((first, min(first + size * ratio, side)))
    (top, bottom), (left, right) = spans
    pixels = image.resize((size, size), Image.Resampling.BILINEAR, (left, top, right, bottom))
    return np.asarray(pixels), np.array([top, left, bottom - top, right - left], np.float32)


def decode(encoded: bytes) -> np.ndarray:
    """Decodes a whole image of any format; see the module for what is done with each.

    Returns:
      RGB uint8 (height, width, 3), upright.

    Raises:
      DataError: these bytes are no image, or a broken, truncated or absurdly large one. The message is the reason
        alone; the caller knows the file.
    """
    return np.asarray(upright(encoded))


def upright(encoded: bytes) -> Image.Image:
    """As `decode`, as an image of Pillow's."""
    if not encoded:
        raise DataError("the file is empty")
    with _opened(io.BytesIO(encoded)) as image:
        if image.width * image.height > MAX_ENCODED_PIXELS:
            raise DataError(f"{image.width} x {image.height} are more than {MAX_ENCODED_PIXELS:,} pixels")
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)


def size(file: BinaryIO) -> tuple[int, int]:
    """Height and width of the image that `decode` would give, from its header.

    Raises:
      DataError: it is no image.
    """
    with _opened(file) as image:
        lies = False
        with contextlib.suppress(Exception):  # a PNG has it behind the pixels: of a damaged one, `decode` says so
            lies = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return image.size if lies else image.size[::-1]


@contextlib.contextmanager
def _opened(file: BinaryIO) -> Iterator[Image.Image]:
    """An image whose pixels are not decoded yet; what its parser raises becomes a DataError."""
    try:
        with Image.open(file) as image:
            yield image
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError("not an image in a known format") from error
    except Exception as error:  # a damaged file can make Pillow's parsers raise nearly anything
        raise DataError(f"damaged or unreadable: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise DataError(f"pixels of mode {image.mode} have no known range; store the image with 8 or 16 bits")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
