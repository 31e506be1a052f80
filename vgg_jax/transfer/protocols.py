"""Which images are trained on and which are tested (App. B).

Caltech-101 and 256: 3 random splits, 30 and 60 images of a class to train on, up to 50 of the others to test on.
VOC: the challenge's own train, validation and test, and several classes in an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vgg_jax.errors import DataError

if TYPE_CHECKING:
    from jaxtyping import Int


class Split(NamedTuple):
    """Positions of images in a source."""

    train: Int[np.ndarray, " n"]
    test: Int[np.ndarray, " m"]


def random_splits(
    labels: Int[np.ndarray, " n"],
    splits: int,
    *,
    train: int,
    test: int,
    seed: int,
    rows: Int[np.ndarray, " k"] | None = None,
    classes: Sequence[str] = (),
) -> list[Split]:
    """Random splits with equally many training images of every class; each is a function of the seed and its number.

    Args:
      labels: of all images.
      splits: how many.
      train: images of a class to train on.
      test: images of a class to test on at most, from the rest; 0 for all the rest.
      seed: of all splits.
      rows: the images that can be used, by position; by default all.
      classes: the classes' names; by default their numbers, up to the greatest label.

    Raises:
      DataError: a class has no more images than `train`, and so none to test on.

    >>> split, _ = random_splits(np.array([0, 0, 0, 1, 1, 1, 1]), 2, train=2, test=1, seed=0)
    >>> split.train.shape, split.test.shape
    ((4,), (2,))
    """
    rows = np.arange(len(labels)) if rows is None else rows
    classes = classes or range(labels.max(initial=-1) + 1)
    of_class = [rows[labels[rows] == c] for c in range(len(classes))]
    fewest = min(map(len, of_class), default=0)
    if fewest <= train or train < 1:
        name = f"class {classes[[*map(len, of_class)].index(fewest)]}" if of_class else "there are no images"
        fewer = f"ask for {fewest - 1} training images of a class at most, or " if fewest > 1 else ""
        raise DataError(
            f"{name}: {fewest} images, of which {train} are to be trained on and one at least is to be tested; {fewer}"
            "leave the class out"
        )
    found = []
    for number in range(splits):
        rng = np.random.default_rng([seed, number])
        shuffled = [rng.permutation(images) for images in of_class]
        end = train + test if test else None
        parts = [images[:train] for images in shuffled], [images[train:end] for images in shuffled]
        found.append(Split(*map(np.concatenate, parts)))
    return found


def first_of_each(rows: Int[np.ndarray, " k"], labels: Int[np.ndarray, " n"], shots: int) -> Int[np.ndarray, " m"]:
    """The first images of each class, for a learning curve: a smaller number of shots is a subset of a larger one.

    Args:
      rows: training images, by position.
      labels: of all images.
      shots: images of a class; fewer where it does not have that many.

    >>> first_of_each(np.array([5, 4, 3, 2, 1, 0]), np.array([0, 0, 0, 1, 1, 1]), 2).tolist()
    [2, 1, 5, 4]
    """
    return np.concatenate([rows[labels[rows] == c][:shots] for c in np.unique(labels[rows])])
