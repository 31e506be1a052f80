"""Work ahead of its use: by a thread that fetches what comes next, or by a few threads, in order."""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Placed = TypeVar("Placed")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@contextlib.contextmanager
def in_order(function: Callable[[Item], Placed], items: Iterable[Item], threads: int = 0) -> Iterator[Iterator[Placed]]:
    """A function's values in the order of the items, computed by a few threads, 0 for one per core.

    >>> with in_order(lambda item: item * 10, [1, 2, 3]) as values:
    ...     list(values)
    [10, 20, 30]
    """
    threads = threads or cores()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="vgg_jax.prefetch")
    pending: collections.deque[Future] = collections.deque()

    def values() -> Iterator[Placed]:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 4 * threads:
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

    An error of the iterator or of `place` is raised where the item would have come. Leaving the context stops the
    thread.

    >>> with prefetch(iter([1, 2, 3]), lambda item: item * 10) as placed:
    ...     list(placed)
    [10, 20, 30]
    """
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(entry: tuple) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(entry, timeout=0.1)
                return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(("item", place(item))):
                    return
            put(("end", None))
        except BaseException as error:
            put(("error", error))

    def consume() -> Iterator[Placed]:
        while True:
            kind, value = ready.get()
            if kind == "item":
                yield value
            elif kind == "error":
                raise value
            else:
                return

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        stopped.set()
        thread.join()
