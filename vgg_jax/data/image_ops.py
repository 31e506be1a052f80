"""Sizes and decoding of images, without TensorFlow (Sec. 3.1).

An image comes as encoded bytes and leaves as RGB uint8. Nearly every photograph is a plain JPEG, which the stream's
graph decodes itself and only where the crop needs it (`crop_graph`). Everything else is decoded here, by Pillow:

  palette, alpha      composited on white
  grey                the value repeated in R, G and B
  16-bit grey         scaled to 8 bits (v * 255 / 65535, rounded); 16-bit RGB keeps its high byte
  CMYK, YCCK          Pillow's plain conversion, without a colour profile
  EXIF orientation    applied: the image stands upright
  animations          the first frame

The format is read from the bytes: a PNG named .JPEG (ImageNet has one) is a PNG.
"""

import io

import numpy as np
from PIL import Image, ImageOps

from vgg_jax.errors import DataError

MAX_PIXELS = 89_478_485
"""Larger images are refused: 256 MiB of RGB are a mistake or an attack, not a photograph (Pillow's own limit)."""


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
    # Integers only: floor(x + 1/2) of a float would round some exact halves down.
    return tuple((2 * side * smaller_side + smaller) // (2 * smaller) for side in (height, width))


def plain_jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Size of a JPEG that any decoder reads the same way, or None.

    Plain means: baseline or progressive, grey or three components, upright, and not cut short. The markers are read
    here because it costs microseconds, and because libjpeg under TensorFlow fills a truncated image with grey
    without a word. None is no error, it only sends the image down Pillow's slower road.

    Returns:
      (height, width) in pixels, or None.
    """
    if encoded[:2] != b"\xff\xd8":
        return None
    size, position, end = None, 2, len(encoded)
    while position + 4 <= end and encoded[position] == 0xFF:
        marker = encoded[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        body = position + 4
        following = position + 2 + int.from_bytes(encoded[position + 2 : body], "big")
        if marker == 0xDA:  # start of scan: the pixels begin, the end-of-image marker must come
            complete = encoded.rfind(b"\xff\xd9", following) >= 0
            return size if complete else None
        if marker in (0xC0, 0xC1, 0xC2):  # start of frame: baseline, extended, progressive
            precision, components = encoded[body], encoded[body + 5]
            size = int.from_bytes(encoded[body + 1 : body + 3], "big"), int.from_bytes(
                encoded[body + 3 : body + 5], "big"
            )
            if precision != 8 or components not in (1, 3) or 0 in size or size[0] * size[1] > MAX_PIXELS:
                return None
        elif marker == 0xE1 and not _upright(encoded[body:following]):
            return None
        position = following
    return None


def _upright(app1: bytes) -> bool:
    """Whether an APP1 segment surely leaves the image upright: Exif orientation 1 or none, and none in XMP."""
    if not app1.startswith(b"Exif\0\0"):
        return b"tiff:Orientation" not in app1
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(app1[6:10])
    if order is None:
        return False
    directory = 6 + int.from_bytes(app1[10:14], order)
    entries = int.from_bytes(app1[directory : directory + 2], order)
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        if int.from_bytes(app1[entry : entry + 2], order) == 0x0112:  # Orientation, a short
            return int.from_bytes(app1[entry + 8 : entry + 10], order) == 1
    return True


def decode(encoded: bytes) -> np.ndarray:
    """Decodes an image of any format with Pillow, whole and upright; see the module for what is done with each.

    Returns:
      RGB uint8 (height, width, 3).

    Raises:
      DataError: these bytes are no image, or a broken, truncated or absurdly large one. The message is the reason
        alone; the caller knows the file.
    """
    if not encoded:
        raise DataError("the file is empty")
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{image.width} x {image.height} pixels are more than the {MAX_PIXELS} allowed")
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except DataError:
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError("not an image in a known format") from error
    except Exception as error:  # a damaged file can make Pillow's parsers raise nearly anything
        raise DataError(f"{type(error).__name__}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise DataError(f"pixels of mode {image.mode!r} have no known range; store the image with 8 or 16 bits")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
