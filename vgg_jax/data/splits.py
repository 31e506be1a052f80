"""What a split's name means: a role, a slice of one, e.g. `train[:90%]`, or several, `train[:20%]+train[40%:]`."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from vgg_jax.errors import DataError

ROLES = ("train", "validation", "test")

_PART = re.compile(r"(train|validation|test)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")

T = TypeVar("T")


def parse(expression: str) -> list[tuple[str, str | None, str | None]]:
    """Takes an expression apart.

    Returns:
      Of each part: the role and the slice's two bounds as they are written ("90%", "1000"), None where there is none.

    Raises:
      DataError: it is no such expression.

    >>> parse("train[90%:]+test")
    [('train', '90%', None), ('test', None, None)]
    """
    parts = [_PART.fullmatch(part) for part in expression.split("+")]
    if not all(parts):
        raise DataError(
            f"split {expression!r} is not understood; a split is train, validation or test, "
            "or a slice of one: train[:90%], train[90%:], train[:1000]; several are joined by +"
        )
    return [part.groups() for part in parts]


def select(expression: str, of_role: Callable[[str], Sequence[T]]) -> list[T]:
    """What an expression selects, part by part, each in a fixed shuffled order.

    The shuffle comes before the cut, so a slice of a list that is sorted by class holds every class, and the slices
    `[:p]` and `[p:]` are disjoint and complete.

    Args:
      expression: the split.
      of_role: gives what a role has, all of it different and always in the same order; called once for each.

    Raises:
      DataError: the expression is not understood, selects nothing, or something twice; or what `of_role` raises.

    >>> sorted(select("train[:40%]+train[60%:]+test", {"train": "abcde", "test": "z"}.get))
    ['a', 'c', 'd', 'e', 'z']
    """
    parts = parse(expression)
    there = {role: of_role(role) for role in dict.fromkeys(role for role, _, _ in parts)}
    chosen = []
    for role, start, stop in parts:
        items = there[role]
        cut = slice(_bound(start, len(items)), _bound(stop, len(items)))
        positions = np.random.default_rng(len(items)).permutation(len(items))[cut].tolist()
        if not positions:
            raise DataError(f"split {expression!r} selects none of {len(items):,} images")
        chosen += [items[position] for position in positions]
    if again := len(chosen) - len(set(chosen)):
        raise DataError(f"split {expression!r} selects {again:,} images twice")
    return chosen


def role_or_substitute(role: str, there: Mapping[str, str], kind: str) -> tuple[str, str]:
    """A role that a data set has: this one, or validation where test is missing; a remark then says so.

    Args:
      role: `train`, `validation` or `test`.
      there: what there is, a name for each role.
      kind: what these are, in a word.

    Raises:
      DataError: there is nothing for this role.
    """
    if role in there:
        return role, ""
    if role == "test" and "validation" in there:
        return "validation", f"it has no test {kind}, {there['validation']} stands in"
    raise DataError(
        f"it has a {kind} for {', '.join(sorted(there))}, but none for {role}; "
        "a slice can stand in for it: train[:90%] to train on, train[90%:] to validate"
    )


def hashed_role(name: str) -> str:
    """The role of an image in a data set that is not divided, 80 / 10 / 10: it keeps it when others come or go."""
    tenth = int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8], "big") % 10
    return {8: "validation", 9: "test"}.get(tenth, "train")


def _bound(written: str | None, count: int) -> int | None:
    if written is None:
        return None
    if not written.endswith("%"):
        return int(written)
    bound = (int(written[:-1]) * count + 50) // 100  # rounded half up
    return count if written.startswith("-") and not bound else bound
