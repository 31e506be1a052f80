"""Results as the paper's tables, in the terminal and in files; what went wrong, as tables and pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vgg_jax.evaluate import metrics
from vgg_jax.evaluate.paper import ERRORS, Setting

TABLES = {
    3: "Table 3: single test scale",
    4: "Table 4: multiple test scales",
    5: "Table 5: dense and multi-crop evaluation",
    6: "Table 6: fusion",
    0: "Centre crop, for comparison",
}


class Row(NamedTuple):
    """One line of a table: errors are in %."""

    table: int
    network: str
    S: tuple[int, int]
    Q: tuple[int, ...]
    protocol: str
    images: int
    top1: float
    top5: float
    paper: tuple[float, float] | None
    """The paper's errors, where protocol and data are the paper's."""


def row(setting: Setting, posteriors: np.ndarray, labels: np.ndarray, *, table: int, of_the_paper: bool = False) -> Row:
    """The line for some posteriors.

    Args:
      setting: network, S, Q and protocol.
      posteriors, labels: of the images.
      table: of `TABLES`.
      of_the_paper: whether network and data are the paper's own.
    """
    found = metrics.summary(posteriors, labels)
    errors = (100 * (1 - found["top1"]), 100 * (1 - found["top5"]))
    return Row(table, *setting, len(labels), *errors, ERRORS.get(setting) if of_the_paper else None)


def markdown(rows: Sequence[Row]) -> str:
    """The rows under the paper's headings."""
    parts = []
    for number, heading in TABLES.items():
        here = [row for row in rows if row.table == number]
        if here:
            parts += [heading, "", table([_cells(row, any(row.paper for row in here)) for row in here]), ""]
    return "\n".join(parts).rstrip()


def table(rows: Sequence[dict[str, str]]) -> str:
    """A Markdown table with aligned columns.

    >>> print(table([{"network": "D", "top-1": "27.0"}]))
    | network | top-1 |
    | ------- | ----- |
    | D       | 27.0  |
    """
    names = list(rows[0])
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}

    def line(cells: dict[str, str]) -> str:
        return "| " + " | ".join(cells[name].ljust(widths[name]) for name in names) + " |"

    rule = {name: "-" * widths[name] for name in names}
    return "\n".join([line({name: name for name in names}), line(rule), *map(line, rows)])


def _cells(row: Row, with_paper: bool) -> dict[str, str]:
    cells = {
        "network": row.network,
        "S": scales_text(row.S),
        "Q": ",".join(map(str, row.Q)),
        "protocol": {"centre": "centre crop"}.get(row.protocol, row.protocol),
        "images": f"{row.images:,}",
        "top-1 error, %": f"{row.top1:.2f}",
        "top-5 error, %": f"{row.top5:.2f}",
    }
    if with_paper:
        cells["paper's top-1 / top-5"] = "{:.1f} / {:.1f}".format(*row.paper) if row.paper else "–"
    return cells


def scales_text(S: tuple[int, int]) -> str:
    """S as the paper writes it.

    >>> scales_text((256, 256)), scales_text((256, 512))
    ('256', '[256;512]')
    """
    if not any(S):
        return "–"
    return str(S[0]) if S[0] == S[1] else f"[{S[0]};{S[1]}]"


def save_tables(folder: Path, rows: Sequence[Row], heading: str) -> None:
    """Writes `tables.md`, `tables.csv` and `tables.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tables.md").write_text(f"{heading}\n\n{markdown(rows)}\n")
    records = [row._asdict() | {"S": scales_text(row.S), "Q": list(row.Q)} for row in rows]
    (folder / "tables.json").write_text(json.dumps(records, indent=1))
    with (folder / "tables.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=[*Row._fields[:-1], "paper_top1", "paper_top5"])
        writer.writeheader()
        for record in records:
            paper = record.pop("paper") or ("", "")
            flat = {"Q": " ".join(map(str, record["Q"])), "paper_top1": paper[0], "paper_top5": paper[1]}
            writer.writerow(record | flat)


def save_mistakes(
    folder: Path,
    posteriors: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    images: Sequence[str],
    read: Callable[[int], np.ndarray],
) -> None:
    """Writes what went wrong: `per_class.csv`, `confusion.csv` and `.png`, `mistakes.csv` and `.png`.

    Args:
      folder: where to.
      posteriors, labels: of the images.
      classes, images: their names.
      read: the pixels of an image by its position among the images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rank = metrics.ranks(posteriors, labels)
    confused = metrics.confusion(posteriors, labels)
    with (folder / "per_class.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "images", "top1_error", "top5_error", "most_often_taken_for"])
        for number, name in enumerate(classes):
            here = rank[labels == number]
            if len(here):
                wrong = confused[number].copy()
                wrong[number] = 0
                taken_for = classes[int(wrong.argmax())] if wrong.any() else ""
                errors = (f"{100 * (here >= most).mean():.2f}" for most in (1, 5))
                writer.writerow([name, len(here), *errors, taken_for])
    with (folder / "confusion.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["is \\ taken for", *classes])
        writer.writerows([name, *counts] for name, counts in zip(classes, confused, strict=True))
    worst = metrics.mistakes(posteriors, labels, most=24)
    with (folder / "mistakes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "is", "taken for", "probability"])
        for mistake in worst:
            writer.writerow(
                [images[mistake.image], classes[mistake.label], classes[mistake.guess], f"{mistake.probability:.4f}"]
            )
    _draw_confusion(folder / "confusion.png", confused, classes)
    if worst:
        _draw_mistakes(folder / "mistakes.png", worst, classes, [read(mistake.image) for mistake in worst])


def _draw_confusion(path: Path, confused: np.ndarray, classes: Sequence[str]) -> None:
    from matplotlib.figure import Figure

    named = len(classes) <= 40
    side = 2.5 + 0.35 * len(classes) if named else 9
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(confused / np.maximum(confused.sum(1, keepdims=True), 1), vmin=0, vmax=1, cmap="Blues")
    axes.set(xlabel="taken for", ylabel="is", title="confusion, each row's fractions")
    if named:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
        for (i, j), count in np.ndenumerate(confused):
            if count:
                dark = count > confused[i].sum() / 2
                axes.text(j, i, str(count), ha="center", va="center", fontsize=7, color="white" if dark else "black")
    figure.colorbar(shown, shrink=0.7)
    figure.savefig(path, dpi=120)


def _draw_mistakes(path: Path, worst: list[metrics.Mistake], classes: Sequence[str], images: list[np.ndarray]) -> None:
    from matplotlib.figure import Figure

    columns = min(6, len(worst))
    rows = -(-len(worst) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.5 * rows), layout="constrained")
    for place, axes in enumerate(np.ravel(figure.subplots(rows, columns, squeeze=False))):
        axes.set_axis_off()
        if place < len(worst):
            mistake = worst[place]
            axes.imshow(images[place])
            axes.set_title(
                f"{classes[mistake.label]}\ntaken for {classes[mistake.guess]}, {mistake.probability:.0%}", fontsize=8
            )
    figure.savefig(path, dpi=110)
