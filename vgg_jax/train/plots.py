"""What a person looks at: the first augmented batch and the learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from vgg_jax.train import metric_writer


def save_batch(path: Path, images: np.ndarray, labels: np.ndarray, classes: Sequence[str], most: int = 32) -> None:
    """The images as the network gets them, with their class names, as a PNG.

    Args:
      path: the file to write.
      images: RGB around 0..255, shape (n, crop, crop, 3).
      labels: shape (n,).
      classes: their names.
      most: how many to show.
    """
    count = min(most, len(images))
    columns = min(8, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(1.5 * columns, 1.7 * rows), layout="constrained")
    for place, axes in enumerate(np.ravel(figure.subplots(rows, columns, squeeze=False))):
        axes.set_axis_off()
        if place < count:
            axes.imshow(np.clip(images[place], 0, 255).astype(np.uint8), interpolation="nearest")
            axes.set_title(str(classes[labels[place]])[:18], fontsize=7)
    figure.savefig(path, dpi=120)


def save_curves(workdir: Path) -> Path:
    """Loss, error and rate over the steps, from `metrics.jsonl`, as `curves.png`."""
    rows = metric_writer.read(workdir)
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    loss, error, rate = figure.subplots(1, 3)

    def draw(axes, name: str, label: str, change=lambda value: value) -> None:
        points = [(row["step"], change(row[name])) for row in rows if name in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 30 else None)

    draw(loss, "train_loss", "training")
    draw(loss, "validation_loss", "validation")
    for name, label in (
        ("train_top1", "training, top-1"),
        ("validation_top1", "validation, top-1"),
        ("validation_top5", "validation, top-5"),
    ):
        draw(error, name, label, lambda value: 100 * (1 - value))
    draw(rate, "train_rate", "learning rate")
    rate.set_yscale("log")
    for axes, title in ((loss, "loss"), (error, "error, %"), (rate, "learning rate")):
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.has_data() and axes is not rate:
            axes.legend(fontsize=8)
    path = workdir / "curves.png"
    figure.savefig(path, dpi=120)
    return path
