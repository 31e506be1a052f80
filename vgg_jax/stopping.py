"""Stopping on request: SIGTERM from a scheduler, Ctrl-C from a person.

A request interrupts the main thread, as Ctrl-C does any Python program; where work would be lost, it is noted instead
and the work is saved first (`deferred_stop`). In a command (`listening`) a thread acknowledges it at once, since
Python's handlers wait for the main thread, which may be compiling for a minute, and ends the process if the main thread
does not within seconds, or at a second request. What counts is written aside and renamed, so any moment will do.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

log = logging.getLogger(__name__)

GRACE = 3.0
"""Seconds that a command has from its interruption to its end."""

_NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
_requested = 0  # the signal that was received first
_deferred = ""  # until when a request does not interrupt; "" if it does


class Stopped(KeyboardInterrupt):
    """The interruption of the main thread by a signal, its `number`."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {_NAMES[number]}")
        self.number = number


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """The whole of a command, which stops on request; in the main thread, before it imports much."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in _NAMES:
        signal.signal(number, _interrupt)
    signal.set_wakeup_fd(writing)  # the number of a signal is written there at once, whatever the threads do
    acknowledged = threading.Event()
    threading.Thread(target=_watch, args=[reading, acknowledged], daemon=True).start()
    try:
        yield
    except Stopped as stopped:
        acknowledged.wait(GRACE)
        _end(stopped.number)
    finally:
        for number in _NAMES:
            signal.signal(number, signal.SIG_DFL)  # what is left is Python's own end


@contextlib.contextmanager
def deferred_stop(until: str) -> Iterator[Callable[[], bool]]:
    """A context that a request does not interrupt, though a second one does; if there was one, leaving raises Stopped.

    Outside the main thread, where Python allows no handlers, it does nothing.

    Args:
      until: what comes first, for the acknowledgement: "the step under way is saved".

    Yields:
      A function that says whether there was a request: then the context should be left soon.
    """
    global _deferred, _requested
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.signal(number, _interrupt) for number in _NAMES} if main else {}
    _deferred = until
    try:
        yield lambda: bool(_requested)
    finally:
        number, _requested, _deferred = _requested, 0, ""
        for each, handler in handlers.items():
            signal.signal(each, handler)
    if number:
        raise Stopped(number)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """A part of a `deferred_stop` that may be interrupted, for nothing is lost."""
    global _deferred
    until, _deferred = _deferred, ""
    try:
        if _requested:
            raise Stopped(_requested)
        yield
    finally:
        _deferred = until


def _interrupt(number: int, frame: object) -> None:
    """The handler of the signals, in the main thread."""
    global _requested
    del frame
    again, _requested = _requested, number
    if again or not _deferred:
        raise Stopped(number)


def _watch(reading: int, acknowledged: threading.Event) -> None:
    """Acknowledges the first request; ends the process at the second, or when its time is over."""
    number = os.read(reading, 1)[0]
    first = f" once {_deferred}" if _deferred else ""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)  # a line of progress may stand there
    log.warning("%s: stopping%s; a second one ends this at once", _NAMES[number], first)
    acknowledged.set()
    left = GRACE
    while left > 0 and not select.select([reading], [], [], 0.1)[0]:
        left = GRACE if _deferred else left - 0.1
    _end(number)


def _end(number: int) -> NoReturn:
    """Ends the process as the signal would have: the caller sees the usual status, and a shell's loop ends as well."""
    ctypes.CDLL(None).signal(number, None)  # its default action; `signal.signal` is the main thread's alone
    os.kill(os.getpid(), number)
    time.sleep(1)
    os._exit(128 + number)  # process 1 of a container does not die of signals
