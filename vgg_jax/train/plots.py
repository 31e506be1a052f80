"""What a person looks at: the first augmented batch and the learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vgg_jax.files import printable
from vgg_jax.train import metric_writer


def save_batch(path: Path, images: np.ndarray, titles: Sequence[str]) -> None:
    """Images as the network sees them, each with its title, as a PNG.

    Args:
      path: the file to write.
      images: RGB around 0..255, shape (n, crop, crop, 3).
      titles: n of them.
    """
    from matplotlib.figure import Figure

    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.7 * rows))
    places = np.ravel(figure.subplots(rows, columns, squeeze=False))
    figure.subplots_adjust(0.02, 0.02, 0.98, 1 - 0.15 / rows, wspace=0.05, hspace=0.2)
    for axes in places:
        axes.set_axis_off()
    for axes, image, title in zip(places, images, titles, strict=False):  # the last row may have empty places
        axes.imshow(np.clip(image, 0, 255).astype(np.uint8), interpolation="nearest")
        axes.set_title(printable(title)[:18], fontsize=7, parse_math=False)
    figure.savefig(path, dpi=120)


def save_curves(workdir: Path) -> Path:
    """Loss, the task's other metrics and the learning rate over the steps, from `metrics.jsonl`, as `curves.png`."""
    from matplotlib.figure import Figure

    rows = metric_writer.read(workdir)
    figure = Figure(figsize=(12, 3.6))
    loss, others, learning_rate = figure.subplots(1, 3)
    figure.subplots_adjust(0.06, 0.14, 0.99, 0.91, wspace=0.18)
    for column in dict.fromkeys(column for row in rows for column in row if column != "step"):
        name = column.partition("_")[2]
        axes = {"loss": loss, "learning_rate": learning_rate}.get(name, others)
        if axes is others and name in metric_writer.FORMATS:
            continue  # not a metric of the task: the pace
        points = [(row["step"], row[column] * (100 if axes is others else 1)) for row in rows if column in row]
        label = column.replace("_", " ")
        axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 30 else None)
    learning_rate.set_yscale("log")
    for axes, title in ((loss, "loss"), (others, "metrics, %"), (learning_rate, "learning rate")):
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if len(axes.lines) > 1:
            axes.legend(fontsize=8)
    path = workdir / "curves.png"
    figure.savefig(path, dpi=120)
    return path
