"""Convolution and max-pooling, each in the fastest form for the shape and the backend at hand.

`convolution` stands in for `jax.lax.conv_general_dilated` in `flax.nnx.Conv`. It chooses while tracing, by the shapes
of map and kernel and never by the batch, so that one device and eight compute alike:

* A kernel that covers its whole map (fc6: 7x7 on 7x7), or one pixel, is a matrix product, on every backend.
* A 3x3 "SAME" convolution in float32 on the CPU is Winograd's F(2x2, 3x3) (Lavin and Gray 2015, arXiv 1509.09308): a
  tile of 2x2 outputs costs 16 multiplications for each pair of channels, not 36, in 16 matrix products that XLA runs
  near the processor's peak. It is exact but for rounding, which stays below 1e-6 of the largest output.
* The rest is left to `lax`: other backends, dtypes, strides and kernels, the image's three channels, which are too few
  for the tiles to pay, and symbolic sizes (`jax.export`), since what is exported may run on another backend.

Both gradients are written out. That of the input is again a convolution, by the kernel turned about and its channels
swapped; that of the kernel has a Winograd form of its own. Reverse mode works to every order. Forward mode (`jax.jvp`)
does not reach the 3x3 convolution on the CPU: `jax.custom_vjp` has none.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

NHWC = ("NHWC", "HWIO", "NHWC")

FEWEST_CHANNELS = 32
"""Channels in and out from which the tiles pay."""

FEWEST_CHANNEL_PAIRS = 64 * 128
"""Channels in times channels out from which they pay for the kernel's gradient, whose products are narrow."""

G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
"""F(2, 3)'s transform of the kernel, three taps to four; those of inputs and outputs are written out below."""


def convolution(x: Array, kernel: Array, strides, padding, **options) -> Array:
    """`jax.lax.conv_general_dilated`, in a faster form where there is one.

    Args:
      x, kernel, strides, padding, options: as `jax.lax.conv_general_dilated` has them.
    """
    plain = _is_plain(x, kernel, strides, options) and _pads(x, kernel, padding) == {1}
    if plain and kernel.shape[:2] == (3, 3) and _tiles_pay(x, kernel, options.get("preferred_element_type")):
        return convolution_3x3(x, kernel)
    return untiled_convolution(x, kernel, strides, padding, **options)


def untiled_convolution(x: Array, kernel: Array, strides, padding, **options) -> Array:
    """`convolution` without Winograd's tiles, whose programs take ten times as long to compile."""
    plain = _is_plain(x, kernel, strides, options) and _pads(x, kernel, padding) == {0}
    if plain and kernel.shape[:2] in ((1, 1), x.shape[1:3]):
        return _product(x, kernel, options.get("precision"), options.get("preferred_element_type"))
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h//2 w//2 c"]:
    """2x2 max-pooling with stride 2; an odd last row or column is dropped (Sec. 2.1).

    In slices: the gradient of `lax.reduce_window` is a scatter, which is slow on the CPU.
    """
    h, w = (size // 2 * 2 for size in x.shape[1:3])
    rows = jnp.maximum(x[:, 0:h:2], x[:, 1:h:2])
    return jnp.maximum(rows[:, :, 0:w:2], rows[:, :, 1:w:2])


@jax.custom_vjp
def convolution_3x3(x: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c k"]) -> Float[Array, "n h w k"]:
    """The 3x3 "SAME" convolution by tiles of 2x2 outputs: A' [(G kernel G') * (B' x B)] A, ' being the transpose."""
    n, h, w, _ = x.shape
    tiles = _input_tiles(x)
    kernels = jnp.einsum("ai,bj,ijck->abck", G, G, kernel)
    products = [[tiles[a][b] @ kernels[a, b] for b in range(4)] for a in range(4)]
    (a, b), (c, d) = _on_grid(_outputs, products)
    y = jnp.stack([jnp.stack([a, b], 3), jnp.stack([c, d], 3)], 2)  # n, h / 2, 2, w / 2, 2, k
    return y.reshape(n, _even(h), _even(w), -1)[:, :h, :w]


def kernel_gradient(x: Float[Array, "n h w c"], dy: Float[Array, "n h w k"]) -> Float[Array, "3 3 c k"]:
    """The gradient of `convolution_3x3`'s kernel: G' [sum over the tiles of (B' x B) * (A dy A')] G."""
    c, k = x.shape[-1], dy.shape[-1]
    if c * k < FEWEST_CHANNEL_PAIRS:
        convolve = lambda kernel: lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC)
        return jax.linear_transpose(convolve, jax.ShapeDtypeStruct((3, 3, c, k), x.dtype))(dy)[0]
    tiles, gradients = _input_tiles(x), _output_tiles(dy)
    products = [[tiles[a][b].reshape(-1, c).T @ gradients[a][b].reshape(-1, k) for b in range(4)] for a in range(4)]
    return jnp.einsum("ai,bj,abck->ijck", G, G, jnp.array(products))


def _backward(saved, dy):
    x, kernel = saved
    return convolution_3x3(dy, kernel[::-1, ::-1].swapaxes(2, 3)), kernel_gradient(x, dy)


convolution_3x3.defvjp(lambda x, kernel: (convolution_3x3(x, kernel), (x, kernel)), _backward)


def _input_tiles(x):
    """B' x B for every 4x4 window, two pixels apart: a 4x4 grid of arrays (n, h / 2, w / 2, c)."""
    h, w = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1 + h % 2), (1, 1 + w % 2), (0, 0)))
    rows = [x[:, i : i + _even(h) - 1 : 2] for i in range(4)]
    return _on_grid(_inputs, [[row[:, :, j : j + _even(w) - 1 : 2] for j in range(4)] for row in rows])


def _output_tiles(dy):
    """A dy A' for every 2x2 tile: a 4x4 grid of arrays (n, h / 2, w / 2, k)."""
    h, w = dy.shape[1:3]
    dy = jnp.pad(dy, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
    return _on_grid(_output_gradients, [[dy[:, i::2, j::2] for j in range(2)] for i in range(2)])


def _inputs(x):  # B'
    return x[0] - x[2], x[1] + x[2], x[2] - x[1], x[1] - x[3]


def _outputs(m):  # A'
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


def _output_gradients(dy):  # A
    return dy[0], dy[0] + dy[1], dy[0] - dy[1], -dy[1]


def _on_grid(transform, grid):
    """A transform of vectors on the columns and then on the rows of a grid of arrays."""
    columns = [transform(column) for column in zip(*grid)]
    return [transform(row) for row in zip(*columns)]


def _even(size):
    return size + size % 2


def _product(x, kernel, precision, dtype):
    """The convolution by a kernel of one pixel or of the whole map."""
    n, h, w, _ = x.shape
    rows, columns, _, k = kernel.shape
    seen = x.reshape(n, h - rows + 1, w - columns + 1, -1)
    return jnp.matmul(seen, kernel.reshape(-1, k), precision=precision, preferred_element_type=dtype)


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


def _tiles_pay(x, kernel, dtype):
    return (
        jax.default_backend() == "cpu"
        and x.dtype == kernel.dtype == (dtype or x.dtype) == jnp.float32
        and min(kernel.shape[2:]) >= FEWEST_CHANNELS
        and all(isinstance(size, int) for size in x.shape)
    )
