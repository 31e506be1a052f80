"""From requests to batches: the machinery beneath the training and the evaluation stream (Sec. 3.1).

A stream asks for its k-th batch as a table of requests (which image, rescaled to what, which window), a pure function
of k. Here the requests are read, decoded and cropped by as many threads as there are cores, in an order that does not
depend on them, and every image that cannot be read is accounted for.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vgg_jax.data import crop_graph
from vgg_jax.data._tensorflow import tf
from vgg_jax.data.image_ops import decode, plain_jpeg_size
from vgg_jax.data.sources import Source
from vgg_jax.errors import DataError


class Requests(NamedTuple):
    """What one process wants in one batch, one row per image."""

    index: np.ndarray
    """int64 (b,): position in the source; -1 leaves the place empty."""
    smaller_side: np.ndarray
    """int32 (b,): what the image is rescaled to, in pixels."""
    place: np.ndarray
    """float64 (b, 2) in [0, 1): the window's place in the free room, vertically and horizontally; 0.5 is the centre."""


class BatchStream:
    """An iterator over batches of crops.

    Each is a dict of NumPy arrays: `image` uint8 (b, crop, crop, 3), RGB; `label` int32 (b,); `index` int32 (b,), the
    position in the source; `mask` float32 (b,), 0 where there is no image (its pixels, label and index are then 0).

    Attributes:
      problems: with on_error="skip", what could not be read so far, and why: {where: reason}.

    Raises (while iterating):
      DataError: with on_error="raise", an image cannot be read; the message names it.
    """

    def __init__(self, source: Source, requests: Callable[[int], Requests], batches: range, *, crop: int, threads: int,
                 on_error: str):
        """Args:
          requests: what batch k holds; every batch has the same number of rows.
          batches: the values of k to go through.
          crop: side of the crop, in pixels.
          threads: how many read and decode; 0 is one per core.
          on_error: "raise" or "skip".

        Raises:
          DataError: `on_error` is neither.
        """
        if on_error not in ("raise", "skip"):
            raise DataError(f"config.data.on_error={on_error!r}; it is 'raise' or 'skip'")
        self.problems: dict[str, str] = {}
        self._source, self._requests, self._batches, self._crop = source, requests, batches, crop
        self._threads = threads or len(os.sched_getaffinity(0))
        self._skip = on_error == "skip"
        self._for_pillow: set[int] = set()  # images on which the fast road broke down
        self._position = 0
        self._iterator = self._start()

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        try:
            batch = next(self._iterator)
        except tf.errors.InvalidArgumentError:
            # TensorFlow's decoder gave up on a stream whose header was sound, and does not say which. Pillow decides
            # what becomes of it, and the batch is made once more.
            self._divert(self._requests(self._batches[self._position]).index)
            self._iterator = self._start()
            batch = next(self._iterator)
        self._position += 1
        self._report(batch["index"], batch.pop("problem"))
        return batch

    def close(self) -> None:
        """Stops the reading threads; the stream ends here."""
        self._iterator = iter(())

    def _start(self):
        """The pipeline from the current batch on."""
        rest = self._batches[self._position :]
        options = tf.data.Options()
        options.deterministic = True
        options.autotune.enabled = False
        options.threading.private_threadpool_size = self._threads
        options.threading.max_intra_op_parallelism = 1  # images are many: one thread each wastes least
        rows = len(self._requests(rest[0]).index) if len(rest) else 1
        return iter(
            tf.data.Dataset.range(rest.start, rest.stop)
            .map(self._plan)
            .unbatch()
            .map(self._image, num_parallel_calls=2 * self._threads)
            .batch(rows, drop_remainder=True)
            .prefetch(2)
            .with_options(options)
            .as_numpy_iterator()
        )

    def _plan(self, k: tf.Tensor) -> tuple[tf.Tensor, ...]:
        index, smaller_side, place = tf.numpy_function(
            lambda k: tuple(self._requests(int(k))), [k], [tf.int64, tf.int32, tf.float64], stateful=False)
        return tf.ensure_shape(index, [None]), tf.ensure_shape(smaller_side, [None]), tf.ensure_shape(place, [None, 2])

    def _image(self, index: tf.Tensor, smaller_side: tf.Tensor, place: tf.Tensor) -> dict[str, tf.Tensor]:
        kinds = [tf.string, tf.bool, tf.int32, tf.int32, tf.int32, tf.string]
        fetched = tf.numpy_function(self._fetch, [index], kinds)
        data, plain, height, width, label, problem = (tf.ensure_shape(value, []) for value in fetched)
        present = (index >= 0) & (problem == "")
        return {
            "image": crop_graph.crop(data, plain, height, width, smaller_side, place, self._crop),
            "label": label,
            "index": tf.cast(tf.maximum(index, 0), tf.int32),
            "mask": tf.cast(present, tf.float32),
            "problem": problem,
        }

    def _fetch(self, index: np.int64):
        """An image's data for `crop_graph.crop`, its label, and why it cannot be had ("" when it can)."""
        black = b"\0\0\0", False, np.int32(1), np.int32(1), np.int32(0)
        if index < 0:
            return *black, b""
        try:
            encoded, label = self._source.read(int(index))
            size = None if int(index) in self._for_pillow else plain_jpeg_size(encoded)
            if size:
                return encoded, True, np.int32(size[0]), np.int32(size[1]), np.int32(label), b""
            image = decode(encoded)
            return image.tobytes(), False, np.int32(image.shape[0]), np.int32(image.shape[1]), np.int32(label), b""
        except OSError as error:
            return *black, (error.strerror or str(error)).encode()
        except DataError as error:
            return *black, str(error).encode()

    def _divert(self, indices: np.ndarray) -> None:
        """Finds the images of a batch that TensorFlow cannot decode, and leaves them to Pillow from now on."""
        culprits = {int(index) for index in indices if index >= 0 and not self._decodes(int(index))}
        if culprits <= self._for_pillow:
            raise  # the fault lies elsewhere
        self._for_pillow |= culprits

    def _decodes(self, index: int) -> bool:
        try:
            encoded, _ = self._source.read(index)
            if plain_jpeg_size(encoded):
                tf.io.decode_jpeg(encoded, channels=3)
            return True
        except (OSError, DataError):
            return True  # not for TensorFlow to say
        except tf.errors.InvalidArgumentError:
            return False

    def _report(self, indices: np.ndarray, problems: np.ndarray) -> None:
        for index, problem in zip(indices, problems):
            if not problem:
                continue
            where, reason = self._source.where(int(index)), problem.decode()
            if not self._skip:
                raise DataError(f"{where}: {reason}\nTo leave such images out: --config.data.on_error=skip")
            self.problems[where] = reason
