"""The training stream: an endless sequence of batches of random crops at random scales (Sec. 3.1).

Everything random is drawn on the host from counter-based streams: the k-th batch is a pure function of (seed, k),
whatever the number of threads, processes or earlier interruptions. Flip and colour shift happen on the device.
"""

import functools
import itertools

import numpy as np

from vgg_jax.data.batch_stream import BatchStream, Requests, process_slice
from vgg_jax.data.source import Source
from vgg_jax.errors import DataError

_ORDER, _CROPS = 0, 1  # two families of random streams that never meet


def _draws(seed: int, family: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, family, number])))


class TrainStream(BatchStream):
    """Random crops of a source, without end; see `BatchStream` for what a batch is.

    Sample t = k * batch_size + i (the i-th of batch k) is image `order[t % N]` of epoch t // N, so batches run across
    epoch borders and every epoch shows every image exactly once. S is drawn per image, uniformly among the integers
    from s_min to s_max, and the window uniformly among all its places.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        crop: int,
        scale: tuple[int, int],
        seed: int,
        start: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        threads: int = 0,
        on_error: str = "raise",
    ):
        """Args:
          source: where the images come from.
          batch_size: images in a global batch; this process reads the `process_index`-th of `process_count` shares.
          crop: side of the crop, in pixels.
          scale: (s_min, s_max), the range of S in pixels; equal for a fixed S.
          seed: of all draws.
          start: the first batch to give.
          threads: how many read and decode; 0 is one per core.
          on_error: "raise", or "skip" to give unreadable images mask 0 and list them in `problems`.

        Raises:
          DataError: the numbers do not fit together.
        """
        s_min, s_max = scale
        if not crop <= s_min <= s_max:
            raise DataError(f"scale={tuple(scale)} with crop={crop}: needs crop <= s_min <= s_max")
        self._size, self._seed, self._scale, self._batch_size = len(source), seed, (s_min, s_max), batch_size
        self._share = process_slice(batch_size, process_index, process_count)
        self._order = functools.lru_cache(maxsize=2)(self._draw_order)  # a batch may need two epochs' orders
        super().__init__(source, self.plan, itertools.count(start), crop=crop, threads=threads, on_error=on_error)

    def plan(self, k: int) -> Requests:
        """This process's share of batch k: which images, at which scale, and where the windows lie."""
        sample = k * self._batch_size + np.arange(self._batch_size)
        epoch, position = np.divmod(sample, self._size)
        index = np.empty(self._batch_size, np.int64)
        for number in np.unique(epoch):
            index[epoch == number] = self._order(int(number))[position[epoch == number]]
        # The whole global batch is drawn and then cut, so it is the same however many processes share it.
        draws = _draws(self._seed, _CROPS, k)
        smaller_side = draws.integers(*self._scale, size=self._batch_size, dtype=np.int32, endpoint=True)
        place = draws.random((self._batch_size, 2))
        return Requests(index[self._share], smaller_side[self._share], place[self._share])

    def _draw_order(self, epoch: int) -> np.ndarray:
        return _draws(self._seed, _ORDER, epoch).permutation(self._size)
