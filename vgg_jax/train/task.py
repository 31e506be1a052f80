"""The contract of a task: what the training loop asks; `vgg_jax.tasks` has the implementations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import jax
import numpy as np

from vgg_jax.data.source import Source
from vgg_jax.model.vgg import VGG
from vgg_jax.train.step import Batch, Metrics


class Task(Protocol):
    """What a network is trained for: its data, its loss, and how good a network is at it."""

    source: Source
    """The training images."""
    classes: Sequence[str]
    """Their classes, which a checkpoint names."""
    outputs: int
    """Channels of the network's last layer."""
    mean_rgb: tuple[float, float, float]
    """Of the training images, in 0..255: what a network that is randomly initialized subtracts."""
    monitor: str
    """The metric of `evaluate` that the schedule and the best checkpoint follow; higher is better."""
    batch_shapes: dict[str, jax.ShapeDtypeStruct]
    """The arrays of a global batch that the loss reads, all of one length; `mask` (n,) float32 is among them."""
    problems: Mapping[str, str]
    """What could not be read so far, in training and evaluation, and was left out: {name: reason}."""

    def batches(self, net: VGG, start: int) -> Iterator[dict[str, np.ndarray]]:
        """This process's shares of the batches from the `start`-th on, without end; the iterator has a `close()`.

        Args:
          net: the network as it is before the update `start`.
        """

    def images(self, k: int) -> Sequence[str]:
        """The names of all images of batch k, whichever process reads them."""

    def loss(self, net: VGG, batch: Batch, keys: jax.Array) -> tuple[jax.Array, Metrics]:
        """What is minimized, and metrics by name, each summed over the images whose mask is 1.

        Args:
          net: the network, in training.
          batch: as it was read: the loss augments it.
          keys: one PRNG key per image, for all that is random.
        """

    def evaluate(self, net: VGG) -> dict[str, float]:
        """Metrics by name, `monitor` among them: fractions, and what `vgg_jax.train.metric_writer.FORMATS` names."""

    def preview(self, batch: dict[str, np.ndarray], keys: jax.Array) -> tuple[np.ndarray, Sequence[str]]:
        """The first images of batch 0 as the network sees them, RGB around 0..255 (n, h, w, 3), and a title for each.

        Args:
          batch: its first n rows.
          keys: as in `loss`.
        """
