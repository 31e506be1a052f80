"""A file with a line of JSON for each image and its boxes (App. A): docs/formats.md.

{"image": "1.jpg", "objects": [{"class": "cat", "box": [48, 239, 195, 371], "difficult": false}], "split": "train"}

The image's path is relative to the file's folder, a box is left, top, right, bottom in pixels of the upright image,
counted from 0, right and bottom exclusive. `difficult` and `split` may be left out, `split` of all lines or of none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from vgg_jax.data import splits
from vgg_jax.data.files import FileSource
from vgg_jax.data.objects import Object, gathered, image_class
from vgg_jax.errors import DataError


class BoxFileSource(FileSource):
    """The images of such a file; the classes are those of all its objects, sorted.

    Where no line says its split, the images are divided 80 / 10 / 10 by a hash of their paths as they are written. An
    image without an object has no class: it is left out, and counted in the note.
    """

    def __init__(self, path: str, split: str):
        file = Path(path).expanduser()
        lines = _lines(file)
        classes = tuple(sorted({found.name for line in lines for found in line.objects}))
        notes = [] if lines[0].split else ["roles by a hash of the path, 80/10/10"]
        annotated = [line for line in lines if line.objects]
        notes += [f"images left out, which have no object: {bare:,}"] if (bare := len(lines) - len(annotated)) else []
        there = {line.split: line.split for line in lines if line.split}

        def of_role(role: str) -> list[_Line]:
            if not there:
                return [line for line in annotated if splits.hashed_role(line.image) == role]
            role, note = splits.role_or_substitute(role, there, "line")
            notes.extend([note] if note else [])
            return [line for line in annotated if line.split == role]

        chosen = splits.select(split, of_role)
        number = {name: label for label, name in enumerate(classes)}
        super().__init__(
            [file.parent / line.image for line in chosen],
            [number[image_class(line.objects)] for line in chosen],
            name=f"boxes:{path}",
            split=split,
            classes=classes,
            note="; ".join(notes),
        )
        self.objects = gathered([line.objects for line in chosen], classes)


class _Line(NamedTuple):
    image: str
    objects: tuple[Object, ...]
    split: str


def _lines(file: Path) -> list[_Line]:
    """All lines but empty ones."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(error.strerror) from error
    lines, seen = [], {}
    for number, text in enumerate(content.splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = _line(text)
            if line.image in seen:
                raise DataError(f"{line.image!r} is on line {seen[line.image]} already")
            if lines and bool(line.split) != bool(lines[0].split):
                raise DataError("some lines have a split and some have none")
        except DataError as error:
            raise DataError(f"line {number}: {error}") from error
        seen[line.image] = number
        lines.append(line)
    if not lines:
        raise DataError("the file has no lines")
    return lines


def _line(text: bytes) -> _Line:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"no JSON: {error}") from error
    _check(value, {"image": str, "objects": list}, {"split": str})
    for found in value["objects"]:
        _check(found, {"class": str, "box": list}, {"difficult": bool})
        if len(found["box"]) != 4 or not all(type(edge) in (int, float) for edge in found["box"]):
            raise DataError(f"box {found['box']!r} is not left, top, right, bottom")
    split = value.get("split", "")
    if "split" in value and split not in splits.ROLES:
        raise DataError(f"split {split!r} is none of {', '.join(splits.ROLES)}")
    objects = (Object(found["class"], tuple(found["box"]), found.get("difficult", False)) for found in value["objects"])
    return _Line(value["image"], tuple(objects), split)


def _check(value: object, needed: dict[str, type], possible: dict[str, type]) -> None:
    """Raises DataError unless it is an object with these keys, of these types."""
    known = needed | possible
    if not isinstance(value, dict) or not needed.keys() <= value.keys() <= known.keys():
        raise DataError(f"{_short(value)} is no object with {', '.join(needed)} and perhaps {', '.join(possible)}")
    for key, kind in known.items():
        if key in value and (not isinstance(value[key], kind) or value[key] == ""):
            raise DataError(f"{key} is {_short(value[key])}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
