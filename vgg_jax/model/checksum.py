"""A checksum of a network's arrays: what was computed with one network is never taken for another's."""

from __future__ import annotations

import zlib

import numpy as np
from flax import nnx

from vgg_jax.model.vgg import VGG


def checksum(net: VGG, *, head: bool = True) -> str:
    """A checksum of a network's arrays, by their names.

    Args:
      net: the network; its arrays are whole in this process.
      head: whether those of the FC layers count too.
    """
    value = 0
    for path, array in nnx.to_flat_state(nnx.state(net)):
        if head or not str(path[0]).startswith("fc"):
            value = zlib.crc32(str(path).encode(), value)
            value = zlib.crc32(np.ascontiguousarray(array[...]), value)
    return f"{value:08x}"
