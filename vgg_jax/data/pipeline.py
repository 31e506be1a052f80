"""From a source's index to pixels: a tf.data pipeline in TensorFlow's graph and threads (Sec. 3.1, 3.2).

Plain JPEGs are read, decoded, rescaled and batched without Python (`vgg_jax.data.jpeg`); Python is asked for the plan
of many batches at a time, and for the records of a source that has no files. What fails there, because it is no plain
JPEG or damaged, falls back to Pillow (`vgg_jax.data.decode`), called from the same pipeline: it gives the pixels or the
reason why there are none. Every image has its own place in its batch, so nothing depends on the threads.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vgg_jax.data import decode
from vgg_jax.data.boxes import in_window
from vgg_jax.data.retry import Retrying
from vgg_jax.data.sampler import Requests
from vgg_jax.data.source import Source
from vgg_jax.errors import DataError
from vgg_jax.prefetch import cores

_PLANNED = 2048  # images whose requests are asked for at once
_UNREADABLE = 1024  # in a row, or as many as hold every image: then it is the data that are gone
_AHEAD = 2  # batches in the making at once, and as many waiting: one alone would leave threads idle at its end


class ScaledExample(NamedTuple):
    """An example of a source, rescaled."""

    index: int
    """Its position in the source."""
    label: int
    images: tuple[np.ndarray, ...]
    """RGB uint8 (height, width, 3), one for each scale; none if it could not be read."""
    problem: str
    """Why it could not be read, or ""."""
    size: tuple[int, int] = (0, 0)
    """Height and width of the image as it was decoded, in pixels."""


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
        _check_on_error(on_error)
        self.problems: dict[str, str] = {}
        self._source, self._sampler, self._crop, self._stop = source, sampler, crop, stop
        self._examples = Retrying(source)
        self._corners = corners
        self._skip, self._size, self._unreadable = on_error == "skip", len(sampler(start).index), 0
        self._planned_at_once = max(1, _PLANNED // self._size)
        self._batches = iter(self._dataset(start, _thread_count(threads)).as_numpy_iterator())

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._batches)
        for index, reason in zip(batch["index"], batch.pop("reason"), strict=True):
            if reason:
                name, why = self._source.name_of(int(index)), reason.decode()
                if not self._skip:
                    raise _unreadable(name, why)
                self.problems[name] = why
        self._unreadable = 0 if batch["mask"].any() else self._unreadable + np.sum(batch["index"] >= 0)
        if self._unreadable >= min(_UNREADABLE, 2 * len(self._source)):
            raise _none_readable(self._source, self._unreadable, name, why)
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
        tf, jpeg = _tensorflow()
        graph = tf.autograph.experimental.do_not_convert
        size, crop, files = self._size, self._crop, self._source.files

        def plan(k):
            row = [None, size]
            outputs = (tf.int64, row), (tf.int32, row), (tf.float64, [*row, 2]), (tf.string, row), (tf.int32, row)
            return tf.data.Dataset.from_tensor_slices(_python(self._planned, [k], *outputs))

        def one(row, side, place, given):
            return row, *jpeg.crop(given if files is None else tf.io.read_file(given), side, place, crop)

        def plain(index, side, place, given, label):
            """The plain JPEGs of a batch and their rows in it; a last row that is none, so that there always is one."""
            if files is None:
                given, label = _python(self._records, [index], (tf.string, [size]), (tf.int32, [size]))
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
                lambda: _python(self._completed, given, *zip(types, shapes, strict=True)),
            )
            return {"image": image, "window": window, "label": label, "index": index, "mask": mask, "reason": reason}

        none = (tf.constant([size]), tf.zeros([1, crop, crop, 3], tf.uint8), tf.zeros([1, 4]))
        batches = tf.data.Dataset.range(start, self._stop, self._planned_at_once).flat_map(graph(plan))
        if self._source.jpegs:
            batches = batches.map(graph(plain), num_parallel_calls=_AHEAD)
        else:
            batches = batches.map(graph(lambda index, side, place, given, label: (index, side, place, label, *none)))
        batches = batches.map(graph(complete), num_parallel_calls=max(_AHEAD, threads))
        return batches.prefetch(_AHEAD).with_options(_options(threads))

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
                reason[row] = _reason(error).encode()
        return image, window, np.where(mask > 0, label, 0), mask, reason


@contextlib.contextmanager
def scaled_images(
    source: Source, indices: Sequence[int], scales: Sequence[int], *, threads: int = 0, on_error: str = "raise"
) -> Iterator[Iterator[ScaledExample]]:
    """A context with examples of a source in the order of `indices`, their images whole at every one of the scales Q.

    Args:
      source: the images.
      indices: which of them.
      scales: the test scales Q: what an image's smaller side is rescaled to, in pixels; 0 for the image's own size.
      threads: how many of TensorFlow's threads read, decode and rescale; 0 for one per core.
      on_error: "raise", or "skip" to give an example without images, and its problem.

    Raises (while iterating):
      DataError: with on_error="raise", an image cannot be read or is too elongated; the message names it.
    """
    _check_on_error(on_error)
    indices, scales = np.fromiter(indices, np.int64), tuple(scales)
    examples = iter(_scaled(source, indices, scales, _thread_count(threads)).as_numpy_iterator())

    def checked() -> Iterator[ScaledExample]:
        for index, label, size, images, problem in examples:
            if problem and on_error == "raise":
                raise _unreadable(source.name_of(int(index)), problem.decode())
            images, problem = () if problem else images, problem.decode()
            yield ScaledExample(int(index), int(label), images, problem, tuple(size.tolist()))

    with contextlib.closing(checked()) as ready:
        yield ready


def _check_on_error(on_error: str) -> None:
    """Raises DataError unless it is "raise" or "skip"."""
    if on_error not in ("raise", "skip"):
        raise DataError(f"config.data.on_error={on_error!r}: it is 'raise' or 'skip'")


def check_readable(source: Source, scale: int, *, threads: int = 0, on_error: str = "raise") -> None:
    """Reads the first image of a source, or with on_error="skip" the first that can be read.

    Args:
      source: the images.
      scale: what it is rescaled to: a test scale Q.
      threads, on_error: as in `scaled_images`.

    Raises:
      DataError: it cannot be read, or none can.
    """
    indices = range(len(source) if on_error == "skip" else 1)
    with scaled_images(source, indices, (scale,), threads=threads, on_error=on_error) as examples:
        for example in examples:
            if not example.problem:
                return
    raise _none_readable(source, len(source), source.name_of(example.index), example.problem)


def _reason(error: OSError | DataError) -> str:
    """Why an image cannot be read, without where it lies."""
    return getattr(error, "strerror", None) or str(error)


def _unreadable(where: str, reason: str) -> DataError:
    """The error for a run that such an image stops."""
    return DataError(f"{where}: {reason}\nTo leave such images out: --config.data.on_error=skip")


def _none_readable(source: Source, count: int, name: str, reason: str) -> DataError:
    """The error for a run of which even config.data.on_error=skip leaves nothing."""
    count = min(count, len(source))
    return DataError(f"{source.describe()}: none of {count:,} images can be read; the last of them is {name}: {reason}")


def _scaled(source: Source, indices: np.ndarray, scales: tuple[int, ...], threads: int):
    """The graph: a `tf.data.Dataset` of index, label, size, images and problem of each example."""
    tf, jpeg = _tensorflow()
    graph = tf.autograph.experimental.do_not_convert
    files, examples = source.files, Retrying(source)

    def record(index: np.int64) -> tuple[bytes, np.int32]:
        try:
            example = examples[int(index)]
            return example["image"], np.int32(example["label"])
        except (OSError, DataError):  # the Pillow fallback says why
            return b"", np.int32(0)

    def anything(index: np.int64) -> tuple:
        try:
            example = examples[int(index)]
            image = decode.decode(example["image"])
            decode.check_rescaled_size(*image.shape[:2], [scale for scale in scales if scale])
            images = [decode.rescale(image, scale) if scale else image for scale in scales]
            return np.int32(example["label"]), b"", np.array(image.shape[:2], np.int32), *images
        except (OSError, DataError) as error:
            none = [np.zeros((0, 0, 3), np.uint8) for _ in scales]
            return np.int32(-1), _reason(error).encode(), np.zeros(2, np.int32), *none

    def slow(index, given, label):
        images = [(tf.uint8, [None, None, 3])] * len(scales)
        return _python(anything, [index], (tf.int32, []), (tf.string, []), (tf.int32, [2]), *images)

    def fast(index, given, label):
        if files is None:
            given, label = _python(record, [index], (tf.string, []), (tf.int32, []))
        return label, "", *jpeg.whole(given if files is None else tf.io.read_file(given), scales)

    def example(index, given, label):
        row = tf.data.Dataset.from_tensors((index, given, label))
        ways = (
            row.map(graph(fast)).ignore_errors().concatenate(row.map(graph(slow)))
            if source.jpegs
            else row.map(graph(slow))
        )
        label, problem, size, *images = ways.take(1).get_single_element()
        return index, label, size, tuple(images), problem

    given = [b""] * len(indices) if files is None else [os.fsencode(files.paths[i]) for i in indices]
    label = np.zeros(len(indices), np.int32) if files is None else files.labels[indices].astype(np.int32)
    rows = tf.data.Dataset.from_tensor_slices((indices, tf.constant(given, tf.string), label))
    return (
        rows.map(graph(example), num_parallel_calls=2 * threads).prefetch(2 * threads).with_options(_options(threads))
    )


def _python(function: Callable, arguments: list, *outputs: tuple) -> tuple:
    """A function in Python called from the graph; `outputs` are the dtype and the shape of each result."""
    tf, _ = _tensorflow()
    results = tf.numpy_function(function, arguments, [dtype for dtype, _ in outputs])
    for result, (_, shape) in zip(results, outputs, strict=True):
        result.set_shape(shape)
    return tuple(results)


def _options(threads: int):
    tf, _ = _tensorflow()
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.autotune.enabled = False
    options.deterministic = True
    return options


def _thread_count(threads: int) -> int:
    if threads < 0:
        raise DataError(f"config.data.threads={threads}: it is a number of threads, or 0 for one per core")
    return threads or cores()


def _tensorflow():
    """TensorFlow and the functions in its graph; late, because it takes seconds to import."""
    return importlib.import_module("vgg_jax.data._tensorflow").tf, importlib.import_module("vgg_jax.data.jpeg")
