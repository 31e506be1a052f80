"""Stopping on request: SIGTERM from a scheduler, Ctrl-C from a person.

In a command (`listening`) a thread acknowledges a request at once and ends the process: Python's own handlers wait for
the main thread, which may be compiling for a minute, and what they raise may come out of an import as anything. What
counts is written aside and renamed, so any moment will do; where work would be lost, the main thread is asked to save
it first (`deferred_stop`). A second request does not wait for that.
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
from pathlib import Path
from typing import NoReturn

log = logging.getLogger(__name__)

GRACE = 3.0
"""Seconds that a command has, after it has saved its work, to put the rest in order."""

_NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
_listening = False  # whether a thread ends the process
_requested = 0  # the signal that was received
_elsewhere = False  # whether another process of this run was asked
_deferred = ""  # what a request waits for; "" if it does not
_unfinished: set[Path] = set()


class Stopped(KeyboardInterrupt):
    """The end of the main thread's work, by a signal, its `number`."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {_NAMES[number]}")
        self.number = number


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """The whole of a command, which stops on request; in the main thread, before it imports much."""
    global _listening
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    _listening, acknowledged = True, threading.Event()
    for number in _NAMES:
        signal.signal(number, _receive)
    signal.set_wakeup_fd(writing)  # the number of a signal is written there at once, whatever the threads do
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
    """A context in which a first request is only recorded; if there was one, leaving raises Stopped.

    It serves other programs too; outside the main thread, where Python allows no handlers, it does nothing.

    Args:
      until: what a request waits for, for the acknowledgement: "the step under way is saved".

    Yields:
      A function that says whether there was a request: then the context should be left soon.
    """
    global _deferred, _requested, _elsewhere
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.signal(number, _receive) for number in _NAMES} if main else {}
    _deferred = until
    try:
        yield lambda: bool(_requested) or _elsewhere
    finally:
        number = _requested or (signal.SIGTERM if _elsewhere else 0)
        _requested, _elsewhere, _deferred = 0, False, ""
        for each, handler in handlers.items():
            signal.signal(each, handler)
    if number:
        raise Stopped(number)


def request_from_elsewhere() -> None:
    """Takes note, in a `deferred_stop`, that another process of this run was asked to stop.

    A signal that comes afterwards is this process's first one: what starts several processes asks them one by one.
    """
    global _elsewhere
    if not _requested:
        log.warning("another process was asked to stop: stopping once %s", _deferred)
        _elsewhere = True


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """A part of a `deferred_stop` in which a request does not wait, because nothing is lost."""
    global _deferred
    until, _deferred = _deferred, ""
    try:
        if _requested:
            raise Stopped(_requested)
        yield
    finally:
        _deferred = until


@contextlib.contextmanager
def removed_at_end(path: Path) -> Iterator[None]:
    """Removes a file when the block ends, if it is still there, or when a signal ends the process inside it."""
    _unfinished.add(path)
    try:
        yield
    finally:
        _remove(path)
        _unfinished.discard(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _receive(number: int, frame: object) -> None:
    """The handler of the signals, in the main thread."""
    global _requested
    del frame
    again, _requested = _requested, number
    if not _listening and (again or not _deferred):
        raise Stopped(number)


def _watch(reading: int, acknowledged: threading.Event) -> None:
    """Acknowledges the first request, and ends the process: when the main thread had its time, or at the second."""
    number = os.read(reading, 1)[0]
    waits = f" once {_deferred}; a second one does not wait for that" if _deferred else ""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)  # a line of progress may stand there
    log.warning("%s: stopping%s", _NAMES[number], waits)
    acknowledged.set()
    left = GRACE if _deferred else 0.0
    while left > 0 and not select.select([reading], [], [], 0.1)[0]:
        left = GRACE if _deferred else left - 0.1
    _end(number)


def _end(number: int) -> NoReturn:
    """Ends the process as the signal would have: the caller sees the usual status, and a shell's loop ends as well."""
    for path in tuple(_unfinished):
        _remove(path)
    ctypes.CDLL(None).signal(number, None)  # its default action; `signal.signal` is the main thread's alone
    os.kill(os.getpid(), number)
    time.sleep(1)
    os._exit(128 + number)  # process 1 of a container does not die of signals
