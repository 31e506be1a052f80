"""Where the time goes: the parts of the start-up, images per second, and the wait for input."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import jax


class StartUp:
    """Seconds from the start of the process to the first finished step, by part."""

    def __init__(self):
        self._parts = {"Python and imports": _process_age()}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times one part."""
        began = time.monotonic()
        yield
        self._parts[name] = time.monotonic() - began

    def summary(self) -> str:
        """One line with all parts, to be asked for after the first step; what is in none of them is `first step`."""
        total = _process_age()
        parts = self._parts | {"first step": total - sum(self._parts.values())}
        listed = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items())
        kept = f"; compiled programs are kept in {folder}" if (folder := jax.config.jax_compilation_cache_dir) else ""
        return f"first step after {total:.1f} s: {listed}{kept}"


class Throughput:
    """Means of the steps' metrics since the last report, images per second, and the wait for input.

    A step's metrics are fetched when the next step is under way, so that the devices never wait for the host.

    Args:
      images: in a step.
      check: is given a step and its metrics when they are fetched; raises if the run must not go on.
    """

    def __init__(self, images: int, check: Callable[[int, dict[str, float]], None]):
        self._images, self._check = images, check
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self.restart()

    def restart(self) -> None:
        """Begins a new window."""
        self._rows: list[dict[str, float]] = []
        self._waited, self._began = 0.0, time.monotonic()

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of a step that is under way, and fetches those of the step before."""
        self.fetch()
        self._pending = step, metrics

    def fetch(self) -> None:
        """Waits for the last step, and checks its metrics."""
        if self._pending:
            (step, metrics), self._pending = self._pending, None
            row = {name: float(value) for name, value in metrics.items()}
            self._check(step, row)
            self._rows.append(row)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for input."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def report(self) -> dict[str, float]:
        """Means over the window, `images_per_second`, and `input_wait`, the fraction of the time spent waiting."""
        self.fetch()
        passed = max(time.monotonic() - self._began, 1e-9)
        means = {name: sum(row[name] for row in self._rows) / len(self._rows) for name in self._rows[0]}
        return means | {
            "images_per_second": self._images * len(self._rows) / passed,
            "input_wait": self._waited / passed,
        }


def _process_age() -> float:
    """Seconds since this process was started."""
    import psutil

    return time.time() - psutil.Process().create_time()
