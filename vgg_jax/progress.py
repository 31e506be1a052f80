"""How far an evaluation is: done, pace, time left."""

from __future__ import annotations

import datetime
import sys
import time


class Progress:
    """A line that is rewritten in a terminal, and written every half a minute into a file.

    Args:
      what: what is counted.
    """

    def __init__(self, what: str):
        self._what, self._inplace = what, sys.stderr.isatty()
        self._began = self._shown = time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        """Shows the line if it is time to."""
        now = time.monotonic()
        if now - self._shown < (0.2 if self._inplace else 30) and not (self._inplace and done == of):
            return
        self._shown = now
        pace = done / (now - self._began)
        left = datetime.timedelta(seconds=round((of - done) / pace))
        line = f"{self._what}: {done:,}/{of:,}  {pace:,.1f} a second  left {left}"
        print(
            f"\r\033[K{line}" if self._inplace else line, end="" if self._inplace else "\n", file=sys.stderr, flush=True
        )

    def clear(self) -> None:
        """Makes room for another line."""
        if self._inplace:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
