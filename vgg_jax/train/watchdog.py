"""Ends a process that waits for another one that is stuck (Sec. 3.3).

JAX notices a process that has died; one that is alive and does not move holds all the others for ever
(github.com/jax-ml/jax/issues/38503). What started them starts all of them again, and they go on from the last
checkpoint.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import jax

from vgg_jax import processes

MOMENT = 5.0
"""Seconds that the report may take."""


class Watchdog:
    """Ends one of several processes with status 1 if it has made no progress for longer than allowed.

    Args:
      limit: seconds.
      report: is called then; it says in a word what is saved.
    """

    def __init__(self, limit: float, report: Callable[[], str]):
        self._limit, self._report, self._closed = limit, report, threading.Event()
        self.progressed()
        if jax.process_count() > 1:
            threading.Thread(target=self._watch, daemon=True).start()

    def progressed(self) -> None:
        """Takes note of a step, or of another part of what the processes do together."""
        self._last: float | None = time.monotonic()

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Work on this process's share, which may take any time, and others longer."""
        self._last = None
        yield
        self.progressed()

    def close(self) -> None:
        """Watches no longer."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._limit / 4)):
            if (last := self._last) and time.monotonic() - last > self._limit:
                self._end()

    def _end(self) -> None:
        said: list[str] = []  # by a thread, for the disk may be what is stuck
        asking = threading.Thread(target=lambda: said.append(self._report()), daemon=True)
        asking.start()
        asking.join(MOMENT)
        why = f"no progress for {self._limit:g} seconds (config.mesh.patience): another process is stuck, or gone"
        processes.give_up(f"{why}. Start all of them again{''.join(f': {each}' for each in said)}")
