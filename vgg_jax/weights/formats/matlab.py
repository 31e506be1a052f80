"""MATLAB's `.mat` of version 5 (also -v6 and -v7): structs, cells, strings and arrays of numbers.

Written from the public description of the format. Every length is checked against what is left before it is trusted,
which `scipy.io.loadmat` leaves to its C code.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

HEADER = 128
"""Bytes before the first element."""

MATRIX, COMPRESSED = 14, 15
"""Element types: a value, and a value deflated."""

NUMBERS = {1: "<i1", 2: "<u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
"""Element types of numbers."""

TEXT = NUMBERS | {16: "utf-8", 17: "utf-16-le", 18: "utf-32-le"}
"""Element types of strings."""

CELL, STRUCT, CHAR = 1, 2, 4
"""Array classes."""

CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""Array classes of numbers. They may be stored as smaller ones."""

DEEPEST, MOST = 32, 1_000_000
"""Levels of cells and structs in one another, and values in one variable."""


def variables(file: bytes | memoryview, limit: int) -> dict[str, Any]:
    """All variables of a file.

    Args:
      file: its bytes.
      limit: bytes that all variables together may have when inflated.

    Returns:
      {name: value}: an array in MATLAB's shape, a string, a list of a cell's values, a dict of a 1x1 struct or a list
      of dicts; None for anything else.

    Raises:
      ValueError: the file is damaged, or larger than the limit.
    """
    if bytes(file[126:128]) != b"IM":
        raise ValueError("its bytes are in the other order, from a big-endian machine: save it again on another")
    found = {}
    for kind, data in _elements(memoryview(file)[HEADER:]):
        if kind == COMPRESSED:
            inflated = zlib.decompressobj()
            data = inflated.decompress(data, limit + 1)
            if len(data) > limit:
                raise ValueError(f"a variable of over {limit:.1e} bytes")
            if not inflated.eof:
                raise ValueError("a variable that is cut short")
            kind, data = _due(_elements(memoryview(data)))
        limit -= len(data)
        if limit < 0:
            raise ValueError("more bytes of variables than any VGG has")
        if kind == MATRIX:
            name, value = _Matrix().read(data)
            found[name] = value
    return found


@dataclasses.dataclass
class _Matrix:
    """Reads one variable, and all values in it."""

    values: int = 0

    def read(self, data: memoryview, depth: int = 0) -> tuple[str, Any]:
        """The name and the value of one matrix element."""
        self.values += 1
        if depth > DEEPEST or self.values > MOST:
            raise ValueError(f"over {DEEPEST} levels or {MOST} values")
        if not len(data):
            return "", np.zeros((0, 0))
        parts = _elements(data)
        flags = _numbers(parts)
        kind, dims = int(flags[0]) & 0xFF, [int(side) for side in _numbers(parts)]
        name = bytes(_numbers(parts)).decode("utf-8")
        if not dims or any(side < 0 for side in dims):
            raise ValueError(f"{name!r} has the shape {dims}")
        if kind in CLASSES:
            return name, _numbers(parts).astype(CLASSES[kind], copy=False).reshape(dims, order="F")
        if kind == CHAR:
            return name, _text(*_due(parts), dims)
        if kind == CELL:
            return name, [self.read(item, depth + 1)[1] for item in self._items(parts, math.prod(dims))]
        if kind == STRUCT:
            length = int(_numbers(parts)[0])
            names = bytes(_numbers(parts))
            if length < 1:
                raise ValueError(f"{name!r} has fields without names")
            fields = [names[at : at + length].split(b"\0")[0].decode("utf-8") for at in range(0, len(names), length)]
            structs = []
            for _ in range(math.prod(dims) if fields else 0):
                items = self._items(parts, len(fields))
                structs.append({field: self.read(item, depth + 1)[1] for field, item in zip(fields, items)})
            return name, structs[0] if len(structs) == 1 else structs
        return name, None

    def _items(self, parts: Iterator[tuple[int, memoryview]], count: int) -> Iterator[memoryview]:
        """The next `count` values."""
        for _ in range(count):
            kind, data = _due(parts)
            if kind != MATRIX:
                raise ValueError(f"an element of type {kind} where a value is due")
            yield data


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(type, bytes) of the elements in a row.

    Raises:
      ValueError: one is longer than what is left.
    """
    at = 0
    while at < len(data):
        kind, length = (int(number) for number in np.frombuffer(_cut(data, at, 8), "<u4"))
        if kind >> 16:  # a short one: its length, its type and up to four bytes in the tag itself
            kind, length, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if length > 4:
                raise ValueError(f"a short element of {length} bytes")
        else:
            start = at + 8
            end = start + length + (0 if kind == COMPRESSED else -length % 8)
        yield kind, _cut(data, start, length)
        at = end


def _due(parts: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
    """The next element, which must be there."""
    for element in parts:
        return element
    raise ValueError("it ends before its values do")


def _cut(data: memoryview, start: int, length: int) -> memoryview:
    if length > len(data) - start:
        raise ValueError(f"an element of {length} bytes where {len(data) - start} are left")
    return data[start : start + length]


def _numbers(parts: Iterator[tuple[int, memoryview]]) -> np.ndarray:
    """The next element, of numbers."""
    kind, data = _due(parts)
    if kind not in NUMBERS:
        raise ValueError(f"an element of type {kind} where numbers are due")
    return np.frombuffer(data, NUMBERS[kind])


def _text(kind: int, data: memoryview, dims: list[int]) -> str | list[str]:
    """A row of characters as a string, several rows as a list."""
    if kind not in TEXT:
        raise ValueError(f"an element of type {kind} where characters are due")
    text = (
        bytes(data).decode(TEXT[kind]) if kind in (16, 17, 18) else "".join(map(chr, np.frombuffer(data, TEXT[kind])))
    )
    rows = dims[0] if len(text) else 0
    return text if rows <= 1 else [text[row::rows] for row in range(min(rows, len(text)))]
