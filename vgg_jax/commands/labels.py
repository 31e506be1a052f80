"""What classification says of images that are localized in: the most probable classes, and what each window counts.

The former by `config.localization.posteriors`, a file that the evaluation of a classification run wrote; the latter by
the network of `config.localization.classifier`, a run or weights.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from vgg_jax.data.source import Source
from vgg_jax.errors import DataError
from vgg_jax.evaluate.posteriors import Posteriors, image_names, read
from vgg_jax.files import printable
from vgg_jax.inference.dense_boxes import Classifier
from vgg_jax.weights import load
from vgg_jax.weights.classes import positions

if TYPE_CHECKING:
    from jaxtyping import Float


def classifier_of(config: ConfigDict, classes: Sequence[str]) -> Classifier | None:
    """The network of `config.localization.classifier`, if one is named; raises DataError where it lacks a class."""
    if not (name := config.localization.classifier):
        return None
    net = load(name)
    outputs, unknown = positions(classes, net.classes)
    if unknown:
        raise DataError(
            f"config.localization.classifier={name!r} has no class {unknown[0]!r}: it cannot rate its boxes"
        )
    return Classifier(net, outputs)


def posteriors_of(
    config: ConfigDict, source: Source
) -> tuple[Float[np.ndarray, "images classes"] | None, dict[str, str]]:
    """The posteriors of a source's images, in its order of images and classes; None without a file.

    Also {name: reason} of the images that have none because they could not be read.

    Raises:
      DataError: the file is of other images or classes; a source that was moved and has the same content is the same.
    """
    if not (path := config.localization.posteriors):
        return None, {}
    file = read(Path(path))
    of, split = (file.about.get(key) for key in ("source", "split"))
    if (of, split) != (source.name, source.split) and file.about.get("content") != source.fingerprint():
        raise DataError(
            f"config.localization.posteriors={path!r}: it is of {of}, split {split}, not of {source.describe()}; "
            f"evaluate the classification run with --config.data.source={source.name} "
            f"--config.evaluate.split={source.split}"
        )
    rows, problems = rows_of(file, path, image_names(source), source.classes, source.describe())
    return rows, {source.name_of(index): reason for index, reason in problems.items()}


def names_in(file: Posteriors, path: str, images: Sequence[Path]) -> list[str]:
    """What a file calls some images: of the end parts of an image's path, the longest one that it knows.

    Args:
      file: of posteriors.
      path: of that file, for messages.
      images: whose names are wanted; that of an image which it does not know is its path.

    Raises:
      DataError: two images would have the same posteriors.
    """
    known, taken = {*file.images, *file.unreadable}, {}
    for image in images:
        parts = Path(os.path.abspath(image)).parts
        ends = (os.path.join(*parts[first:]) for first in range(len(parts)))
        name = next((end for end in ends if end in known), str(image))
        if name in taken:
            both = " or ".join(printable(str(each)) for each in (taken[name], image))
            raise DataError(
                f"config.localization.posteriors={path!r}: its image {printable(name)} could be {both}; predict one of "
                "them at a time"
            )
        taken[name] = image
    return [*taken]


def rows_of(
    file: Posteriors, path: str, names: Sequence[str], classes: Sequence[str], whose: str
) -> tuple[Float[np.ndarray, "images classes"], dict[int, str]]:
    """A file's posteriors, averaged over its scales, of images by name; and the images that have none, and why.

    Args:
      file: of posteriors.
      path: of that file, for messages.
      names: of the images.
      classes: in the order that is wanted.
      whose: what has these classes, for messages.

    Raises:
      DataError: the classes are others, or it does not know an image.
    """
    columns, unknown = positions(classes, file.classes)
    if unknown or len(file.classes) != len(classes):
        raise DataError(
            f"config.localization.posteriors={path!r}: its {len(file.classes)} classes are not the {len(classes)} of "
            f"{whose}"
        )
    places = {name: place for place, name in enumerate(file.images)}
    values, problems = file.mean()[:, columns], {}
    rows = np.zeros((len(names), values.shape[1]), np.float32)
    for number, name in enumerate(names):
        if name in places:
            rows[number] = values[places[name]]
        elif name in file.unreadable:
            problems[number] = f"it has no posteriors: {file.unreadable[name]}"
        else:
            raise DataError(
                f"config.localization.posteriors={path!r}: it has no image {printable(name)}; evaluate a "
                "classification run over the same images"
            )
    return rows, problems
