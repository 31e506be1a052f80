"""The paper's own figures of linear classifiers, and which results they may stand beside (App. B, Table 11)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from vgg_jax.model.vgg import VGG
from vgg_jax.transfer.experiment import TransferResult


class Column(NamedTuple):
    """A data set of Table 11, how it is tested on, and the paper's figures."""

    name: str
    """What a source's name contains, a pattern."""
    classes: int
    """A part of a data set, or another one in a folder of its name, is not compared."""
    shots: int
    """Training images of a class, in random splits; 0 for VOC's own: train and validation, tested on test."""
    metric: str
    figures: dict[str, str]
    """In %, with the deviation over the splits, by networks."""


TABLE_11 = (
    Column(r"voc\W*2007", 20, 0, "mean_ap_11", {"D": "89.3", "E": "89.3", "D + E": "89.7"}),
    Column(r"voc\W*2012", 20, 0, "mean_ap", {"D": "89.0", "E": "89.0", "D + E": "89.3"}),
    Column(
        r"caltech\W*101|101_ObjectCategories",
        102,
        30,
        "mean_class_recall",
        {"D": "91.8 ± 1.0", "E": "92.3 ± 0.5", "D + E": "92.7 ± 0.5"},
    ),
    Column(
        r"caltech\W*256|256_ObjectCategories",
        257,
        60,
        "mean_class_recall",
        {"D": "85.0 ± 0.2", "E": "85.1 ± 0.3", "D + E": "86.2 ± 0.3"},
    ),
)


def papers_row(result: TransferResult, nets: Sequence[VGG], config: ConfigDict) -> str:
    """The figure of Table 11 that a result stands beside, with its deviation; "" if the paper has none.

    Args:
      result: of some networks on some source.
      nets: the networks.
      config: says what is trained on and what is tested on.
    """
    if config.transfer.regions or result.problems or not all(net.of_the_papers_size for net in nets):
        return ""
    source, score = result.source, result.score
    own_splits = {*config.data.train_split.split("+")} == {"train", "validation"} and config.evaluate.split == "test"
    for column in TABLE_11:
        same_images = bool(re.search(column.name, source.name, re.IGNORECASE)) and len(source.classes) == column.classes
        same_splits = config.transfer.splits > 0 if column.shots else config.transfer.splits == 0 and own_splits
        if same_images and same_splits and (score.shots, next(iter(score.values))) == (column.shots, column.metric):
            return column.figures.get(" + ".join(net.spec.name for net in nets), "")
    return ""
