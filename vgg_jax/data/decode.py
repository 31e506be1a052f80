"""From encoded bytes to the pixels of one crop, or of the whole image at a scale (Sec. 3.1, 3.2).

The paper rescales the whole image to smaller side S and cuts a window out of it. Here only the window is ever made:
its pixels are weighted means of a few source pixels, so only those are decoded and only these means are taken, by
Pillow's BILINEAR filter: a triangle, which widens when the image shrinks, so nothing aliases. The result is Pillow's
resize-then-crop: of its values 99 in 100 are the same, and the others off by one, seldom two, grey levels.

Nearly every photograph is a plain JPEG, of which only the window is decoded. Anything else is decoded whole:

  palette, alpha      composited on white
  grey                the value repeated in R, G and B
  16-bit grey         scaled to 8 bits (v * 255 / 65535, rounded); 16-bit RGB keeps its high byte
  CMYK, YCCK          Pillow's plain conversion, without a colour profile
  EXIF orientation    applied: the image stands upright
  animations          the first frame

The format is read from the bytes: a PNG named .JPEG (ImageNet has one) is a PNG.
"""

import importlib
import io
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vgg_jax.data.jpeg_header import MAX_PIXELS, plain_jpeg_size
from vgg_jax.errors import DataError


def rescaled_size(height: int, width: int, smaller_side: int) -> tuple[int, int]:
    """Size of an image rescaled isotropically (S in Sec. 3.1, Q in Sec. 3.2).

    Args:
      height, width: the image's size in pixels.
      smaller_side: what its smaller side becomes, in pixels.

    Returns:
      (height, width) in pixels, rounded half up; the smaller one is exactly `smaller_side`.

    Raises:
      ValueError: a size is not positive.

    >>> rescaled_size(375, 500, 256)
    (256, 341)
    """
    if min(height, width, smaller_side) <= 0:
        raise ValueError(f"sizes must be positive: height={height}, width={width}, smaller_side={smaller_side}")
    smaller = min(height, width)
    # In integers: a float's floor(x + 1/2) would round some exact halves down.
    return tuple((2 * side * smaller_side + smaller) // (2 * smaller) for side in (height, width))


def crop(encoded: bytes, smaller_side: int, place: tuple[float, float], size: int) -> np.ndarray:
    """A square crop of an image that is rescaled isotropically.

    Args:
      encoded: the image file's bytes, in any format that Pillow reads.
      smaller_side: S, at least `size`, in pixels. A smaller image is enlarged.
      place: in [0, 1), where the window lies in the free room, vertically and horizontally. Every window is equally
        wide in it; 0.5 is the centre, rounded half up.
      size: side of the crop, in pixels.

    Returns:
      RGB uint8 (size, size, 3).

    Raises:
      DataError: see `decode`.
    """
    shape = plain_jpeg_size(encoded)
    whole = None if shape else decode(encoded)
    height_width = shape or whole.shape[:2]
    rows, columns = (
        _span(side, rescaled, free, size)
        for side, rescaled, free in zip(height_width, rescaled_size(*height_width, smaller_side), place, strict=True)
    )
    window = _decode_window(encoded, rows, columns) if whole is None else whole[rows.pixels, columns.pixels]
    box = columns.first, rows.first, columns.last, rows.last
    return np.asarray(Image.fromarray(window).resize((size, size), Image.Resampling.BILINEAR, box))


def rescale(image: np.ndarray, smaller_side: int) -> np.ndarray:
    """A whole image rescaled isotropically, by the same filter as `crop` (Q in Sec. 3.2).

    Args:
      image: RGB uint8 (height, width, 3).
      smaller_side: Q in pixels. A smaller image is enlarged.

    Returns:
      RGB uint8, of the size that `rescaled_size` says.
    """
    height, width = rescaled_size(*image.shape[:2], smaller_side)
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


class _Span(NamedTuple):
    """What a crop needs of an image along one axis."""

    pixels: slice  # of the image: those that carry weight, and one more on each side
    first: float
    last: float  # the crop's borders, in pixels from the slice's start


def _span(side: int, rescaled: int, place: float, size: int) -> _Span:
    scale = side / rescaled
    offset = int(place * (rescaled - size + 1))
    first, last = offset * scale, (offset + size) * scale
    # The outermost pixels' centres lie half a pixel inside, and the triangle reaches `support` beyond them. One pixel
    # more, because JPEG decoders interpolate chroma between neighbours: at a cut edge the outermost pixel is off.
    support = max(scale, 1.0)
    start = max(math.floor(first + scale / 2 - support) - 1, 0)
    stop = min(math.ceil(last - scale / 2 + support) + 1, side)
    return _Span(slice(start, stop), first - start, min(last - start, stop - start))


def load_jpeg_decoder() -> None:
    """Imports TensorFlow, which decodes windows of plain JPEGs. It takes seconds; other formats are spared them."""
    importlib.import_module("vgg_jax.data._tensorflow")


def _decode_window(encoded: bytes, rows: _Span, columns: _Span) -> np.ndarray:
    """Decodes a part of a plain JPEG: uint8 (rows, columns, 3)."""
    from vgg_jax.data._tensorflow import tf  # late, see `load_jpeg_decoder`

    (top, bottom), (left, right) = ((span.pixels.start, span.pixels.stop) for span in (rows, columns))
    try:
        return tf.raw_ops.DecodeAndCropJpeg(
            contents=tf.constant(encoded),  # as tensors, for else TensorFlow takes a slow path
            crop_window=tf.constant(np.array([top, left, bottom - top, right - left], np.int32)),
            channels=3,
            dct_method="INTEGER_ACCURATE",  # Pillow's; the two then agree to the bit
        ).numpy()
    except tf.errors.InvalidArgumentError:
        return decode(encoded)[rows.pixels, columns.pixels]  # which says what is damaged


def decode(encoded: bytes) -> np.ndarray:
    """Decodes a whole image of any format with Pillow; see the module for what is done with each.

    Returns:
      RGB uint8 (height, width, 3), upright.

    Raises:
      DataError: these bytes are no image, or a broken, truncated or absurdly large one. The message is the reason
        alone; the caller knows the file.
    """
    if not encoded:
        raise DataError("the file is empty")
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{image.width} x {image.height} are more than {MAX_PIXELS:,} pixels")
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
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
