"""Where the time goes: the parts of the start-up, images a second, and the wait for input."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class StartUp:
    """Seconds from the process's start to the first finished step, by part."""

    def __init__(self):
        self._parts = {"Python and imports": _process_age()}
        self.running = True

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times one part."""
        began = time.monotonic()
        yield
        self._parts[name] = self._parts.get(name, 0.0) + time.monotonic() - began

    def summary(self) -> str:
        """One line with all parts, after the first step; what is in none of them is `first step`."""
        self.running = False
        total = _process_age()
        parts = self._parts | {"first step": total - sum(self._parts.values())}
        return f"first step after {total:.1f} s: " + ", ".join(
            f"{name} {seconds:.1f}" for name, seconds in parts.items()
        )


class Throughput:
    """Means of the metrics over the steps since the last report, and the pace of those steps.

    Args:
      images: in a step.
    """

    def __init__(self, images: int):
        self._images = images
        self.restart()

    def restart(self) -> None:
        """Begins a new window."""
        self._rows: list[dict[str, float]] = []
        self._waited, self._began = 0.0, time.monotonic()

    def add(self, metrics: dict[str, float]) -> None:
        """A finished step's metrics."""
        self._rows.append(metrics)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for input."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def means(self) -> dict[str, float]:
        """`train_*` means over the window, images a second, and the fraction of the time spent waiting for input."""
        passed = max(time.monotonic() - self._began, 1e-9)
        means = {f"train_{name}": sum(row[name] for row in self._rows) / len(self._rows) for name in self._rows[0]}
        return means | {
            "train_images_per_second": self._images * len(self._rows) / passed,
            "train_input_wait": self._waited / passed,
        }


def _process_age() -> float:
    """Seconds since this process was started."""
    import psutil

    return time.time() - psutil.Process().create_time()
