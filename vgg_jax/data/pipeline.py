"""Whole images of a source at the test scales: a tf.data pipeline in TensorFlow's graph and threads (Sec. 3.2).

As in `vgg_jax.data.training_batches`, plain JPEGs need no Python, and Pillow gives the pixels of everything else, or
the reason why there are none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

import numpy as np

from vgg_jax.data.graph import call_python, options, tensorflow, thread_count
from vgg_jax.data.rescaling import ScaledExample, check_rescaled_size, rescale
from vgg_jax.data.retry import Retrying
from vgg_jax.data.source import Source
from vgg_jax.data.unreadable import check_on_error, none_readable, reason_of, unreadable
from vgg_jax.errors import DataError


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
    check_on_error(on_error)
    indices, scales = np.fromiter(indices, np.int64), tuple(scales)
    examples = iter(_scaled(source, indices, scales, thread_count(threads)).as_numpy_iterator())

    def checked() -> Iterator[ScaledExample]:
        for index, label, size, images, problem in examples:
            if problem and on_error == "raise":
                raise unreadable(source.name_of(int(index)), problem.decode())
            images, problem = () if problem else images, problem.decode()
            yield ScaledExample(int(index), int(label), images, problem, tuple(size.tolist()))

    with contextlib.closing(checked()) as ready:
        yield ready


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
    raise none_readable(source, len(source), source.name_of(example.index), example.problem)


def _scaled(source: Source, indices: np.ndarray, scales: tuple[int, ...], threads: int):
    """The graph: a `tf.data.Dataset` of index, label, size, images and problem of each example."""
    tf, jpeg = tensorflow()
    from vgg_jax.data.decode import decode  # late: scores of arrays, whose modules import this one, need no Pillow

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
            image = decode(example["image"])
            check_rescaled_size(*image.shape[:2], [scale for scale in scales if scale])
            images = [rescale(image, scale) if scale else image for scale in scales]
            return np.int32(example["label"]), b"", np.array(image.shape[:2], np.int32), *images
        except (OSError, DataError) as error:
            none = [np.zeros((0, 0, 3), np.uint8) for _ in scales]
            return np.int32(-1), reason_of(error).encode(), np.zeros(2, np.int32), *none

    def slow(index, given, label):
        images = [(tf.uint8, [None, None, 3])] * len(scales)
        return call_python(anything, [index], (tf.int32, []), (tf.string, []), (tf.int32, [2]), *images)

    def fast(index, given, label):
        if files is None:
            given, label = call_python(record, [index], (tf.string, []), (tf.int32, []))
        return label, "", *jpeg.whole(given if files is None else tf.io.read_file(given), scales)

    def example(index, given, label):
        row = tf.data.Dataset.from_tensors((index, given, label))
        ways = row.map(graph(slow))
        if source.jpegs:
            ways = row.map(graph(fast)).ignore_errors().concatenate(ways)
        label, problem, size, *images = ways.take(1).get_single_element()
        return index, label, size, tuple(images), problem

    given = [b""] * len(indices) if files is None else [os.fsencode(files.paths[i]) for i in indices]
    label = np.zeros(len(indices), np.int32) if files is None else files.labels[indices]
    rows = tf.data.Dataset.from_tensor_slices((indices, tf.constant(given, tf.string), label))
    return rows.map(graph(example), num_parallel_calls=2 * threads).prefetch(2 * threads).with_options(options(threads))
