"""What one file of weights holds before it is understood, and how much of it may be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vgg_jax.errors import CheckpointError
from vgg_jax.weights.layouts import Layout
from vgg_jax.weights.preprocessing import Preprocessing

MAX_FILE = 2**31
"""Bytes of one file, of its members when unpacked, and of all its tensors. VGG-19 in float64 has 1.2e9."""


@dataclasses.dataclass
class RawCheckpoint:
    """The tensors of a file under the names and in the layouts of its format.

    Attributes:
      format: what the file is, for messages.
      tensors: all of them; emptied as they are understood, so that memory holds one copy.
      layout: the format's table of names.
      preprocessing: what the original is fed, or None where the file does not say.
      because: why it does not.
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


def check_size(path: Path, size: int) -> None:
    """Refuses more bytes than any VGG has before memory is spent on them.

    Raises:
      CheckpointError: these are more bytes than `MAX_FILE`.
    """
    if size > MAX_FILE:
        raise CheckpointError(
            f"{path}: declares {size:.1e} bytes; no VGG has over {MAX_FILE:.1e}: damaged, hostile or of another network"
        )
