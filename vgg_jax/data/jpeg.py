"""Plain JPEGs in TensorFlow's graph: what nearly every photograph is, without Python and its lock (Sec. 3.1, 3.2).

The same pixels as `vgg_jax.data.decode` gives: of the values of a crop four in five are equal and none is off by more
than one gray level, because Pillow rounds between its two passes and `ScaleAndTranslate` does not. Of a crop only the
pixels under it are decoded.

A plain JPEG is upright, not cut short, gray or of three components of 8 bits. On anything else, and on damage, these
functions fail, which is no error: the image then falls back to Pillow, which has an answer to everything.
"""

from __future__ import annotations

from vgg_jax.data._tensorflow import tf
from vgg_jax.data.decode import MAX_ENCODED_PIXELS
from vgg_jax.data.rescaling import MAX_PIXELS

_ORIENTATION = 0x0112


def plain_size(encoded: tf.Tensor) -> tf.Tensor:
    """Height and width of a plain JPEG, int32 (2,), zeros of another: to decode a window of no size then fails."""
    # TensorFlow fills what a cut file lacks with gray without a word, so the end-of-image marker must be there.
    ends = tf.strings.substr(encoded, 0, 2) + tf.strings.substr(encoded, -2, 2)
    framed = ends == b"\xff\xd8\xff\xd9"
    # Nothing is given instead of another format, of which the decoder would write to the terminal.
    shape = tf.image.extract_jpeg_shape(tf.where(framed, encoded, b""))
    pixels = tf.reduce_prod(tf.cast(shape[:2], tf.int64))
    # One pass over the bytes for both homes of an orientation, Exif's and XMP's; a chance hit only costs time.
    without = tf.strings.regex_replace(encoded, r"if(\x00\x00|f:Orientation)", "", replace_global=False)
    turned = tf.strings.length(without) != tf.strings.length(encoded)
    # The op itself, because `tf.cond` would run through the nodes of the branch that is not taken, in 0.15 ms.
    upright = tf.raw_ops.If(
        cond=turned, input=[encoded], Tout=[tf.bool], then_branch=_IS_UPRIGHT, else_branch=_IS_TRUE, output_shapes=[[]]
    )[0]
    plain = framed & (shape[2] != 4) & (pixels <= MAX_ENCODED_PIXELS) & upright
    return tf.where(plain, shape[:2], 0)


def _is_upright(encoded: tf.Tensor) -> tf.Tensor:
    """Whether the one Exif segment has orientation 1 or none; XMP's orientation is left to the Pillow fallback."""
    parts = tf.strings.split(encoded, "Exif\0\0")
    in_xmp = tf.shape(tf.strings.split(encoded, "tiff:Orientation"))[0] > 1
    exif = tf.cast(tf.io.decode_raw(tf.strings.substr(parts[-1], 0, 2**16), tf.uint8), tf.int32)
    little = tf.reduce_all(exif[:4] == [0x49, 0x49, 0x2A, 0])
    big = tf.reduce_all(exif[:4] == [0x4D, 0x4D, 0, 0x2A])
    weights = tf.where(little, [1, 256], [256, 1])
    offset = tf.reduce_sum(exif[4:8] * tf.where(little, [1, 256, 2**16, 2**24], [2**24, 2**16, 256, 1]))
    count = tf.reduce_sum(exif[offset : offset + 2] * weights)
    entries = tf.reshape(exif[offset + 2 : offset + 2 + 12 * count], [count, 12])
    tag, value = (tf.reduce_sum(entries[:, first : first + 2] * weights, 1) for first in (0, 8))
    upright = tf.reduce_all((tag != _ORIENTATION) | (value == 1))
    return (tf.shape(parts)[0] == 2) & ~in_xmp & (little | big) & (offset >= 8) & upright


def _concrete(function):
    return tf.function(function, [tf.TensorSpec([], tf.string)], autograph=False).get_concrete_function()


_IS_UPRIGHT, _IS_TRUE = _concrete(_is_upright), _concrete(lambda encoded: tf.constant(True))


