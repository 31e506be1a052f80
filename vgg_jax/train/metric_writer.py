"""What a run tells: a progress line in the terminal, metrics as JSON lines and for TensorBoard."""

from __future__ import annotations

import datetime
import importlib
import json
import sys
import time
from pathlib import Path

FILE = "metrics.jsonl"


class MetricWriter:
    """Writes the metrics of a run; with `write=False` (not the first process) it keeps silent.

    Args:
      workdir: the run's folder; `metrics.jsonl` and `tensorboard/` are in it.
      step: where the run stands; lines of later steps, from an attempt that was cut off, are dropped.
    """

    def __init__(self, workdir: Path, step: int, write: bool):
        self._path, self._write = workdir / FILE, write
        self._summaries = None
        if write:
            kept = [row for row in read(workdir) if row["step"] <= step]
            partial = self._path.with_suffix(".partial")
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
            partial.replace(self._path)  # never half a history

    def metrics(self, step: int, **values: float) -> None:
        """One row: values by name, `train/loss` as `train_loss`."""
        if not self._write:
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._summaries is None:
            # The import brings TensorFlow and takes seconds: not before the first steps are done.
            importlib.import_module("vgg_jax.data._tensorflow")  # first, so that it is quiet and off the accelerators
            from clu import metric_writers

            folder = str(self._path.parent / "tensorboard")
            self._summaries = metric_writers.AsyncWriter(metric_writers.SummaryWriter(folder))
        self._summaries.write_scalars(step, {name.replace("_", "/", 1): value for name, value in values.items()})

    def close(self) -> None:
        """Completes the summaries."""
        if self._summaries is not None:
            self._summaries.close()


def read(workdir: Path) -> list[dict]:
    """The rows of `metrics.jsonl`, none if there is no such file; a last line cut off by a kill is left out."""
    path, rows = workdir / FILE, []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Progress:
    """The line that says how far a run is; rewritten in place in a terminal, a line each in a file.

    Args:
      first, last: the steps between which this process works.
      images: images a step.
    """

    def __init__(self, first: int, last: int, images: int):
        self._first, self._last, self._images = first, last, images
        self._began, self._inplace = time.monotonic(), sys.stderr.isatty()

    def show(self, step: int, metrics: dict[str, float]) -> None:
        """Shows a step's metrics and the time left, by the mean pace so far, evaluations included."""
        passed = time.monotonic() - self._began
        left = passed / max(step - self._first, 1) * (self._last - step)
        line = (
            f"step {step:,}/{self._last:,}  loss {metrics['train_loss']:.4f}  top-1 {metrics['train_top1']:.1%}  "
            f"rate {metrics['train_rate']:.1e}  {metrics['train_images_per_second']:,.0f} images/s  "
            f"input wait {metrics['train_input_wait']:.1%}  left {datetime.timedelta(seconds=round(left))}"
        )
        print(
            f"\r\033[K{line}" if self._inplace else line, end="" if self._inplace else "\n", file=sys.stderr, flush=True
        )

    def clear(self) -> None:
        """Makes room for another line."""
        if self._inplace:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
