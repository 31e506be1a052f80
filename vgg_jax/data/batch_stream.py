"""From requests to batches: the machinery beneath the training and the evaluation stream (Sec. 3.1).

A stream asks for its k-th batch as a table of requests (which image, rescaled to what, which window), a pure function
of k. Here a few threads read, decode and crop them, a few batches ahead. Each image has its own place in its batch, so
the result cannot depend on the threads, and every image that cannot be read is accounted for.

Threads suffice because decoding and resampling leave Python's lock; what holds it bounds one process to some thousand
images a second. A host with many accelerators runs one process for each.
"""

import collections
import itertools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from vgg_jax.data.bad_images import check_on_error, error_reason, unreadable
from vgg_jax.data.decode import crop, load_jpeg_decoder
from vgg_jax.data.source import Source
from vgg_jax.errors import DataError

_AHEAD = 3  # batches in the making while one is in use
_TOGETHER = 4  # images that a thread takes on at once: fewer cost more bookkeeping, more leave threads idle at the end


class Requests(NamedTuple):
    """What one process wants in one batch, one row per image."""

    index: np.ndarray
    """int64 (b,): position in the source; -1 leaves the place empty."""
    smaller_side: np.ndarray
    """int (b,): what the image is rescaled to, in pixels."""
    place: np.ndarray
    """float64 (b, 2) in [0, 1): where the window lies, see `image_ops.crop`."""


class BatchStream:
    """An iterator over batches of crops.

    Each is a dict of NumPy arrays: `image` uint8 (b, crop, crop, 3), RGB; `label` int32 (b,); `index` int32 (b,), the
    position in the source; `mask` float32 (b,), 0 where there is no image (its pixels, label and index are then 0).

    Attributes:
      problems: with on_error="skip", what could not be read so far, and why: {where: reason}.

    Raises (while iterating):
      DataError: with on_error="raise", an image cannot be read; the message names it.
    """

    def __init__(
        self,
        source: Source,
        requests: Callable[[int], Requests],
        batches: Iterable[int],
        *,
        crop: int,
        threads: int,
        on_error: str,
    ):
        """Starts reading at once.

        Args:
          requests: what batch k holds.
          batches: the values of k to go through.
          crop: side of the crop, in pixels.
          threads: how many read and decode; 0 is one per core.
          on_error: "raise" or "skip".

        Raises:
          DataError: `threads` or `on_error` is none of these.
        """
        if threads < 0:
            raise DataError(f"config.data.threads={threads}: it is a number of threads, or 0 for one per core")
        check_on_error(on_error)
        if source.jpegs:
            load_jpeg_decoder()  # here, for an import in another thread can meet a half imported module
        self.problems: dict[str, str] = {}
        self._source, self._requests, self._batches, self._crop = source, requests, iter(batches), crop
        self._skip = on_error == "skip"
        self._pool = ThreadPoolExecutor(threads or cores(), thread_name_prefix="vgg_jax.data")
        self._pending: collections.deque[_Pending] = collections.deque()
        for _ in range(_AHEAD):
            self._begin_next()

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if not self._pending:
            self._pool.shutdown(wait=False)
            raise StopIteration
        batch, work = self._pending.popleft()
        problems = [problem for future in work for problem in future.result()]
        self._begin_next()
        for where, why in problems:
            if not self._skip:
                raise unreadable(where, why)
            self.problems[where] = why
        return batch

    def close(self) -> None:
        """Stops the threads; the stream ends here."""
        self._batches = iter(())
        self._pending.clear()
        self._pool.shutdown(cancel_futures=True)

    def _begin_next(self) -> None:
        for k in itertools.islice(self._batches, 1):
            requests = self._requests(k)
            rows = len(requests.index)
            batch = {
                "image": np.zeros((rows, self._crop, self._crop, 3), np.uint8),
                "label": np.zeros(rows, np.int32),
                "index": np.maximum(requests.index, 0).astype(np.int32),
                "mask": np.zeros(rows, np.float32),
            }
            self._pending.append(
                _Pending(
                    batch,
                    [
                        self._pool.submit(self._fill, batch, requests, range(rows)[first : first + _TOGETHER])
                        for first in range(0, rows, _TOGETHER)
                    ],
                )
            )

    def _fill(self, batch: dict[str, np.ndarray], requests: Requests, rows: range) -> list[tuple[str, str]]:
        """Puts images into their places; returns where there is none to put, and why."""
        problems = []
        for row in rows:
            index = int(requests.index[row])
            if index < 0:
                continue
            try:
                example = self._source[index]
                batch["image"][row] = crop(
                    example["image"], int(requests.smaller_side[row]), requests.place[row], self._crop
                )
                batch["label"][row], batch["mask"][row] = example["label"], 1
            except (OSError, DataError) as error:
                batch["index"][row] = 0
                problems.append((self._source.name_of(index), error_reason(error)))
        return problems


class _Pending(NamedTuple):
    batch: dict[str, np.ndarray]
    work: list[Future]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def process_slice(batch_size: int, process_index: int, process_count: int) -> slice:
    """The rows of a global batch that one of several processes reads.

    Raises:
      DataError: the batch does not divide evenly.
    """
    rows, rest = divmod(batch_size, process_count)
    if batch_size < 1 or rest:
        fits = max(batch_size - rest, process_count)
        raise DataError(f"batch_size={batch_size} does not divide over {process_count} processes; use {fits}")
    return slice(process_index * rows, (process_index + 1) * rows)
