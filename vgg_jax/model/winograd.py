"""Winograd's F(2x2, 3x3), a 3x3 convolution in tiles (Lavin and Gray 2015, arXiv 1509.09308).

A tile of 2x2 outputs costs 16 multiplications for each pair of channels, not 36, in 16 matrix products that XLA runs
near the processor's peak. It is exact but for rounding, which stays below 1e-6 of the largest output in float32.

The gradient of the input is again such a convolution, by the kernel rotated by 180 degrees and its channels swapped;
that of the kernel has a form of its own. Forward mode (`jax.jvp`) does not pass: `jax.custom_vjp` has none.

The transforms are of arrays that have a tile's rows and columns in front: a batch of 16 products and a few fused loops
are all that there is to compile, a fifth of a second for a layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Array, Float

G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
"""F(2, 3)'s transform of the kernel, three taps to four."""

A = np.array([[1, 0], [1, 1], [1, -1], [0, -1]], np.float32)
"""The transform of the output; its transpose takes four products to two outputs."""

B = (0, 2, -1), (1, 2, 1), (2, 1, -1), (1, 3, -1)
"""The transform of the input, column by column: one of four pixels and, with a sign, another."""


@jax.custom_vjp
def convolution_3x3(x: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c k"]) -> Float[Array, "n h w k"]:
    """The 3x3 "SAME" convolution by tiles of 2x2 outputs: A' [(G kernel G') * (B' x B)] A, ' being the transpose."""
    products = jnp.einsum("abtc,abck->abtk", _input_tiles(x), _on_tiles(G, kernel))
    return _untiled(_on_tiles(A.T, products), x.shape)


def input_gradient(kernel: Float[Array, "3 3 c k"], dy: Float[Array, "n h w k"]) -> Float[Array, "n h w c"]:
    """The gradient of `convolution_3x3`'s input: the convolution of dy by the kernel rotated by 180 degrees."""
    # The product takes the kernel's channels in their own order: to swap them costs more than the product.
    products = jnp.einsum("abtk,abck->abtc", _input_tiles(dy), _on_tiles(G, kernel[::-1, ::-1]))
    return _untiled(_on_tiles(A.T, products), dy.shape)


def kernel_gradient(x: Float[Array, "n h w c"], dy: Float[Array, "n h w k"]) -> Float[Array, "3 3 c k"]:
    """The gradient of `convolution_3x3`'s kernel: G' [sum over the tiles of (B' x B) * (A dy A')] G."""
    products = jnp.einsum("abtc,abtk->abck", _input_tiles(x), _on_tiles(A, _tiled(dy)))
    return _on_tiles(G.T, products)


def _backward(saved, dy):
    x, kernel = saved
    return input_gradient(kernel, dy), kernel_gradient(x, dy)


convolution_3x3.defvjp(lambda x, kernel: (convolution_3x3(x, kernel), (x, kernel)), _backward)


def _on_tiles(matrix, tiles):
    """The matrix times a tile times the matrix's transpose, for tiles of shape (rows, columns, ...)."""
    weights = matrix.T.reshape(*matrix.T.shape, *[1] * (tiles.ndim - 1))
    for _ in "columns", "rows":
        tiles = sum(weight * part for weight, part in zip(weights, jnp.moveaxis(tiles, 1, 0), strict=True))
    return tiles


def _input_tiles(x):
    """B' x B for every 4x4 window, two pixels apart: (4, 4, tiles, channels)."""
    h, w = x.shape[1:3]
    columns = _input_sums(jnp.pad(x, ((0, 0), (1, 1 + h % 2), (1, 1 + w % 2), (0, 0))))
    return _input_sums(columns).reshape(4, 4, -1, x.shape[-1])  # of the rows, which are axis 2 now


def _input_sums(x):
    """B' on every window of four along axis 2, two pixels apart, in a new axis in front."""
    corners = np.arange(0, x.shape[2] - 2, 2)
    pixel, other, sign = (np.array(column) for column in zip(*B, strict=True))
    take = lambda places: jnp.moveaxis(jnp.take(x, np.add.outer(places, corners), 2, mode="clip"), 2, 0)
    return take(pixel) + sign.astype(x.dtype).reshape(4, *[1] * x.ndim) * take(other)


def _tiled(y):
    """The 2x2 tiles of a map: (2, 2, tiles, channels)."""
    n, h, w, k = y.shape
    y = jnp.pad(y, ((0, 0), (0, h % 2), (0, w % 2), (0, 0))).reshape(n, -(-h // 2), 2, -(-w // 2), 2, k)
    return jnp.moveaxis(y, (2, 4), (0, 1)).reshape(2, 2, -1, k)


def _untiled(tiles, shape):
    """The map whose tiles these are, of this shape but for the channels."""
    (n, h, w, _), k = shape, tiles.shape[-1]
    y = jnp.moveaxis(tiles.reshape(2, 2, n, -(-h // 2), -(-w // 2), k), (0, 1), (2, 4))
    return y.reshape(n, h + h % 2, w + w % 2, k)[:, :h, :w]
