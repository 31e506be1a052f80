"""Synchronous data parallelism over whatever devices there are (Sec. 3.3).

The batch is split over the devices, the parameters are on each of them; `jax.jit` over these shardings averages the
gradients, so the result is that of one device.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vgg_jax.errors import ConfigError

BATCH_AXIS = "data"


def device_mesh() -> Mesh:
    """All devices of all processes in one row."""
    return jax.make_mesh((jax.device_count(),), (BATCH_AXIS,), axis_types=(jax.sharding.AxisType.Auto,))


def local_mesh() -> Mesh:
    """The devices of this process in one row, for work that the processes do apart."""
    return Mesh(np.array(jax.local_devices()), (BATCH_AXIS,))


def check_batch_size(key: str, batch_size: int, devices: int, microbatches: int = 1) -> None:
    """Refuses a batch that does not divide over the devices.

    Raises:
      ConfigError: with the nearest sizes that do.
    """
    unit = devices * microbatches
    if batch_size % unit:
        lower = batch_size // unit * unit
        way_out = f"use {lower} or {lower + unit}" if lower else f"use {unit}"
        over = f"{devices} device{'s' * (devices > 1)}" + (
            f" x {microbatches} microbatches" if microbatches > 1 else ""
        )
        raise ConfigError(f"{key}={batch_size} does not divide over {over}; {way_out}")


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on each device: parameters."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the devices: images, labels, keys."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXIS))


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """One global batch out of each process's share of it; returns while the copy is still under way.

    Args:
      batch: this process's share, arrays of shape (local_batch, ...).
    """
    return {name: jax.make_array_from_process_local_data(split_batch(mesh), share) for name, share in batch.items()}


def agreed(stop: bool) -> bool:
    """Whether any process was asked to stop; all processes get the same answer at the same step."""
    if jax.process_count() == 1:
        return stop
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(stop)).any())


Item = TypeVar("Item")
Placed = TypeVar("Placed")


@contextlib.contextmanager
def in_order(
    function: Callable[[Item], Placed], items: Iterable[Item], threads: int, ahead: int
) -> Iterator[Iterator[Placed]]:
    """A function's values in the order of the items, computed by a few threads, at most `ahead` of them ahead.

    >>> with in_order(lambda item: item * 10, [1, 2, 3], threads=2, ahead=4) as values:
    ...     list(values)
    [10, 20, 30]
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="vgg_jax.in_order")
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
def flattened(lists: contextlib.AbstractContextManager[Iterable[list[Item]]]) -> Iterator[Iterator[Item]]:
    """A context of lists as one of their items."""
    with lists as entered:
        yield itertools.chain.from_iterable(entered)


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
