"""The paper's own figures of linear classifiers (App. B, Tables 11 and 12)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vgg_jax.transfer.experiment import TransferResult


class Figure(NamedTuple):
    """In %."""

    mean: float
    deviation: float | None = None
    """Over the splits, where there are several."""

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + ("" if self.deviation is None else f" ± {self.deviation:.1f}")


DATA_SETS = ("VOC-2007", "VOC-2012", "Caltech-101", "Caltech-256")


def _rows(rows: dict[str, list]) -> dict[tuple[str, str], Figure]:
    return {
        (method, name): Figure(*(figure if isinstance(figure, tuple) else (figure,)))
        for method, figures in rows.items()
        for name, figure in zip(DATA_SETS, figures, strict=True)
        if figure
    }


TABLE_11: dict[tuple[str, str], Figure] = _rows(
    {
        "Zeiler & Fergus": [None, 79.0, (86.5, 0.5), (74.2, 0.3)],
        "Chatfield et al.": [82.4, 83.2, (88.4, 0.6), (77.6, 0.1)],
        "He et al.": [82.4, None, (93.4, 0.5), None],
        "Wei et al.": [81.5, 81.7, None, None],
        "Wei et al., 2000 classes": [85.2, 90.3, None, None],
        "D": [89.3, 89.0, (91.8, 1.0), (85.0, 0.2)],
        "E": [89.3, 89.0, (92.3, 0.5), (85.1, 0.3)],
        "D + E": [89.7, 89.3, (92.7, 0.5), (86.2, 0.3)],
    }
)
"""By method and data set: mean average precision for VOC, mean class recall for Caltech.

>>> str(TABLE_11["D + E", "Caltech-101"])
'92.7 ± 0.5'
"""

TABLE_12: dict[str, Figure] = {
    "Oquab et al., 1512 classes": Figure(70.2),
    "Gkioxari et al.": Figure(73.6),
    "Hoai": Figure(76.3),
    "D + E, image only": Figure(79.2),
    "D + E, image and bounding box": Figure(84.0),
}
"""By method: mean average precision of action classification, VOC-2012."""

_NAMES = {
    "VOC-2007": r"voc\W*2007",
    "VOC-2012": r"voc\W*2012",
    "Caltech-101": r"caltech\W*101|101_ObjectCategories",
    "Caltech-256": r"caltech\W*256|256_ObjectCategories",
}
_CLASSES = {"VOC-2007": 20, "VOC-2012": 20, "Caltech-101": 102, "Caltech-256": 257}
"""A part of a data set, or another one in a folder of its name, is not compared."""
_SHOTS = {"Caltech-101": 30, "Caltech-256": 60}
"""Training images of a class; of VOC all."""


def data_set(source: str, classes: int) -> str | None:
    """The data set of Table 11 that a source is, by its name and the number of its classes.

    >>> data_set("tfds:voc/2007", 20), data_set("folder:256_ObjectCategories", 257), data_set("folder:caltech101", 20)
    ('VOC-2007', 'Caltech-256', None)
    """
    found = (name for name, pattern in _NAMES.items() if re.search(pattern, source, re.IGNORECASE))
    return next((name for name in found if _CLASSES[name] == classes), None)


def papers_row(result: TransferResult, networks: str) -> str:
    """The figure of Table 11 that a result stands beside, with its deviation; "" if the paper has none.

    Args:
      result: on images of some source.
      networks: D, E, or D + E.
    """
    name, score = data_set(result.source.name, len(result.source.classes)), result.score
    metric = "mean_class_recall" if name in _SHOTS else "mean_ap"
    alike = _SHOTS.get(name, 0) == score.shots and next(iter(score.values)).startswith(metric)
    return str(TABLE_11.get((networks, name), "")) if alike else ""
