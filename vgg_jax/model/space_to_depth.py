"""The first convolution as an NVIDIA GPU computes it well: after space-to-depth along the rows (Sec. 2.1).

A GPU's matrix units want many channels, and conv1_1 has three: cuDNN pads them to eight, and its gradient of the kernel
takes twice as long as that of conv1_2, which has twenty times the operations (docs/speed.md). Maps (h, w, 3) are also
maps (h, w/8, 24), eight pixels of a row in each group, and maps (h, w/8, 8k) are maps (h, w, k), without a move.
Between these a 3x3 convolution is another 3x3 convolution, whose kernel is banded: the same numbers, and zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

if TYPE_CHECKING:
    from jaxtyping import Array, Float

PIXELS = 8
"""Of a group."""


def suits(x: Array, kernel: Array, padding: str) -> bool:
    """Whether these can be computed so, and a GPU does it faster: RGB images in bfloat16, rows of whole groups."""
    width = x.shape[2]
    whole = isinstance(width, int) and width % PIXELS == 0
    return whole and x.dtype == jnp.bfloat16 and kernel.shape[:3] == (3, 3, 3) and padding == "SAME"


def space_to_depth_convolution(
    x: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c k"], bias: Float[Array, " k"]
) -> Float[Array, "n h w k"]:
    """The 3x3 convolution with zeros around the maps, plus the bias; w is a multiple of `PIXELS`.

    The gradient of the kernel is a sum of eight, each of the arrays' dtype.
    """
    n, h, w, c = x.shape
    k = kernel.shape[-1]
    banded = jnp.einsum("bpjq,ijck->ibpcqk", jnp.asarray(_band(), kernel.dtype), kernel)
    y = lax.conv_general_dilated(
        x.reshape(n, h, w // PIXELS, PIXELS * c),
        banded.reshape(3, 3, PIXELS * c, PIXELS * k),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return _add_bias(y, bias).reshape(n, h, w, k)


@jax.custom_jvp
def _add_bias(y, bias):
    return y + jnp.tile(bias, PIXELS)


@_add_bias.defjvp
def _add_bias_jvp(primals, tangents):
    (y, bias), (dy, dbias) = primals, tangents
    n, h, groups, _ = y.shape
    # For the gradient: over pixels of k channels a GPU sums in four fifths of the time that groups of 8k take.
    dbias = jnp.broadcast_to(dbias, (n, h, groups * PIXELS, len(bias)))
    return _add_bias(y, bias), dy + dbias.reshape(y.shape)


def _band() -> np.ndarray:
    """(group, pixel, column, pixel of the result): 1 where that column of the kernel takes one pixel to the other.

    The groups are the one to the left of the result's, its own and the one to the right.
    """
    pixel = np.arange(-PIXELS, 2 * PIXELS)[:, None, None]
    column, result = np.arange(3)[:, None], np.arange(PIXELS)
    return (pixel == result + column - 1).reshape(3, PIXELS, 3, PIXELS)
