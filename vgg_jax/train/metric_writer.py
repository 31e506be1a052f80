"""A run's metrics: as JSON lines, for TensorBoard, and as text."""

from __future__ import annotations

import importlib
import json
import logging
import operator
from collections.abc import Mapping
from pathlib import Path

from vgg_jax.files import set_aside, written_aside

log = logging.getLogger(__name__)

FILE = "metrics.jsonl"

FORMATS = {
    "loss": "{:.4f}",
    "learning_rate": "{:.1e}",
    "gradient_norm": "{:.3g}",
    "images": "{:,.0f}",
    "images_per_second": "{:,.0f}",
    "input_wait": "{:.1%}",
}
"""How values are written that are not a task's fractions; those are written as percentages."""

_RENAMED = {"train_rate": "train_learning_rate"}
"""What columns were once called: in files that are still read."""


class MetricWriter:
    """Writes the metrics of a run; with `write=False` (not the first process) it keeps silent.

    Args:
      workdir: the run's folder; `metrics.jsonl` and `tensorboard/` are in it.
      steps: of the last "train" and the last "validation" line that count; later ones, from an attempt that was cut
        off, are dropped.
    """

    def __init__(self, workdir: Path, steps: Mapping[str, int], write: bool):
        self._path, self._write = workdir / FILE, write
        self._summaries = None
        if write:
            rows, damaged = _rows(self._path)
            if damaged:
                log.warning(
                    "%s: no metrics in %d of its lines, the first is line %d: left out; the file as it was is now %s",
                    *(self._path, len(damaged), damaged[0], set_aside(self._path).name),
                )
            last = lambda row: steps["validation" if any(name.startswith("validation_") for name in row) else "train"]
            kept = [row for row in rows if row["step"] <= last(row)]
            with written_aside(self._path) as partial:
                partial.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def __call__(self, step: int, prefix: str, metrics: Mapping[str, float]) -> None:
        """One row: `loss` of the prefix `train` as `train_loss`, in TensorBoard `train/loss`."""
        if not self._write:
            return
        with self._path.open("a") as file:
            row = {"step": step} | {f"{prefix}_{name}": value for name, value in metrics.items()}
            file.write(json.dumps(row) + "\n")
        if self._summaries is None:
            # The import brings TensorFlow and takes seconds: not before the first steps are done.
            importlib.import_module("vgg_jax.data._tensorflow")  # first, so that it is quiet and off the accelerators
            from clu import metric_writers

            folder = str(self._path.parent / "tensorboard")
            self._summaries = metric_writers.AsyncWriter(metric_writers.SummaryWriter(folder))
        self._summaries.write_scalars(step, {f"{prefix}/{name}": value for name, value in metrics.items()})

    def flush(self) -> None:
        """Returns when the summaries so far are in their file."""
        if self._summaries is not None:
            self._summaries.flush()

    def close(self) -> None:
        """Completes the summaries."""
        if self._summaries is not None:
            self._summaries.close()


def read(workdir: Path) -> list[dict]:
    """The rows of `metrics.jsonl`, none if there is no such file; what is no row, as a kill leaves it, is left out."""
    return _rows(workdir / FILE)[0]


def _rows(path: Path) -> tuple[list[dict], list[int]]:
    """The rows of a file, and the numbers of lines that are none; a last line that was cut off is not among them."""
    rows, damaged = [], []
    *lines, cut_off = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for number, line in enumerate([*lines, cut_off], start=1):
        try:
            row = {_RENAMED.get(name, name): value + 0 for name, value in json.loads(line).items()}
            rows.append(row | {"step": operator.index(row["step"])})
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):  # no JSON, no numbers, no step
            if number <= len(lines):
                damaged.append(number)
    return rows, damaged


def as_text(metrics: Mapping[str, float]) -> str:
    """Metrics by name in a line, the task's first.

    >>> as_text({"learning_rate": 0.01, "images": 50_000, "loss": 1.18629, "top1": 0.3958})
    'loss 1.1863  top1 39.58%  learning rate 1.0e-02  images 50,000'
    """
    names = sorted(metrics, key=lambda name: name in FORMATS and name != "loss")
    return "  ".join(f"{name.replace('_', ' ')} {FORMATS.get(name, '{:.2%}').format(metrics[name])}" for name in names)
