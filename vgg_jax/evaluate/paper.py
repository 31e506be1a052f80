"""The paper's own figures: top-1 and top-5 error in % on the validation images of ILSVRC-2012 (Tables 3 to 6)."""

from __future__ import annotations

from typing import NamedTuple

_LOW, _HIGH, _JITTER = (256, 256), (384, 384), (256, 512)


class Setting(NamedTuple):
    """What a figure is of."""

    network: str
    S: tuple[int, int]
    """(Smin, Smax), equal where S is fixed."""
    Q: tuple[int, ...]
    protocol: str


def _rows(protocol: str, columns: list[tuple], figures: dict[str, list]) -> dict[Setting, tuple[float, float]]:
    return {
        Setting(network, S, Q, protocol): pair
        for network, pairs in figures.items()
        for (S, Q), pair in zip(columns, pairs, strict=False)
    }


class BoxSetting(NamedTuple):
    """What boxes are of."""

    boxes: str
    """PCR, a box per class, or SCR, a single one."""
    tuned: str
    """The layers that were trained."""
    S: tuple[int, int]
    Q: tuple[int, ...]


LOCALIZATION: dict[tuple[int, tuple[BoxSetting, ...]], float] = {
    (8, (BoxSetting("SCR", "fc6 and fc7", _HIGH, (384,)),)): 36.4,
    (8, (BoxSetting("PCR", "fc6 and fc7", _HIGH, (384,)),)): 34.3,
    (8, (BoxSetting("PCR", "all layers", _HIGH, (384,)),)): 33.1,
    (9, (BoxSetting("PCR", "all layers", _LOW, (256,)),)): 29.5,
    (9, (BoxSetting("PCR", "all layers", _HIGH, (384,)),)): 28.2,
    (9, (BoxSetting("PCR", "all layers", _HIGH, (352, 384)),)): 27.5,
    (9, (BoxSetting("PCR", "all layers", _LOW, (256,)), BoxSetting("PCR", "all layers", _HIGH, (352, 384)))): 26.9,
}
"""Top-5 localization error in % of net D by table, 8 or 9, and the networks whose boxes are merged (App. A)."""

_WIDE = [(_JITTER, (256, 384, 512))]
ERRORS: dict[Setting, tuple[float, float]] = (
    _rows(  # Table 3
        "dense",
        [(_LOW, (256,)), (_HIGH, (384,)), (_JITTER, (384,))],
        {
            "A": [(29.6, 10.4)],
            "A-LRN": [(29.7, 10.5)],
            "B": [(28.7, 9.9)],
            "C": [(28.1, 9.4), (28.1, 9.3), (27.3, 8.8)],
            "D": [(27.0, 8.8), (26.8, 8.7), (25.6, 8.1)],
            "E": [(27.3, 9.0), (26.9, 8.7), (25.5, 8.0)],
        },
    )
    | _rows(  # Table 4
        "dense",
        [(_LOW, (224, 256, 288)), (_HIGH, (352, 384, 416)), *_WIDE],
        {
            "B": [(28.2, 9.6)],
            "C": [(27.7, 9.2), (27.8, 9.2), (26.3, 8.2)],
            "D": [(26.6, 8.6), (26.5, 8.6), (24.8, 7.5)],
            "E": [(26.9, 8.7), (26.7, 8.6), (24.8, 7.5)],
        },
    )
    # Tables 5 and 6
    | _rows("crops", _WIDE, {"D": [(24.6, 7.5)], "E": [(24.6, 7.4)], "D + E": [(23.9, 7.2)]})
    | _rows("both", _WIDE, {"D": [(24.4, 7.2)], "E": [(24.4, 7.1)], "D + E": [(23.7, 6.8)]})
    | _rows("dense", _WIDE, {"D + E": [(24.0, 7.1)]})
)
"""Top-1 and top-5 error in % of each setting.

>>> ERRORS[Setting("E", (256, 512), (384,), "dense")]
(25.5, 8.0)
"""
