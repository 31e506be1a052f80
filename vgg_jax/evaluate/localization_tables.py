"""Tables 8 and 9 in the paper's layout, in the terminal and in files (App. A)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vgg_jax.evaluate.localization import TOP, localization_error
from vgg_jax.evaluate.paper import LOCALIZATION, BoxSetting
from vgg_jax.evaluate.tables import scales_text, under_headings, write_tables

if TYPE_CHECKING:
    from jaxtyping import Float

TABLES = {
    8: "Table 8: the box of the true class in the central crop",
    9: "Table 9: dense evaluation, boxes merged",
}


class BoxRow(NamedTuple):
    """One line of a table: errors are in %."""

    table: int
    setting: str
    """Boxes, layers, S and Q of a network, or of several."""
    count: int
    """Classes of images: what was to be found."""
    top5: float | None
    """None where there are no posteriors, so that the label is given."""
    top1: float | None
    given: float
    """With the label given."""
    iou: float
    """The mean, with the label given."""
    paper: float | None
    """The paper's top-5 error, where protocol and data are the paper's."""


def box_row(
    table: int,
    settings: Sequence[BoxSetting],
    given: Float[np.ndarray, " n"],
    guessed: Float[np.ndarray, "n k"] | None,
    *,
    of_the_paper: bool,
) -> BoxRow:
    """The line of some overlaps.

    Args:
      table: 8 or 9.
      settings: of the networks whose boxes they are.
      given: of the box of the true class of each question.
      guessed: of the boxes of the most probable classes; None where they are not known.
      of_the_paper: whether network and data are the paper's own.
    """
    errors = (None, None) if guessed is None else tuple(localization_error(guessed, top) for top in (TOP, 1))
    comparable = of_the_paper and (table == 8 or guessed is not None)
    paper = LOCALIZATION.get((table, tuple(settings))) if comparable else None
    errors = (*errors, localization_error(given[:, None]))
    return BoxRow(table, settings_text(settings), len(given), *errors, float(given.mean()), paper)


def settings_text(settings: Sequence[BoxSetting]) -> str:
    """Networks as Tables 8 and 9 describe them.

    >>> settings_text([BoxSetting("PCR", "all layers", (256, 256), (256, 288))])
    'PCR, all layers tuned, S=256, Q=256,288'
    """
    return " + ".join(
        f"{of.boxes}, {of.tuned} tuned, S={scales_text(of.S)}, Q={','.join(map(str, of.Q))}" for of in settings
    )


def box_tables(rows: Sequence[BoxRow]) -> str:
    """The rows under the paper's headings."""
    return under_headings(rows, TABLES, _cells)


def _cells(row: BoxRow, with_paper: bool) -> dict[str, str]:
    percent = lambda error: "–" if error is None else f"{error:.2f}"
    cells = {"network": row.setting, "classes of images": f"{row.count:,}"}
    if row.table == 9:
        cells |= {"top-5 error, %": percent(row.top5), "top-1 error, %": percent(row.top1)}
    cells |= {"label given, error, %": percent(row.given), "mean IoU": f"{row.iou:.3f}"}
    return cells | ({"paper's top-5": f"{row.paper:.1f}" if row.paper else "–"} if with_paper else {})


def save_box_tables(folder: Path, rows: Sequence[BoxRow], heading: str) -> None:
    """Writes `tables.md`, `tables.csv` and `tables.json`."""
    write_tables(folder, f"{heading}\n\n{box_tables(rows)}\n", [row._asdict() for row in rows], BoxRow._fields, rows)
