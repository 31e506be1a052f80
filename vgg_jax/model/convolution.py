"""Convolution, bias and max-pooling, each in the fastest form for the shape and the backend at hand.

`convolution` stands in for `jax.lax.conv_general_dilated`, in `layers.Conv`. It chooses while tracing, by the shapes
of map and kernel and never by the batch, so that one device and eight compute alike:

* A kernel that covers its whole map (fc6: 7x7 on 7x7), or one pixel, is a matrix product, on every backend.
* A 3x3 "SAME" convolution in float32 on the CPU is Winograd's F(2x2, 3x3) (Lavin and Gray 2015, arXiv 1509.09308): a
  tile of 2x2 outputs costs 16 multiplications for each pair of channels, not 36, in 16 matrix products that XLA runs
  near the processor's peak. It is exact but for rounding, which stays below 1e-6 of the largest output.
* The rest is left to `lax`: other backends, dtypes, strides and kernels, few channels, for which the tiles do not pay,
  and symbolic sizes (`jax.export`), since what is exported may run on another backend.

On the CPU the gradients are written out. That of a 3x3 convolution's input is again a convolution, by the kernel turned
about and its channels swapped; that of the kernel has a Winograd form of its own; XLA's own forms for a bias and for a
product by a kernel's transpose are slow. Reverse mode works to every order. Forward mode (`jax.jvp`) does not pass:
`jax.custom_vjp` has none.

The transforms are of arrays that have a tile's rows and columns in front: a batch of 16 products and a few fused loops
are all that there is to compile, a fifth of a second for a layer.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

NHWC = ("NHWC", "HWIO", "NHWC")

FEWEST_CHANNELS = 128
"""Channels in and out from which the tiles pay: with fewer, moving the tiles costs more than it saves."""

G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
"""F(2, 3)'s transform of the kernel, three taps to four."""

A = np.array([[1, 0], [1, 1], [1, -1], [0, -1]], np.float32)
"""The transform of the output; its transpose takes four products to two outputs."""

B = (0, 2, -1), (1, 2, 1), (2, 1, -1), (1, 3, -1)
"""The transform of the input, column by column: one of four pixels and, with a sign, another."""


def convolution(x: Array, kernel: Array, strides, padding, **options) -> Array:
    """`jax.lax.conv_general_dilated`, in a faster form where there is one.

    Args:
      x, kernel, strides, padding, options: as `jax.lax.conv_general_dilated` has them.
    """
    if _is_plain(x, kernel, strides, options):
        size, pads, dtype = kernel.shape[:2], _pads(x, kernel, padding), options.get("preferred_element_type")
        own = _is_float32_on_cpu(x, kernel, dtype)
        if size == (3, 3) and pads == {1} and own and min(kernel.shape[2:]) >= FEWEST_CHANNELS:
            return convolution_3x3(x, kernel)
        if size in ((1, 1), x.shape[1:3]) and pads == {0}:
            n, h, w, _ = x.shape
            seen, kernel = x.reshape(n, h - size[0] + 1, w - size[1] + 1, -1), kernel.reshape(-1, kernel.shape[-1])
            if own:
                return product(seen, kernel)
            return jnp.matmul(seen, kernel, precision=options.get("precision"), preferred_element_type=dtype)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h//2 w//2 c"]:
    """2x2 max-pooling with stride 2; an odd last row or column is dropped (Sec. 2.1).

    In slices: the gradient of `lax.reduce_window` is a scatter, which is slow on the CPU.
    """
    h, w = (size // 2 * 2 for size in x.shape[1:3])
    rows = jnp.maximum(x[:, 0:h:2], x[:, 1:h:2])
    return jnp.maximum(rows[:, :, 0:w:2], rows[:, :, 1:w:2])


def add_bias(y: Float[Array, "n h w k"], bias: Float[Array, " k"]) -> Float[Array, "n h w k"]:
    """Maps plus a number for each channel."""
    return _add_bias(y, bias) if _is_float32_on_cpu(y, bias, None) else y + bias


@jax.custom_vjp
def _add_bias(y, bias):
    return y + bias


def _add_bias_backward(_, dy):
    k = dy.shape[-1]
    return dy, jnp.ones(dy.size // k) @ dy.reshape(-1, k)  # a sum over all places takes as long as the convolution


_add_bias.defvjp(lambda y, bias: (y + bias, None), _add_bias_backward)


@jax.custom_vjp
def product(x: Float[Array, "*n d"], kernel: Float[Array, "d k"]) -> Float[Array, "*n k"]:
    """x @ kernel."""
    return x @ kernel


def _product_backward(saved, dy):
    x, kernel = saved
    # The kernel from the left: the product by its transpose from the right takes seven times as long.
    dx = lax.optimization_barrier(jnp.einsum("dk,...k->d...", kernel, dy))  # lest XLA turn it about again
    return jnp.moveaxis(dx, 0, -1), jnp.einsum("...d,...k->dk", x, dy)


product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_backward)


@jax.custom_vjp
def convolution_3x3(x: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c k"]) -> Float[Array, "n h w k"]:
    """The 3x3 "SAME" convolution by tiles of 2x2 outputs: A' [(G kernel G') * (B' x B)] A, ' being the transpose."""
    products = jnp.einsum("abtc,abck->abtk", _input_tiles(x), _on_tiles(G, kernel))
    return _untiled(_on_tiles(A.T, products), x.shape)


def input_gradient(kernel: Float[Array, "3 3 c k"], dy: Float[Array, "n h w k"]) -> Float[Array, "n h w c"]:
    """The gradient of `convolution_3x3`'s input: the convolution of dy by the kernel turned about."""
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
    n, h, w, _ = shape
    y = jnp.moveaxis(tiles.reshape(2, 2, n, -(-h // 2), -(-w // 2), -1), (0, 1), (2, 4))
    return y.reshape(n, h + h % 2, w + w % 2, -1)[:, :h, :w]


def _is_plain(x, kernel, strides, options):
    """Whether this is a convolution of NHWC by HWIO with none of the operation's refinements."""
    numbers = options.get("dimension_numbers")
    dilations = [*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ())]
    return (
        x.ndim == 4
        and numbers is not None
        and lax.conv_dimension_numbers(x.shape, kernel.shape, numbers)
        == lax.conv_dimension_numbers(x.shape, kernel.shape, NHWC)
        and {*strides, *dilations} == {1}
        and options.get("feature_group_count", 1) == options.get("batch_group_count", 1) == 1
        and options.get("out_sharding") is None
    )


def _pads(x, kernel, padding):
    """The widths of padding that occur."""
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (1, 1), padding)
    return {int(width) for pair in padding for width in pair}


def _is_float32_on_cpu(x, kernel, dtype):
    """Whether our own forms are the faster ones; what is exported with symbolic sizes may run on another backend."""
    return (
        jax.default_backend() == "cpu"
        and x.dtype == kernel.dtype == (dtype or x.dtype) == jnp.float32
        and all(isinstance(size, int) for size in x.shape)
    )
