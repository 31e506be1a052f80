"""What went wrong, for people: errors by class, the confusion matrix, the most confident mistakes (Sec. 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vgg_jax.evaluate.metrics import ranks
from vgg_jax.evaluate.tables import save_csv
from vgg_jax.files import drawing, printable

MOST = 24
"""Mistakes that are listed and shown, the most confident ones."""


def save_mistakes(
    folder: Path,
    posteriors: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    images: Sequence[str],
    read: Callable[[int], np.ndarray],
    score: str = "probability",
) -> None:
    """Writes what went wrong: `per_class.csv`, `confusion.csv` and `.png`, `mistakes.csv` and `.png`.

    A picture that cannot be drawn is reported, and that is all. Without mistakes there is no `mistakes.png`, and one
    of an earlier evaluation is removed.

    Args:
      folder: where to.
      posteriors, labels: of the images.
      classes, images: their names.
      read: the pixels of an image by its position among the images.
      score: what the posteriors are; decisions of a classifier will do as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rank, guesses, sure = ranks(posteriors, labels), posteriors.argmax(1), posteriors.max(1)
    confused = np.zeros((len(classes), len(classes)), int)
    np.add.at(confused, (labels, guesses), 1)
    others = confused * ~np.eye(len(classes), dtype=bool)
    wrong = np.flatnonzero(guesses != labels)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:MOST]
    by_class = []
    for number, name in enumerate(classes):
        here = rank[labels == number]
        if len(here):
            taken_for = classes[others[number].argmax()] if others[number].any() else ""
            by_class.append([name, len(here), *(f"{100 * (here >= most).mean():.2f}" for most in (1, 5)), taken_for])
    header = ["class", "images", "top1_error", "top5_error", "most_often_taken_for"]
    save_csv(folder / "per_class.csv", header, by_class)
    counts = [[name, *counts] for name, counts in zip(classes, confused, strict=True)]
    save_csv(folder / "confusion.csv", ["is \\ taken for", *classes], counts)
    named = [[images[i], classes[labels[i]], classes[guesses[i]], f"{sure[i]:.4f}"] for i in worst]
    save_csv(folder / "mistakes.csv", ["image", "is", "taken for", score], named)
    shown = [printable(name) for name in classes]
    with drawing(folder / "confusion.png") as path:
        _draw_confusion(path, confused, shown)
    if len(worst):
        form = "{:.0%}" if score == "probability" else f"{score} {{:.2f}}"
        titles = [f"{shown[labels[i]]}\ntaken for {shown[guesses[i]]}, {form.format(sure[i])}" for i in worst]
        with drawing(folder / "mistakes.png") as path:
            _draw_mistakes(path, [read(i) for i in worst.tolist()], titles)
    else:
        (folder / "mistakes.png").unlink(missing_ok=True)


def _draw_confusion(path: Path, confused: np.ndarray, classes: Sequence[str]) -> None:
    from matplotlib.figure import Figure

    named = len(classes) <= 40
    side = 2.5 + 0.35 * len(classes) if named else 9
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(confused / np.maximum(confused.sum(1, keepdims=True), 1), vmin=0, vmax=1, cmap="Blues")
    axes.set(xlabel="taken for", ylabel="is", title="confusion, each row's fractions")
    if named:
        axes.set_xticks(range(len(classes)), classes, rotation=90, parse_math=False)
        axes.set_yticks(range(len(classes)), classes, parse_math=False)
        for (i, j), count in np.ndenumerate(confused):
            if count:
                dark = count > confused[i].sum() / 2
                axes.text(j, i, str(count), ha="center", va="center", fontsize=7, color="white" if dark else "black")
    figure.colorbar(shown, shrink=0.7)
    figure.savefig(path, dpi=120)


def _draw_mistakes(path: Path, images: Sequence[np.ndarray], titles: Sequence[str]) -> None:
    from matplotlib.figure import Figure

    columns = min(6, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.5 * rows), layout="constrained")
    for place, (image, title) in enumerate(zip(images, titles, strict=True), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(image)
        axes.set_title(title, fontsize=8, parse_math=False)
        axes.set_axis_off()
    figure.savefig(path, dpi=110)