def crop(encoded: tf.Tensor, smaller_side: tf.Tensor, place: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """`vgg_jax.data.decode.crop` of a plain JPEG: the crop and the window that it shows.

    Args:
      encoded: the bytes, a string.
      smaller_side: S, int32.
      place: float64 (2,).
      size: side of the crop, in pixels.
    """
    sides = tf.cast(plain_size(encoded), tf.float64)
    rescaled = _rescaled(sides, smaller_side)
    ratio = sides / rescaled
    corner = tf.floor(place * (rescaled - (size - 1)))
    first, last = corner * ratio, tf.minimum((corner + size) * ratio, sides)
    # The outermost pixels' centers lie half a pixel inside, and the triangle reaches max(ratio, 1) beyond them. One
    # pixel more, because JPEG decoders interpolate chroma between neighbors: at a cut edge the outermost one is off.
    around = tf.maximum(ratio / 2, 1 - ratio / 2) + 1
    start = tf.maximum(tf.floor(first - around), 0)
    stop = tf.minimum(tf.math.ceil(last + around), sides)
    window = tf.cast(tf.concat([start, stop - start], 0), tf.int32)
    part = tf.image.decode_and_crop_jpeg(encoded, window, channels=3, dct_method="INTEGER_ACCURATE")
    pixels = _scaled(part, size, size, rescaled / sides, (start - first) / ratio)
    return pixels, tf.cast(tf.concat([first, last - first], 0), tf.float32)


def whole(encoded: tf.Tensor, scales: tuple[int, ...]) -> tuple[tf.Tensor, ...]:
    """Height and width of a whole plain JPEG, and the image at every one of the scales Q; 0 is the image's own size.

    It fails on one that is too elongated, as it does on what is no plain JPEG.
    """
    sides = plain_size(encoded)
    sizes = {q: tf.cast(_rescaled(tf.cast(sides, tf.float64), q), tf.int32) if q else sides for q in scales}
    largest = tf.reduce_max([tf.reduce_prod(tf.cast(size, tf.int64)) for size in sizes.values()])
    room = MAX_PIXELS if any(scales) else MAX_ENCODED_PIXELS
    window = tf.concat([[0, 0], tf.where(largest <= room, sides, 0)], 0)
    image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3, dct_method="INTEGER_ACCURATE")
    at = lambda size: _scaled(image, size[0], size[1], size / sides, tf.zeros([2]))
    same = lambda size: tf.reduce_all(size == sides)
    images = (tf.cond(same(size), lambda: image, lambda size=size: at(size)) for size in sizes.values())
    return sides, *images


def _rescaled(sides: tf.Tensor, smaller_side) -> tf.Tensor:
    """`vgg_jax.data.rescaling.rescaled_size` in float64, which holds all of these integers and their quotients."""
    twice = 2 * tf.reduce_min(sides)
    return tf.floor((2 * sides * tf.cast(smaller_side, tf.float64) + twice / 2) / twice)


def _scaled(image: tf.Tensor, height, width, scale, translation) -> tf.Tensor:
    """The triangle filter, which widens when the image shrinks; rounded to uint8. A mean needs no clipping."""
    (down, right), (top, left) = (tf.unstack(tf.cast(pair, tf.float32), 2) for pair in (scale, translation))
    rows = _scaled_rows(tf.reshape(image, [tf.shape(image)[0], -1]), height, down, top)
    # The op is slow along the columns of an image of three channels: they are scaled as rows of the transpose, whose
    # rows are each a column's red, green and blue.
    columns = _scaled_rows(tf.reshape(tf.transpose(rows), [-1, 3 * height]), width, right, left) + 0.5
    return tf.reshape(tf.transpose(tf.reshape(tf.cast(columns, tf.uint8), [-1, height])), [height, width, 3])


def _scaled_rows(matrix: tf.Tensor, rows, scale, translation) -> tf.Tensor:
    """A matrix scaled along its first axis, float32: for the op, an image one pixel wide with many channels."""
    scaled = tf.raw_ops.ScaleAndTranslate(
        images=matrix[None, :, None],
        size=[rows, 1],
        scale=[scale, 1.0],
        translation=[translation, 0.0],
        kernel_type="triangle",
        antialias=True,
    )
    return scaled[0, :, 0]
