"""The line that says how far a long computation is: done, pace, time left."""

from __future__ import annotations

import datetime
import functools
import shutil
import sys
import time

import jax
from jax import monitoring

COMPILED = "/jax/core/compile/backend_compile_duration"
"""JAX's event of a program that was compiled, or found in the cache of compiled programs."""


class Progress:
    """A line that is rewritten in a terminal, and written now and then into a file.

    Args:
      what: what is counted.
      first: how many of them were done before; None for what the first report says.
      seconds: between lines in a file.
    """

    def __init__(self, what: str, *, first: int | None = 0, seconds: float = 30):
        self._what, self._first, self._in_place = what, first, sys.stderr.isatty()
        self._seconds = 0.2 if self._in_place else seconds
        self._began = self._shown = time.monotonic()
        self._compiled = _seconds_compiling()[0]

    def __call__(self, done: int, of: int, note: str = "") -> None:
        """Shows the line if it is time to.

        Args:
          note: what else there is to say; by default how many are done per second.
        """
        now = time.monotonic()
        if self._first is None:
            self._first, self._began = done, now
        if jax.distributed.is_initialized() and jax.process_index():
            return  # the first of several processes talks
        if now - self._shown < self._seconds and not (self._in_place and done == of):
            return
        self._shown = now
        # Programs are compiled at the beginning: the time that this took says nothing about what is left.
        pace = (done - self._first) / max(now - self._began - (_seconds_compiling()[0] - self._compiled), 1e-9)
        left = datetime.timedelta(seconds=round((of - done) / pace)) if pace else "unknown"
        line = f"{self._what} {done:,}/{of:,}  left {left}  {note or f'{pace:,.1f} per second'}"
        if self._in_place:  # a line that wraps could not be rewritten
            line = f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}"
        print(line, end="" if self._in_place else "\n", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Makes room for another line."""
        if self._in_place:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@functools.cache
def _seconds_compiling() -> list[float]:
    """How long this process has compiled since this was first asked, in one element that counts on."""
    total, last = [0.0], time.monotonic()

    def count(event: str, seconds: float, **_) -> None:
        nonlocal last
        if event == COMPILED:
            now = time.monotonic()
            total[0] += min(seconds, now - last)  # what threads compile at the same time counts once
            last = now

    monitoring.register_event_duration_secs_listener(count)
    return total
