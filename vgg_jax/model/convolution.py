"""Convolutions (Sec. 2.1), and the choice of how they are computed.

`lax`       XLA's convolution, with JAX's own gradients: forward mode (`jax.jvp`) passes too. In bfloat16 on an NVIDIA
            GPU the first one has a form of its own (`vgg_jax.model.space_to_depth`).
`winograd`  3x3 convolutions in tiles (`vgg_jax.model.winograd`), and the gradients of products and biases written out,
            because XLA's own are slow on the CPU. Reverse mode works to every order; forward mode does not, because
            `jax.custom_vjp` has none.
`auto`      `winograd` in float32 on the CPU, `lax` elsewhere and for symbolic sizes (`jax.export`), since what is
            exported may run on another backend.

The form depends on the shapes of map and kernel and never on the batch, so one device and eight compute the same. In
all of them a kernel that covers its whole map (fc6: 7x7 on 7x7), or one pixel, is a matrix product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from vgg_jax.errors import ConfigError
from vgg_jax.model.space_to_depth import space_to_depth_convolution, suits
from vgg_jax.model.winograd import convolution_3x3

if TYPE_CHECKING:
    from jaxtyping import Array, Float

METHODS = ("auto", "lax", "winograd")
"""The choices of `conv`."""

FEWEST_CHANNELS = 128
"""Channels in and out from which the tiles pay: with fewer, moving the tiles costs more than it saves."""


def convolution(
    x: Float[Array, "n h w c"], kernel: Float[Array, "i j c k"], bias: Float[Array, " k"], padding: str, conv: str
) -> Float[Array, "n h2 w2 k"]:
    """The convolution of maps by a kernel with stride 1, plus the bias.

    Args:
      x, kernel, bias: of one dtype, which is that of the result.
      padding: "SAME" or "VALID".
      conv: one of `METHODS`.

    Raises:
      ConfigError: conv is "winograd" and a size of x is symbolic.
    """
    winograd, size = _resolved(conv, x) == "winograd", kernel.shape[:2]
    if size == (1, 1) or (size == x.shape[1:3] and padding == "VALID"):
        n, h, w, _ = x.shape
        kernel = kernel.reshape(-1, kernel.shape[-1])
        x = x.reshape(n, h - size[0] + 1, w - size[1] + 1, len(kernel))  # no -1, which an empty batch leaves open
        y = product(x, kernel) if winograd else x @ kernel
    elif winograd and size == (3, 3) and padding == "SAME" and min(kernel.shape[2:]) >= FEWEST_CHANNELS:
        y = convolution_3x3(x.astype(jnp.float32), kernel.astype(jnp.float32)).astype(x.dtype)
    elif not winograd and suits(x, kernel, padding):
        plain = lambda x, kernel, bias: _direct(x, kernel, padding) + bias
        return lax.platform_dependent(x, kernel, bias, cuda=space_to_depth_convolution, default=plain)
    else:
        y = _direct(x, kernel, padding)
    return add_bias(y, bias) if winograd else y + bias


def _direct(x, kernel, padding):
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _resolved(conv: str, x: Array) -> str:
    """What "auto" means for these maps; another choice as it is."""
    symbolic = not all(isinstance(size, int) for size in x.shape)
    if conv == "auto":
        return "winograd" if jax.default_backend() == "cpu" and x.dtype == jnp.float32 and not symbolic else "lax"
    if conv == "winograd" and symbolic:
        raise ConfigError(f"conv='winograd' needs sizes that are numbers, maps are {x.shape}: set net.conv = 'lax'")
    return conv


@jax.custom_vjp
def add_bias(y: Float[Array, "n h w k"], bias: Float[Array, " k"]) -> Float[Array, "n h w k"]:
    """Maps plus a number for each channel."""
    return y + bias


def _add_bias_backward(_, dy):
    k = dy.shape[-1]
    return dy, jnp.ones(dy.size // k, dy.dtype) @ dy.reshape(-1, k)  # a sum over all places: as slow as the convolution


add_bias.defvjp(lambda y, bias: (y + bias, None), _add_bias_backward)


@jax.custom_vjp
def product(x: Float[Array, "*n d"], kernel: Float[Array, "d k"]) -> Float[Array, "*n k"]:
    """x @ kernel."""
    return x @ kernel


def _product_backward(saved, dy):
    x, kernel = saved
    # The kernel from the left: the product by its transpose from the right takes seven times as long. The barrier keeps
    # XLA from transposing it again.
    dx = lax.optimization_barrier(jnp.einsum("dk,...k->d...", kernel, dy))
    return jnp.moveaxis(dx, 0, -1), jnp.einsum("...d,...k->dk", x, dy)


product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_backward)
