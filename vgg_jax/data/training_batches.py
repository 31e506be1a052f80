"""Batches of random crops: a tf.data pipeline in TensorFlow's graph and threads (Sec. 3.1).

Plain JPEGs are read, decoded, rescaled and batched without Python (`vgg_jax.data.jpeg`); Python is asked for the plan
of many batches at a time, and for the records of a source that has no files. What fails there, because it is no plain
JPEG or damaged, falls back to Pillow (`vgg_jax.data.decode`), called from the same pipeline: it gives the pixels or the
reason why there are none. Every image has its own place in its batch, so nothing depends on the threads.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import numpy as np

from vgg_jax.data import decode
from vgg_jax.data.boxes import in_window
from vgg_jax.data.graph import call_python, options, tensorflow, thread_count
from vgg_jax.data.retry import Retrying
from vgg_jax.data.sampler import Requests
from vgg_jax.data.source import Source
from vgg_jax.data.unreadable import check_on_error, none_readable, reason_of, unreadable
from vgg_jax.errors import DataError

_PLANNED = 2048  # images whose requests are asked for at once
_UNREADABLE = 1024  # in a row, or as many as hold every image: then it is the data that are gone
_AHEAD = 2  # batches in the making at once, and as many waiting: one alone would leave threads idle at its end


class TrainingBatches:
    """An endless iterator over this process's shares of batches of crops.

    Each is a dict of NumPy arrays: `image` uint8 (b, crop, crop, 3), RGB; `label` int32 (b,); `index` int32 (b,), the
    position in the source; `window` float32 (b, 4), what the crop shows in pixels of the image: top, left, height,
    width; `mask` float32 (b,), 0 where there is no image (all else is then 0). With `corners` also `boxes` float32
    (b, 4), relative to the window.

    Args:
      source: where the images come from.
      sampler: the requests of batch k; the same for every call with the same k.
      crop: side of the crop, in pixels.
      corners: of a box in each example of the source, float (len(source), 4).
      start, stop: the first batch, and the one before which the iteration ends.
      threads: how many of TensorFlow's threads read and decode; 0 is one per core.
      on_error: "raise", or "skip" to give unreadable images mask 0 and list them in `problems`.

    Attributes:
      problems: with on_error="skip", what could not be read so far, and why: {name: reason}.

    Raises:
      DataError: `threads` or `on_error` is none of these; while iterating: an image cannot be read, which the message
        names, or with on_error="skip" none can.
    """

    def __init__(
        self,
        source: Source,
        sampler: Callable[[int], Requests],
        *,
        crop: int,
        corners: np.ndarray | None = None,
        start: int = 0,
        stop: int = 2**62,
        threads: int = 0,
        on_error: str = "raise",
    ):
        check_on_error(on_error)
        self.problems: dict[str, str] = {}
        self._source, self._sampler, self._crop, self._stop = source, sampler, crop, stop
        self._examples = Retrying(source)
        self._corners = corners
        self._skip, self._size, self._unreadable = on_error == "skip", len(sampler(start).index), 0
        self._planned_at_once = max(1, _PLANNED // self._size)
        self._batches = iter(self._dataset(start, thread_count(threads)).as_numpy_iterator())

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._batches)
        for index, reason in zip(batch["index"], batch.pop("reason"), strict=True):
            if reason:
                name, why = self._source.name_of(int(index)), reason.decode()
                if not self._skip:
                    raise unreadable(name, why)
                self.problems[name] = why
        self._unreadable = 0 if batch["mask"].any() else self._unreadable + np.sum(batch["index"] >= 0)
        if self._unreadable >= min(_UNREADABLE, 2 * len(self._source)):
            raise none_readable(self._source, self._unreadable, name, why)
        there = batch["mask"] > 0
        batch["index"] = np.where(there, batch["index"], 0).astype(np.int32)
        if self._corners is not None:
            batch["boxes"] = np.zeros((self._size, 4), np.float32)
            batch["boxes"][there] = in_window(self._corners[batch["index"][there]], batch["window"][there])
        return batch

    def close(self) -> None:
        """Stops TensorFlow's threads; the iteration ends here."""
        self._batches = iter(())

    def _dataset(self, start: int, threads: int):
        """The graph: a `tf.data.Dataset` of the batches, with the `reason` of each image that cannot be read."""
        tf, jpeg = tensorflow()
        graph = tf.autograph.experimental.do_not_convert
        size, crop, files = self._size, self._crop, self._source.files

        def plan(k):
            row = [None, size]
            outputs = (tf.int64, row), (tf.int32, row), (tf.float64, [*row, 2]), (tf.string, row), (tf.int32, row)
            return tf.data.Dataset.from_tensor_slices(call_python(self._planned, [k], *outputs))

        def one(row, side, place, given):
            return row, *jpeg.crop(given if files is None else tf.io.read_file(given), side, place, crop)

        def plain(index, side, place, given, label):
            """The plain JPEGs of a batch and their rows in it; a last row that is none, so that there always is one."""
            if files is None:
                given, label = call_python(self._records, [index], (tf.string, [size]), (tf.int32, [size]))
            columns = tf.range(size), side, place, given
            there = tuple(tf.boolean_mask(column, index >= 0) for column in columns)
            rows = tf.data.Dataset.from_tensor_slices(there)
            crops = rows.map(graph(one), num_parallel_calls=2 * threads).ignore_errors()
            crops = crops.concatenate(tf.data.Dataset.from_tensor_slices(none)).batch(size + 1)
            return index, side, place, label, *crops.get_single_element()

        def complete(index, side, place, label, rows, images, windows):
            """The whole batch: nearly always these are all of its images."""
            types = tf.uint8, tf.float32, tf.int32, tf.float32, tf.string
            shapes = [size, crop, crop, 3], [size, 4], [size], [size], [size]
            given = [index, side, place, label, rows[:-1], images[:-1], windows[:-1]]
            image, window, label, mask, reason = tf.cond(
                tf.size(rows) == size + 1,
                lambda: (images[:-1], windows[:-1], label, tf.ones([size]), tf.fill([size], "")),
                lambda: call_python(self._completed, given, *zip(types, shapes, strict=True)),
            )
            return {"image": image, "window": window, "label": label, "index": index, "mask": mask, "reason": reason}

        none = (tf.constant([size]), tf.zeros([1, crop, crop, 3], tf.uint8), tf.zeros([1, 4]))
        batches = tf.data.Dataset.range(start, self._stop, self._planned_at_once).flat_map(graph(plan))
        if self._source.jpegs:
            batches = batches.map(graph(plain), num_parallel_calls=_AHEAD)
        else:
            batches = batches.map(graph(lambda index, side, place, given, label: (index, side, place, label, *none)))
        batches = batches.map(graph(complete), num_parallel_calls=max(_AHEAD, threads))
        return batches.prefetch(_AHEAD).with_options(options(threads))

    # What the graph asks Python for.

    def _planned(self, k: np.int64) -> tuple[np.ndarray, ...]:
        """The requests of many batches from the k-th on, with paths and labels where each image is a file."""
        batches = range(k, min(k + self._planned_at_once, self._stop))
        index, side, place = map(np.stack, zip(*map(self._sampler, batches), strict=True))
        given, label = np.full(index.shape, b"", object), np.zeros(index.shape, np.int32)
        if (files := self._source.files) is not None:
            there = index >= 0
            given[there] = [os.fsencode(files.paths[i]) for i in index[there]]
            label[there] = files.labels[index[there]]
        return index, side.astype(np.int32), place, given, label

    def _records(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The encoded images of one batch and their labels; one that cannot be read is empty: `_completed` says why."""
        given, label = np.full(len(index), b"", object), np.zeros(len(index), np.int32)
        for row in np.flatnonzero(index >= 0):
            with contextlib.suppress(OSError, DataError):
                example = self._examples[int(index[row])]
                given[row], label[row] = example["image"], example["label"]
        return given, label

    def _completed(self, index, side, place, label, rows, images, windows) -> tuple[np.ndarray, ...]:
        """A batch of which these rows are there: image, window, label, mask and, of what cannot be read, the reason."""
        image = np.zeros((self._size, self._crop, self._crop, 3), np.uint8)
        window, mask = np.zeros((self._size, 4), np.float32), np.zeros(self._size, np.float32)
        image[rows], window[rows], mask[rows] = images, windows, 1
        label, reason = label.copy(), np.full(self._size, b"", object)
        for row in np.setdiff1d(np.flatnonzero(index >= 0), rows):
            try:
                example = self._examples[int(index[row])]
                whole = decode.upright(example["image"])
                image[row], window[row] = decode.crop(whole, int(side[row]), place[row], self._crop)
                label[row], mask[row] = example["label"], 1
            except (OSError, DataError) as error:
                reason[row] = reason_of(error).encode()
        return image, window, np.where(mask > 0, label, 0), mask, reason
