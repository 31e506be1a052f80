"""Work ahead of its use: by a thread that fetches what comes next, or by a few threads, in order."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Placed = TypeVar("Placed")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@contextlib.contextmanager
def in_order(
    function: Callable[[Item], Placed], items: Iterable[Item], threads: int = 0, ahead: int = 0
) -> Iterator[Iterator[Placed]]:
    """A function's values in the order of the items, computed by a few threads; leaving the context stops them.

    Args:
      function: its error is raised where the value would have come.
      items: read in the caller's thread.
      threads: 0 for one per core.
      ahead: how many values are under way while one is in use, 0 for four per thread.

    >>> with in_order(lambda item: item * 10, [1, 2, 3]) as values:
    ...     list(values)
    [10, 20, 30]
    """
    threads = threads or cores()
    ahead = ahead or 4 * threads
    pool = ThreadPoolExecutor(threads, thread_name_prefix="vgg_jax.prefetch")
    pending: collections.deque[Future] = collections.deque()

    def values() -> Iterator[Placed]:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    try:
        yield values()
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def prefetch(items: Iterator[Item], place: Callable[[Item], Placed], depth: int = 2) -> Iterator[Iterator[Placed]]:
    """Fetches and places items in a thread, `depth` ahead, so that a step finds its batch on the devices.

    An error of the iterator or of `place` is raised where the item would have come; leaving the context stops it.

    >>> with prefetch(iter([1, 2, 3]), lambda item: item * 10) as placed:
    ...     list(placed)
    [10, 20, 30]
    """
    end = object()

    def fetch(_: None) -> Placed:
        item = next(items, end)
        return item if item is end else place(item)

    with in_order(fetch, itertools.repeat(None), threads=1, ahead=depth) as placed:
        yield itertools.takewhile(lambda item: item is not end, placed)
