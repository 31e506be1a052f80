"""Reading a JPEG's markers, to know its size and that it holds no surprises."""

from PIL import Image

MAX_PIXELS = Image.MAX_IMAGE_PIXELS
"""89 million: Pillow's own limit. A larger image is a mistake or an attack, not a photograph."""

_START_OF_FRAME = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; not lossless, not arithmetic
_START_OF_SCAN = 0xDA
_APP1 = 0xE1  # Exif and XMP
_ORIENTATION = 0x0112


def plain_jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Size of a JPEG that any decoder reads the same way, or None.

    Plain means: baseline or progressive, grey or three components, upright, and not cut short. The markers are read
    here because it costs some 15 microseconds, and because TensorFlow fills a truncated image with grey without a
    word. None is no error: it sends the image down the slower road, which has an answer to everything.

    Returns:
      (height, width) in pixels, or None.
    """
    if encoded[:2] != b"\xff\xd8":
        return None
    size, position = None, 2
    while position + 4 <= len(encoded) and encoded[position] == 0xFF:
        marker = encoded[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        body, following = position + 4, position + 2 + _integer(encoded, position + 2)
        if marker == _START_OF_SCAN:  # the pixels begin, and the end-of-image marker must come
            return size if encoded.rfind(b"\xff\xd9", following) >= 0 else None
        if marker in _START_OF_FRAME:
            if body + 6 > len(encoded):
                return None
            precision, components = encoded[body], encoded[body + 5]
            height, width = _integer(encoded, body + 1), _integer(encoded, body + 3)
            if precision != 8 or components not in (1, 3) or not 0 < height * width <= MAX_PIXELS:
                return None
            size = height, width
        elif marker == _APP1 and not _upright(encoded[body:following]):
            return None
        position = following
    return None


def _integer(encoded: bytes, position: int, order: str = "big") -> int:
    return int.from_bytes(encoded[position : position + 2], order)


def _upright(app1: bytes) -> bool:
    """Whether an APP1 segment surely leaves the image upright: Exif orientation 1 or none, and none in XMP."""
    if not app1.startswith(b"Exif\0\0"):
        return b"tiff:Orientation" not in app1
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(app1[6:10])
    if order is None:
        return False
    directory = 6 + int.from_bytes(app1[10:14], order)
    for entry in range(directory + 2, directory + 2 + 12 * _integer(app1, directory, order), 12):
        if _integer(app1, entry, order) == _ORIENTATION:
            return _integer(app1, entry + 8, order) == 1
    return True
