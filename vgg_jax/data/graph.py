"""tf.data as the pipelines use it: threads of their own, a fixed order, and calls of Python from the graph."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from vgg_jax.errors import DataError
from vgg_jax.prefetch import cores


def call_python(function: Callable, arguments: list, *outputs: tuple) -> tuple:
    """A function in Python called from the graph; `outputs` are the dtype and the shape of each result."""
    tf, _ = tensorflow()
    results = tf.numpy_function(function, arguments, [dtype for dtype, _ in outputs])
    for result, (_, shape) in zip(results, outputs, strict=True):
        result.set_shape(shape)
    return tuple(results)


def options(threads: int):
    """Of a data set with threads of its own, in a fixed order."""
    tf, _ = tensorflow()
    chosen = tf.data.Options()
    chosen.threading.private_threadpool_size = threads
    chosen.autotune.enabled = False
    chosen.deterministic = True
    return chosen


def thread_count(threads: int) -> int:
    """`config.data.threads`, or one thread per core.

    Raises:
      DataError: it is negative.
    """
    if threads < 0:
        raise DataError(f"config.data.threads={threads}: it is a number of threads, or 0 for one per core")
    return threads or cores()


def tensorflow():
    """TensorFlow and the functions in its graph; late, because it takes seconds to import."""
    return importlib.import_module("vgg_jax.data._tensorflow").tf, importlib.import_module("vgg_jax.data.jpeg")
