"""Results as the paper's tables, in the terminal and in files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
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
    0: "Center crop, for comparison",
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


def fused_row(scored: Sequence[tuple[Setting, np.ndarray]], labels: np.ndarray, *, of_the_paper: bool = False) -> Row:
    """The line of Table 6 for the average of posteriors (Sec. 4.4); S is unknown, (0, 0), where S or Q differ.

    Args:
      scored: the parts' settings, and their posteriors averaged over their scales.
      labels, of_the_paper: as in `row`.
    """
    settings, posteriors = zip(*scored, strict=True)
    alike = len({(setting.S, setting.Q) for setting in settings}) == 1
    together = Setting(
        " + ".join(setting.network for setting in settings),
        settings[0].S if alike else (0, 0),
        tuple(sorted({q for setting in settings for q in setting.Q})),
        " + ".join(dict.fromkeys(setting.protocol for setting in settings)),
    )
    return row(together, np.mean(posteriors, axis=0), labels, table=6, of_the_paper=of_the_paper and alike)


def markdown(rows: Sequence[Row]) -> str:
    """The rows under the paper's headings."""
    return under_headings(rows, TABLES, _cells)


def under_headings(rows: Sequence, headings: dict[int, str], cells: Callable[..., dict[str, str]]) -> str:
    """Tables of rows, in Markdown.

    Args:
      rows: each with the number of its `table`, and the `paper`'s figure or None.
      headings: of the tables, by number, in order.
      cells: of a row, and of whether there is a column for the paper's figures.
    """
    parts = []
    for number, heading in headings.items():
        here = [row for row in rows if row.table == number]
        if here:
            parts += [heading, "", table([cells(row, any(row.paper for row in here)) for row in here]), ""]
    return "\n".join(parts).rstrip()


def table(rows: Sequence[dict[str, str]]) -> str:
    """A Markdown table with aligned columns.

    >>> print(table([{"network": "D", "top-1": "27.0"}]))
    | network | top-1 |
    | ------- | ----- |
    | D       | 27.0  |
    """
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)


def _cells(row: Row, with_paper: bool) -> dict[str, str]:
    cells = {
        "network": row.network,
        "S": scales_text(row.S),
        "Q": ",".join(map(str, row.Q)),
        "protocol": {"center": "center crop"}.get(row.protocol, row.protocol),
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
    records = [row._asdict() | {"S": scales_text(row.S), "Q": list(row.Q)} for row in rows]
    lines = []
    for record in records:
        *cells, paper = (record | {"Q": " ".join(map(str, record["Q"]))}).values()
        lines.append([*cells, *(paper or ("", ""))])
    header = [*Row._fields[:-1], "paper_top1", "paper_top5"]
    write_tables(folder, f"{heading}\n\n{markdown(rows)}\n", records, header, lines)


def write_tables(
    folder: Path, text: str, records: Sequence[dict], header: Sequence[str], lines: Iterable[Sequence]
) -> None:
    """Writes the same rows as Markdown, JSON and CSV: `tables.md`, `tables.json` and `tables.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tables.md").write_text(text, encoding="utf-8", errors="backslashreplace")
    (folder / "tables.json").write_text(json.dumps(records, indent=1))
    save_csv(folder / "tables.csv", header, lines)


def save_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence]) -> None:
    """Writes a CSV file; what UTF-8 cannot hold, as in names of files, is written as its code."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerows([header, *lines])
