"""What one file of weights holds before it is understood, and how much of it may be read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vgg_jax.errors import CheckpointError
from vgg_jax.weights.layouts import Layout
from vgg_jax.weights.preprocessing import Preprocessing

MAX_TENSOR = 2**30
"""Bytes of one tensor. The largest of any VGG, fc6 in float64, has 0.8e9."""

MAX_FILE = 2**31
"""Bytes of one file, and of all its tensors when unpacked. VGG-19 in float64 has 1.2e9."""


@dataclasses.dataclass
class RawCheckpoint:
    """The tensors of a file under the names and in the layouts of its format.

    Attributes:
      format: what the file is, for people.
      tensors: all of them; emptied as they are understood, so that memory holds one copy.
      layout: the format's table of names.
      preprocessing: what the original is fed, or None where the file does not say,
      because: for this reason.
      classes: the columns of fc8 in their order, as far as the file says.
      imagenet: whether a net of 1000 classes in this format has ImageNet's, in sorted order.
      net: the paper's letter, where the file says it.
      dropout: of the net the file was saved from.
    """

    format: str
    tensors: dict[str, np.ndarray]
    layout: Layout
    preprocessing: Preprocessing | None
    because: str = "does not say what its network is fed"
    classes: tuple[str, ...] = ()
    imagenet: bool = False
    net: str | None = None
    dropout: float = 0.5


Reader = Callable[[Path], RawCheckpoint]
"""Reads one file of a known format; whatever it raises is the file's fault."""


class Budget:
    """Refuses what no VGG has before memory is spent on it.

    Args:
      path: of the file, for the message.
    """

    def __init__(self, path: Path):
        self._path, self._left = path, MAX_FILE

    def take(self, name: str, shape: tuple[int, ...], itemsize: int) -> int:
        """Bytes of a tensor that is about to be read.

        Raises:
          CheckpointError: it, or all so far together, are more than a VGG can hold; or a size is negative.
        """
        size = math.prod(shape) * itemsize
        if len(shape) > 8 or any(side < 0 for side in shape):
            raise CheckpointError(f"{self._path}: {name} declares the shape {shape}; the file is damaged or hostile")
        if size > MAX_TENSOR:
            raise CheckpointError(
                f"{self._path}: {name} declares the shape {shape}, {size:.1e} bytes; no tensor of a VGG has over "
                f"{MAX_TENSOR:.1e}, the file is damaged, hostile or of another network"
            )
        self._left -= size
        if self._left < 0:
            raise CheckpointError(
                f"{self._path}: declares over {MAX_FILE:.1e} bytes of tensors, {name} being the one too many; no VGG "
                "has as many, the file is damaged, hostile or of another network"
            )
        return size
