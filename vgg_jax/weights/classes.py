"""ImageNet's class names, and the order of fc8's columns.

torchvision, timm and Keras have the 1000 classes sorted by WordNet id. The VGG team's Caffe and MatConvNet releases
have them in another order: MatConvNet's file names them, for Caffe's they are a file beside it, one synset per line. A
label of ours is `n01440764 tench`, so that it says the id, is unique and sorts.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vgg_jax.errors import CheckpointError, ConfigError


@functools.cache
def imagenet() -> tuple[str, ...]:
    """The 1000 classes of ILSVRC-2012 in the order of their WordNet ids, `n01440764 tench` and so on.

    >>> imagenet()[0], imagenet()[-1]
    ('n01440764 tench', 'n15075141 toilet_tissue')
    """
    table = json.loads(Path(__file__).with_name("imagenet_classes.json").read_text())
    return tuple(f"{wnid} {name}" for wnid, name in table)


def labeled(name: str) -> str:
    """A class's label, from its WordNet id or a line that begins with one; other names stay as they are.

    >>> labeled("n01440764"), labeled("n01440764 tench, Tinca tinca"), labeled("goose")
    ('n01440764 tench', 'n01440764 tench', 'goose')
    """
    return _labels().get(name.split(" ")[0], name)


def positions(asked: Sequence[str], known: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Where classes are among others, those of ImageNet by their WordNet ids alone; and those that are not there.

    >>> positions(["goose", "n01440764", "duck"], ["n01440764 tench", "goose"])
    (array([ 1,  0, -1]), ['duck'])
    """
    places = {labeled(name): place for place, name in enumerate(known)}
    found = np.array([places.get(labeled(name), -1) for name in asked], int)
    return found, [name for name, place in zip(asked, found, strict=True) if place < 0]


def sorted_columns(
    choice: str | Path, carried: tuple[str, ...], num_classes: int, source: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The places of the sorted classes among the columns of a file's fc8, and their labels.

    Args:
      choice: "sorted", or the path of a file with one class per line in the order of the columns, its first word the
        synset.
      carried: the columns' labels, as far as the weights' own file says them.
      num_classes: how many columns there are.
      source: the weights' name, for the message.

    Raises:
      ConfigError: "sorted" is asked of weights that do not name their classes, or the list cannot be read.
      CheckpointError: the labels are not as many as the columns, or one is there twice.
    """
    labels = carried
    if choice != "sorted":
        try:
            lines = Path(choice).read_text("utf-8").splitlines()
        except (OSError, TypeError, ValueError) as error:  # a NUL or bytes that are no UTF-8 are ValueErrors
            raise ConfigError(f"class_order={str(choice)!r} cannot be read: {error}") from error
        labels = tuple(labeled(line.strip()) for line in lines if line.strip())
    elif not carried:
        raise ConfigError(
            f"class_order={choice!r}: {source} does not name its classes; give class_order a file that does, one "
            "synset per line in the order of its columns"
        )
    if len(labels) != num_classes or len(set(labels)) != num_classes:
        raise CheckpointError(
            f"{source} has {num_classes} classes, and the list in class_order {len(labels)}, {len(set(labels))} "
            "different ones; expected one line for each class"
        )
    columns = sorted(range(num_classes), key=lambda column: labels[column].split(" ")[0])
    return np.array(columns), tuple(labels[column] for column in columns)


@functools.cache
def _labels() -> dict[str, str]:
    return {label.split(" ")[0]: label for label in imagenet()}
