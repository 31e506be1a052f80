"""What the chips of a program send each other, read from its compiled text (Sec. 3.3)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from vgg_jax.ahead.hlo import Instruction, Module

SHARES = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}
"""What each of n chips sends, around a ring, for each byte of the whole array."""


class Collective(NamedTuple):
    """One kind of them in a step, among groups of `group` chips."""

    kind: str
    group: int
    count: int
    bytes: int
    """Of the whole arrays that are reduced, gathered or exchanged, those of a chip's operand for an all-reduce."""

    @property
    def sent(self) -> float:
        """Bytes that each chip sends."""
        return SHARES[self.kind](self.group) * self.bytes


def collectives(module: Module, chips: int) -> list[Collective]:
    """The collectives of one run of a program, the largest first.

    Args:
      module: the parsed text, which is that of one chip.
      chips: all of them.
    """
    count, size = Counter(), Counter()
    for _, _, each in collectives_by_place(module, chips):
        count[each.kind, each.group] += each.count
        size[each.kind, each.group] += each.bytes
    return [Collective(*key, count[key], total) for key, total in size.most_common()]


def collectives_by_place(module: Module, chips: int) -> Iterator[tuple[str, Instruction, Collective]]:
    """The computation and the instruction of each, and what all its runs exchange."""
    runs, seen = module.runs(), set()
    for name, instructions in module.computations.items():
        for instruction in instructions.values():
            kind = instruction.kind.removesuffix("-start")
            if kind not in SHARES or name not in runs:
                continue
            # On a TPU a collective that runs beside products is written in each of them, under one channel.
            channel = re.search(r"channel_id=(\d+)", instruction.attributes)
            if channel and channel.group(1) in seen:
                continue
            seen.add(channel.group(1) if channel else (name, instruction.name))
            group = _group(instruction.attributes, chips)
            operands = sum(instructions[operand].size for operand in instruction.operands if operand in instructions)
            whole = operands * group if kind == "all-gather" else operands
            yield name, instruction, Collective(kind, group, runs[name], runs[name] * whole)


def _group(attributes: str, chips: int) -> int:
    """How many chips take part together: `{{0,1},{2,3}}`, `[groups,size]<=[...]` or axes of a mesh.

    >>> _group("replica_groups={{0,1},{2,3}}, to_apply=%add", 4), _group("replica_groups=[2,4]<=[8]", 8)
    (2, 4)
    >>> _group("replica_groups=mesh['a'=2,'b'=4], device_ids=([2,4]T(1,0)) {'a','b'}, dimensions={0}", 8)
    8
    """
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(listed.group(1).split(","))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(iota.group(1))
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = {axis: int(size) for axis, size in re.findall(r"('\w+')=(\d+)", mesh.group(1))}
        named = [axis.strip() for axis in mesh.group(2).split(",")]
        if set(named) <= set(sizes):
            return math.prod(sizes[axis] for axis in named)
    return chips
