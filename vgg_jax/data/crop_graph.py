"""One training or test crop as a TensorFlow graph: decode a window, resample it (Sec. 3.1).

The paper rescales the whole image to smaller side S and cuts a crop. Here only the crop is ever computed: its rows and
columns are weighted means of a few source pixels, so only those pixels are decoded and only these means are taken.
The weights are those of Pillow's BILINEAR filter (a triangle, widened when the image shrinks, so nothing aliases), and
the result is Pillow's resize-then-crop to within 1 grey level, for Pillow also rounds between its two passes.
"""

from vgg_jax.data._tensorflow import tf


def rescaled_size(height: tf.Tensor, width: tf.Tensor, smaller_side: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`image_ops.rescaled_size` for int32 scalars in a graph."""
    smaller = tf.minimum(height, width)
    return tuple((2 * side * smaller_side + smaller) // (2 * smaller) for side in (height, width))


def taps(size: tf.Tensor, rescaled: tf.Tensor, first: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Which source rows make rows first, ..., first + count - 1 of a rescaled image, and with what weights.

    Args:
      size, rescaled: the image's length along this axis before and after, in pixels (int32 scalars).
      first: the first wanted row of the rescaled image (int32 scalar).
      count: how many are wanted.

    Returns:
      Source rows, int32 (taps, count), and their weights, float32 (taps, count), which sum to one over the taps.
      Rows beyond the image's edge have weight 0 and are clipped to it.
    """
    scale = tf.cast(size, tf.float64) / tf.cast(rescaled, tf.float64)
    support = tf.maximum(scale, 1.0)
    centre = (tf.cast(first + tf.range(count), tf.float64) + 0.5) * scale
    nearest = tf.math.ceil(centre - support - 0.5)  # the first row whose centre the triangle touches
    rows = nearest + tf.range(tf.math.ceil(2 * support), dtype=tf.float64)[:, None]
    weights = tf.nn.relu(1.0 - tf.abs(rows + 0.5 - centre) / support)
    rows = tf.cast(rows, tf.int32)
    weights = tf.where((rows >= 0) & (rows < size), weights, 0.0)
    weights /= tf.reduce_sum(weights, axis=0)
    return tf.clip_by_value(rows, 0, size - 1), tf.cast(weights, tf.float32)


def _resample(image: tf.Tensor, rows: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Weighted means of rows: image (h, w, 3), rows and weights (taps, n); float32 (n, w, 3)."""
    count, width = rows.shape[1], tf.shape(image)[1]
    picked = tf.cast(tf.gather(image, tf.transpose(rows)), tf.float32)  # (n, taps, w, 3)
    picked = tf.reshape(picked, [count, -1, 3 * width])
    return tf.reshape(tf.transpose(weights)[:, None, :] @ picked, [count, width, 3])


def crop(encoded: tf.Tensor, plain: tf.Tensor, height: tf.Tensor, width: tf.Tensor, smaller_side: tf.Tensor,
         place: tf.Tensor, size: int) -> tf.Tensor:
    """The crop of an image that is rescaled to a smaller side.

    Args:
      encoded: a plain JPEG (`image_ops.plain_jpeg_size`), or the image's pixels (RGB bytes, row by row).
      plain: which of the two (bool scalar).
      height, width: the image's size in pixels (int32 scalars).
      smaller_side: S (int32 scalar); a larger crop takes the place of an S below it.
      place: float64 (2,) in [0, 1): where the window lies in the free room below and to the right; 0.5 is the centre.
      size: side of the crop, in pixels.

    Returns:
      RGB uint8 (size, size, 3).
    """
    free = tf.stack(rescaled_size(height, width, smaller_side))
    top_left = tf.cast(place * tf.cast(free - size + 1, tf.float64), tf.int32)
    rows, row_weights = taps(height, free[0], top_left[0], size)
    columns, column_weights = taps(width, free[1], top_left[1], size)
    # JPEG decoders interpolate chroma between neighbours, so the pixel at a cut differs; one more on each side is cut.
    top, left = tf.maximum(rows[0, 0] - 1, 0), tf.maximum(columns[0, 0] - 1, 0)
    window = tf.stack([top, left, tf.minimum(rows[-1, -1] + 2, height) - top,
                       tf.minimum(columns[-1, -1] + 2, width) - left])
    image = tf.cond(plain, lambda: _decode_jpeg(encoded, window), lambda: _cut(encoded, height, width, window))
    image = _resample(image, rows - top, row_weights)
    image = _resample(tf.transpose(image, [1, 0, 2]), columns - left, column_weights)
    # The weights are positive and sum to one: the means cannot leave 0..255, and the cast truncates.
    return tf.transpose(tf.cast(image + 0.5, tf.uint8), [1, 0, 2])


def _decode_jpeg(encoded: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_and_crop_jpeg(encoded, window, channels=3, dct_method="INTEGER_ACCURATE")


def _cut(pixels: tf.Tensor, height: tf.Tensor, width: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    image = tf.reshape(tf.io.decode_raw(pixels, tf.uint8), [height, width, 3])
    return tf.slice(image, [window[0], window[1], 0], [window[2], window[3], 3])
