"""The layers that Flax has not: response normalisation, dropout with a key an image, borders (Sec. 2.1, 3.1, 3.2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from vgg_jax.model.convolution import NHWC, add_bias, convolution


class Conv(nnx.Conv):
    """`flax.nnx.Conv` with stride 1, by `vgg_jax.model.convolution`."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (n, h, w, channels) to maps, in the layer's dtype."""
        x, kernel, bias = self.promote_dtype((x, self.kernel[...], self.bias[...]), dtype=self.dtype)
        return add_bias(convolution(x, kernel, (1, 1), self.padding, dimension_numbers=NHWC), bias)


def local_response_normalisation(
    x: jax.Array, *, size: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75
) -> jax.Array:
    """Krizhevsky's normalisation across channels, b = a / (k + alpha * sum a^2)^beta (Krizhevsky et al. 2012, 3.3).

    The sum runs over `size` neighbouring channels, fewer at the ends. `alpha` is as published: Caffe's and PyTorch's
    layers divide it by `size`, so theirs take 5e-4 for the same answer.

    Args:
      x: activations, shape (..., channels).

    Returns:
      An array like x; the sum and the power are taken in float32.
    """
    squares = jnp.square(x.astype(jnp.float32))
    window, strides = (1,) * (x.ndim - 1) + (size,), (1,) * x.ndim
    sums = jax.lax.reduce_window(squares, 0.0, jax.lax.add, window, strides, "SAME")
    return (x * (k + alpha * sums) ** -beta).astype(x.dtype)


def dropout(x: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
    """Zeroes activations with probability `rate` and scales the others by 1 / (1 - rate) (Sec. 3.1).

    Each image draws from its own key, so the mask is the same however the batch is split over devices or microbatches.

    Args:
      x: activations, shape (n, ...).
      keys: one PRNG key an image, shape (n,).
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
