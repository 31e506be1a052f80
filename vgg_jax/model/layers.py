"""The layers that Flax lacks: Winograd's convolutions, max-pooling with a gradient of its own, response normalization,
dropout with one key per image, and borders inside a bucket (Sec. 2.1, 3.1, 3.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from vgg_jax.model.convolution import convolution

if TYPE_CHECKING:
    from jaxtyping import Array, Float

NEIGHBORS, K, ALPHA, BETA = 5, 2.0, 1e-4, 0.75
"""Of local response normalization."""

NO_PLACE = 4
"""Instead of the place of a window's maximum among its four pixels, where nothing passes the ReLU."""


class Conv(nnx.Conv):
    """`flax.nnx.Conv` with stride 1, computed by `vgg_jax.model.convolution`."""

    def __call__(self, x: jax.Array, conv: str = "auto") -> jax.Array:
        """Maps (n, h, w, channels) to maps, in the layer's dtype; `conv` is one of `METHODS`."""
        arrays = self.promote_dtype((x, self.kernel[...], self.bias[...]), dtype=self.dtype)
        return convolution(*arrays, self.padding, conv)


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0); its gradient at 0 is 0 (Sec. 2.1).

    The gradient asks the result what passed. That of `jax.nn.relu` asks x, which a compiled program then keeps beside
    the result for nothing else.
    """
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals, tangents):
    y = relu(*primals)
    return y, jnp.where(y != 0, *tangents, 0)  # of y > 0 XLA would make x > 0 again


@jax.custom_jvp
def rectified_max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h//2 w//2 c"]:
    """2x2 max-pooling with stride 2 and a ReLU; an odd last row or column is dropped (Sec. 2.1).

    The ReLU of the maximum is the maximum of the ReLU, and its gradient the same, so the map before the pool need not
    be rectified. The gradient of a window goes to its maximum alone, of several equal ones to the first in row-major
    order, and to none where the maximum is not positive. It is written out, since those of `lax.reduce_window` (a
    scatter) and of a maximum of slices move more memory (docs/scale.md) and take longer (docs/speed.md).
    """
    a, b, c, d = _corners(x)
    return jnp.maximum(jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d)), 0)


@rectified_max_pool.defjvp
def _rectified_max_pool_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    y = rectified_max_pool(x)
    n, h, w, c = y.shape
    first, second, third, _ = (corner == y for corner in _corners(x))
    place = jnp.where(first, 0, jnp.where(second, 1, jnp.where(third, 2, 3))).astype(jnp.int8)
    windows = dx[:, : 2 * h, : 2 * w].reshape(n, h, 2, w, 2, c)
    return y, jax.lax.platform_dependent(windows, place, y, tpu=_as_one_array, default=_by_place)


def _winners(windows, place):
    """Of every window what is at a place; none is at `NO_PLACE`."""
    number = jnp.array([[0, 1], [2, 3]], jnp.int8).reshape(1, 1, 2, 1, 2, 1)
    return jnp.where(place[:, :, None, :, None] == number, windows, 0).sum((2, 4))


def _by_place(windows, place, y):
    """Where nothing passes the ReLU no place wins: a GPU then needs no pass over the pooled maps for it."""
    return _winners(windows, jnp.where(y == 0, jnp.int8(NO_PLACE), place))


def _as_one_array(windows, place, y):
    """The same for a TPU, with the gradient of the windows as one array.

    Otherwise its compiler blows the pooled maps up to the size of the map, and every product that reads the gradient
    selects from them again.
    """
    return jnp.where(y == 0, 0, _winners(jax.lax.optimization_barrier(windows), place))


def _corners(x):
    """The four pixels of every window, in row-major order."""
    h, w = (size // 2 * 2 for size in x.shape[1:3])
    return [x[:, row:h:2, column:w:2] for row in (0, 1) for column in (0, 1)]


def local_response_normalization(x: jax.Array) -> jax.Array:
    """Krizhevsky's normalization across channels, b = a / (K + ALPHA * sum a^2)^BETA (Krizhevsky et al. 2012, 3.3).

    The sum runs over `NEIGHBORS` channels, fewer at the ends. `ALPHA` is as published: Caffe's and PyTorch's layers
    divide it by the neighbors, so theirs need 5e-4 for the same result.

    Args:
      x: activations, shape (..., channels).

    Returns:
      An array like x; the sum and the power are taken in float32.
    """
    squares = jnp.square(x.astype(jnp.float32))
    window, strides = (1,) * (x.ndim - 1) + (NEIGHBORS,), (1,) * x.ndim
    sums = jax.lax.reduce_window(squares, 0.0, jax.lax.add, window, strides, "SAME")
    return (x * (K + ALPHA * sums) ** -BETA).astype(x.dtype)


def dropout(x: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
    """Zeroes activations with probability `rate` and scales the others by 1 / (1 - rate) (Sec. 3.1).

    Each image draws from its own key, so the mask is the same however the batch is split over devices or microbatches.

    Args:
      x: activations, shape (n, ...).
      keys: one PRNG key per image, shape (n,).
      rate: a probability in [0, 1).
    """
    if rate == 0.0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1.0 - rate), 0).astype(x.dtype)


def mask_outside(x: jax.Array, sizes: jax.Array | None) -> jax.Array:
    """Zeroes what lies beyond each image, as the padding of the next convolution has it at a true border (Sec. 3.2).

    Args:
      x: maps in the upper left corners of one bucket, shape (n, h, w, channels).
      sizes: their heights and widths, shape (n, 2); None if they fill the bucket.
    """
    if sizes is None:
        return x
    rows, columns = (jnp.arange(side)[None] < sizes[:, axis, None] for axis, side in enumerate(x.shape[1:3]))
    return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], x, 0)


def mask_edges(x: jax.Array, sizes: jax.Array | None, reach: int) -> jax.Array:
    """Zeroes at least as much of what lies beyond each image as reaches into it: some rows and some columns.

    A TPU's convolutions apply a full mask on the fly, and a CPU's hardly notice one. A GPU's would read and write the
    map once more: there only the lines are written, in place.

    Args:
      x, sizes: as `mask_outside` has them.
      reach: pixels beyond a border that the next layer sees, 1 for a 3x3 convolution.
    """
    if sizes is None:
        return x
    lines = lambda x, sizes: zero_lines(x, sizes, reach)
    return jax.lax.platform_dependent(x, sizes, cuda=lines, default=mask_outside)


def zero_lines(x: jax.Array, sizes: jax.Array, count: int) -> jax.Array:
    """Zeroes `count` rows below each image and columns to the right of it, where the bucket has them."""
    images, how = jnp.arange(x.shape[0]), {"mode": "drop", "unique_indices": True, "indices_are_sorted": True}
    for place in range(count):
        x = x.at[images, sizes[:, 0] + place].set(0, **how).at[images, :, sizes[:, 1] + place].set(0, **how)
    return x
