"""What a split's name means: a role, or a slice of one, e.g. `train[:90%]`."""

import re

import numpy as np

from vgg_jax.errors import DataError

ROLES = ("train", "validation", "test")

_EXPRESSION = re.compile(r"(train|validation|test)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


def parse(expression: str) -> tuple[str, str | None, str | None]:
    """Takes an expression apart.

    Returns:
      The role and the slice's two bounds as they are written ("90%", "1000"), None where there is none.

    Raises:
      DataError: it is no such expression.

    >>> parse("train[90%:]")
    ('train', '90%', None)
    """
    match = _EXPRESSION.fullmatch(expression)
    if not match:
        raise DataError(
            f"split {expression!r} is not understood; a split is train, validation or test, "
            "or a slice of one: train[:90%], train[90%:], train[:1000]"
        )
    return match[1], match[2], match[3]


def positions(expression: str, count: int) -> np.ndarray:
    """The positions, of `count` ones in all, that an expression selects: an int64 array, in a fixed shuffled order.

    The shuffle comes before the cut, so a slice of a list that is sorted by class holds every class, and the slices
    `[:p]` and `[p:]` are disjoint and complete.

    Raises:
      DataError: the expression is not understood, or selects nothing.
    """
    _, start, stop = parse(expression)
    cut = slice(_bound(start, count), _bound(stop, count))
    selected = np.random.default_rng(count).permutation(count)[cut]
    if not len(selected):
        raise DataError(f"split {expression!r} selects none of {count:,} images")
    return selected


def _bound(written: str | None, count: int) -> int | None:
    if written is None:
        return None
    if written.endswith("%"):
        return (int(written[:-1]) * count + 50) // 100  # rounded half up
    return int(written)
