"""The text of a compiled program, XLA's HLO, as instructions: what its compiler really made of a step."""

from __future__ import annotations

import math
import re
from typing import NamedTuple


class Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    kind: str
    """all-reduce, fusion, custom-call, ..."""
    type: str
    """Of its result, `f32[64,3]{1,0}` or a tuple of such."""
    operands: tuple[str, ...]
    """Names of instructions of the same computation."""
    attributes: str
    """The rest of the line."""

    @property
    def size(self) -> int:
        """Bytes of the result."""
        return size_of(self.type)


class Module(NamedTuple):
    """A compiled program."""

    computations: dict[str, dict[str, Instruction]]
    """Instructions by their names, by the names of the computations."""
    entry: str

    def runs(self) -> dict[str, int]:
        """How often each computation runs that the entry leads to: loops as often as the compiler knows, else once."""
        runs = {self.entry: 1}
        waiting = [self.entry]
        while waiting:
            here = waiting.pop()
            for instruction in self.computations[here].values():
                trips = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', instruction.attributes)
                for called in self.called(instruction):
                    if called not in runs:
                        runs[called] = runs[here] * (int(trips.group(1)) if trips else 1)
                        waiting.append(called)
        return runs

    def called(self, instruction: Instruction) -> list[str]:
        """The computations that an instruction runs: a fusion's, a loop's, a function's."""
        named = re.findall(r"\b(?:calls|body|condition|to_apply)=%?([\w.\-]+)", instruction.attributes)
        return [name for name in named if name in self.computations]


def parse(text: str) -> Module:
    """The module of `compiled.as_text()`.

    >>> module = parse('''
    ... ENTRY %main (x: f32[4]) -> f32[4] {
    ...   %x = f32[4]{0} parameter(0)
    ...   ROOT %y = f32[4]{0:T(128)} add(%x, %x), metadata={op_name="add"}
    ... }
    ... ''')
    >>> module.entry, [(i.name, i.kind, i.operands, i.size) for i in module.computations["main"].values()]
    ('main', [('x', 'parameter', ('0',), 16), ('y', 'add', ('x', 'x'), 16)])
    """
    computations, entry, here = {}, "", None
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            here = computations.setdefault(head.group(2), {})
            entry = head.group(2) if head.group(1) else entry
        elif here is not None and (start := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)):
            instruction = _instruction(start.group(1), line[start.end() :])
            here[instruction.name] = instruction
    return Module(computations, entry)


def size_of(type: str) -> int:
    """Bytes of a type, a tuple's being those of its parts.

    >>> size_of("f32[2,3]{1,0:T(8,128)}"), size_of("(bf16[8]{0}, /*index=1*/pred[], token[])")
    (24, 17)
    """
    parts = re.findall(r"(\w+)\[([\d,]*)\]", type)
    sizes = (math.prod(map(int, filter(None, shape.split(",")))) * _item_size(name) for name, shape in parts)
    return math.ceil(sum(sizes))


def _item_size(name: str) -> float:
    """Bytes of an element, by the bits that its type is named after; a token has none.

    >>> [_item_size(name) for name in ("pred", "bf16", "s4", "f8e4m3fn", "token")]
    [1.0, 2.0, 0.5, 1.0, 0.0]
    """
    bits = re.match(r"[a-z]+(\d+)", name)
    return int(bits.group(1)) / 8 if bits else float(name == "pred")


def _instruction(name: str, rest: str) -> Instruction:
    """What follows the name: `TYPE KIND(OPERANDS), ATTRIBUTES`."""
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    type, rest = rest[:end], rest[end:].lstrip()
    kind, _, _ = rest.partition("(")
    end = len(kind) + _closing(rest[len(kind) :])
    return Instruction(name, kind, type, _operands(rest[len(kind) + 1 : end - 1]), rest[end:])


def _closing(text: str) -> int:
    """Where the parenthesis that a text begins with is closed: the place behind it."""
    depth = 0
    for place, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return place + 1
    return len(text)


def _operands(text: str) -> tuple[str, ...]:
    """Names; a type before a name, as some releases print it, is left out."""
    names = re.findall(r"%([\w.\-]+)", text)
    return tuple(names or (part.split()[-1] for part in text.split(",") if part.strip()))
