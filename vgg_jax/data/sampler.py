"""Which images, at which scale, in which window: batch k as a pure function of (seed, k) (Sec. 3.1).

Everything random on the host is drawn from counter-based streams, so the k-th batch is the same whatever the number of
threads, processes or earlier interruptions: resuming needs k alone. Flip and color shift happen on the device.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

ORDER, CROPS, CACHED_ORDER, CACHED_CROPS = range(4)
"""Families of random streams on the host, which never meet; the device's draws come from `jax.random`."""


def generator(seed: int, family: int, *numbers: int) -> np.random.Generator:
    """The random stream of a seed, a family and any numbers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, family, *numbers])))


class Requests(NamedTuple):
    """What one process wants in one batch, one row per image."""

    index: np.ndarray
    """int64 (b,): position in the source; -1 leaves the place empty."""
    smaller_side: np.ndarray
    """int32 (b,): S, what the image is rescaled to, in pixels."""
    place: np.ndarray
    """float64 (b, 2) in [0, 1): where the window lies in the free room, vertically and horizontally."""


class EpochOrder:
    """An endless sequence in which every epoch shows every image exactly once, in a new order.

    Sample t = k * batch_size + i (the i-th of batch k) is image `order[t % N]` of epoch t // N, so batches run across
    the borders of epochs.

    Args:
      size: N, how many images there are.
      batch_size: images in a global batch.
      seed, family: of the orders.
    """

    def __init__(self, size: int, batch_size: int, seed: int, family: int = ORDER):
        self._size, self._batch_size = size, batch_size
        draw = lambda epoch: generator(seed, family, epoch).permutation(size)
        self._order = functools.lru_cache(maxsize=2)(draw)  # a batch may need two epochs' orders

    def __call__(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The images of batch k and the epochs they belong to, int64 (batch_size,) each."""
        epoch, position = np.divmod(k * self._batch_size + np.arange(self._batch_size), self._size)
        index = np.empty(self._batch_size, np.int64)
        for number in np.unique(epoch):
            index[epoch == number] = self._order(int(number))[position[epoch == number]]
        return index, epoch


class Sampler:
    """Random crops: S is drawn per image, uniformly among the integers of its range, and the window among all places.

    Args:
      size: how many images the source has.
      batch_size: images in a global batch.
      scale: (Smin, Smax), the range of S in pixels, not below the crop; equal for a fixed S.
      seed: of all draws.
      rows: int64 (b,), which of the batch are asked for; None for all.
    """

    def __init__(
        self, size: int, *, batch_size: int, scale: tuple[int, int], seed: int, rows: np.ndarray | None = None
    ):
        self._order = EpochOrder(size, batch_size, seed)
        self._batch_size, self._scale, self._seed = batch_size, scale, seed
        self._rows = slice(None) if rows is None else rows

    def __call__(self, k: int) -> Requests:
        """These rows of batch k."""
        index, _ = self._order(k)
        # The whole global batch is drawn, so it is the same however many processes share it.
        draws = generator(self._seed, CROPS, k)
        smaller_side = draws.integers(*self._scale, size=self._batch_size, dtype=np.int32, endpoint=True)
        place = draws.random((self._batch_size, 2))
        return Requests(index[self._rows], smaller_side[self._rows], place[self._rows])
