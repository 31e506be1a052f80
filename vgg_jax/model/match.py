"""Does this tree of arrays fit that net: one comparison for checkpoints, donors and published files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax

Shapes = Mapping[str, tuple[int, ...]]
"""{"conv1_1/kernel": (3, 3, 3, 64), ...}: names of arrays as `LAYER/ARRAY`."""


class Mismatch(NamedTuple):
    """What keeps two trees from being alike; false if nothing does."""

    missing: dict[str, tuple[int, ...]]
    """Arrays of ours that theirs lacks, with their shapes here."""
    unexpected: dict[str, tuple[int, ...]]
    """Arrays of theirs that ours lacks, with their shapes there."""
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """Arrays of another shape: (here, there)."""

    def __bool__(self) -> bool:
        return any(map(bool, self[:]))

    def __str__(self) -> str:
        faults = [f"missing {name}, {shape}" for name, shape in self.missing.items()]
        faults += [f"unexpected {name}, {shape}" for name, shape in self.unexpected.items()]
        faults += [f"{name} is {there}, here {here}" for name, (here, there) in self.reshaped.items()]
        return "; ".join(faults)


def match(ours: Shapes, theirs: Shapes) -> Mismatch:
    """Compares the shapes of two trees.

    >>> str(match({"fc8/bias": (10,), "fc8/kernel": (1, 1, 8, 10)}, {"fc8/bias": (5,)}))
    'missing fc8/kernel, (1, 1, 8, 10); fc8/bias is (5,), here (10,)'
    """
    return Mismatch(
        {name: shape for name, shape in ours.items() if name not in theirs},
        {name: shape for name, shape in theirs.items() if name not in ours},
        {name: (shape, theirs[name]) for name, shape in ours.items() if theirs.get(name, shape) != shape},
    )


def shapes_of(tree: Mapping) -> dict[str, tuple[int, ...]]:
    """The shapes of a tree of arrays, {layer: {array: ...}}, by their names `LAYER/ARRAY`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
