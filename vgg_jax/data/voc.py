"""Images with annotations in Pascal VOC's XML (App. A, B).

Three layouts are known by their folders:

  images/, annotations/           and, if there are, train.txt, val.txt, test.txt: a name a line
  JPEGImages/, Annotations/       VOC's own; its lists are ImageSets/Main/train.txt, val.txt, test.txt
  train/CLASS/, val/, test/       ILSVRC's, also below Data/CLS-LOC/; annotations in Annotations/CLS-LOC/ or beside the
                                  images

An annotation belongs to the image of the same name. VOC counts pixels from 1 and a box's last pixels are in it: xmin is
`left + 1` and xmax is `right`. What a file says of its image (<filename>, <size>) is ignored, because it is often
wrong. Boxes are those of the upright image, as it is decoded.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from vgg_jax.data import splits
from vgg_jax.data.files import SUFFIXES, FileSource, class_folders, existing_folder, files_below
from vgg_jax.data.objects import Object, gathered, image_class
from vgg_jax.errors import DataError

_EDGES = ("xmin", "ymin", "xmax", "ymax")

_LISTS = {"train": "train", "validation": "val", "test": "test"}


class VocSource(FileSource):
    """Images with VOC's annotations; the classes are the names of all objects, or ILSVRC's folders, sorted.

    Where there are no lists, the images are divided 80 / 10 / 10 by a hash of their names. An image without an object
    has no class: it is left out, and counted in the note; in ILSVRC's layout its folder is its class.
    """

    _scheme = "voc"

    def __init__(self, path: str, split: str):
        layout = self._layout(existing_folder(path))
        chosen = splits.select(split, layout.of_role)
        number = {name: label for label, name in enumerate(layout.classes)}
        super().__init__(
            [image.path for image in chosen],
            [number[image.folder or image_class(image.objects)] for image in chosen],
            name=f"{self._scheme}:{path}",
            split=split,
            classes=layout.classes,
            note="; ".join(filter(None, layout.notes)),
        )
        self.objects = gathered([image.objects for image in chosen], layout.classes)

    def _layout(self, root: Path) -> _Flat | _ClassFolders:
        if (root / "JPEGImages").is_dir():
            return _Flat(root / "JPEGImages", root / "Annotations", root / "ImageSets" / "Main")
        if (root / "images").is_dir():
            return _Flat(root / "images", root / "annotations", root)
        return _ClassFolders(root)


class VocActionSource(VocSource):
    """Persons and what they do, of VOC-2012 (Table 12): the classes are the actions.

    The persons are those of the lists in ImageSets/Action, a line for each: the image's name and which object of it. A
    person is an object for each of its actions, all with the same box.
    """

    _scheme = "voc-action"

    def _layout(self, root: Path) -> _Flat:
        return _Actions(root)


class _Image(NamedTuple):
    path: Path
    objects: tuple[Object, ...]
    folder: str = ""
    """Its class, if its folder says it."""


class _Flat:
    """Images in one folder, their annotations in another, and lists of names in a third.

    Attributes:
      classes: all names of objects, sorted.
      notes: remarks on the roles that were asked for.
    """

    def __init__(self, images: Path, annotations: Path, lists: Path):
        self._images, self._lists, self.notes = _by_name(images, SUFFIXES), lists, []
        self._objects = {name: self._read(name, file) for name, file in _by_name(annotations, {".xml"}).items()}
        self.classes = tuple(sorted({found.name for objects in self._objects.values() for found in objects}))
        if lonely := self._objects.keys() - self._images.keys():
            self.notes.append(f"annotations without an image: {len(lonely):,}, e.g. {min(lonely)}")

    def of_role(self, role: str) -> list[_Image]:
        """The images of a role that have objects."""
        names = self._names(role)
        annotated = [_Image(self._images[name], self._objects[name]) for name in names if self._objects.get(name)]
        if not annotated:
            raise DataError(f"none of the {len(names):,} images of {role} has an annotation with an object")
        if len(annotated) < len(names):
            self.notes.append(f"images of {role} left out, which have no object: {len(names) - len(annotated):,}")
        return annotated

    def _names(self, role: str) -> list[str]:
        lists = {role: f"{name}.txt" for role, name in _LISTS.items() if (self._lists / f"{name}.txt").is_file()}
        if not lists:
            self.notes.append(f"{role} by a hash of the name, 80/10/10")
            return [name for name in sorted(self._images) if splits.hashed_role(name) == role]
        role, note = splits.role_or_substitute(role, lists, "list")
        self.notes.append(note)
        file = self._lists / lists[role]
        names = self._named_by(file)
        if missing := [name for name in names if name not in self._images]:
            raise DataError(f"{file} has {missing[0]!r}, of which there is no image")
        return names

    def _named_by(self, file: Path) -> list[str]:
        return _lines(file)

    def _read(self, name: str, file: Path) -> tuple[Object, ...]:
        return read(file)


class _Actions(_Flat):
    """VOC's own layout with lists of persons."""

    def __init__(self, root: Path):
        lists, self._persons = root / "ImageSets" / "Action", {}
        for file in (lists / f"{name}.txt" for name in _LISTS.values()):
            for line in _lines(file) if file.is_file() else ():
                name, _, number = line.partition(" ")
                if not number.strip().isdecimal():
                    raise DataError(f"{file}: {line!r} is not a name and the number of a person")
                self._persons.setdefault(name, []).append(int(number))
        if not self._persons:
            raise DataError(f"no lists of persons in {lists}: train.txt, val.txt or test.txt")
        super().__init__(root / "JPEGImages", root / "Annotations", lists)

    def _named_by(self, file: Path) -> list[str]:
        return list(dict.fromkeys(line.partition(" ")[0] for line in _lines(file)))

    def _read(self, name: str, file: Path) -> tuple[Object, ...]:
        return _actions(file, self._persons[name]) if name in self._persons else ()


class _ClassFolders:
    """ILSVRC's layout; see the module."""

    def __init__(self, root: Path):
        self._home = root / "Data" / "CLS-LOC" if (root / "Data" / "CLS-LOC").is_dir() else root
        self._annotations, self.notes = root / "Annotations" / "CLS-LOC", []
        if not (self._home / "train").is_dir():
            raise DataError(f"none of VOC's layouts: no JPEGImages/, images/ or train/ in {root}")
        self.classes = class_folders(self._home / "train")

    def of_role(self, role: str) -> list[_Image]:
        """The images of a role, with their objects if they have any."""
        there = {role: name for role, name in _LISTS.items() if (self._home / name).is_dir()}
        held_by, note = splits.role_or_substitute(role, there, "folder")
        self.notes.append(note)
        home = self._home / there[held_by]
        annotations = _by_name(home, {".xml"}) | _by_name(self._annotations / home.name, {".xml"})
        images = []
        for name, path in _by_name(home, SUFFIXES).items():
            annotation = annotations.get(name) or annotations.get(path.stem)
            objects = read(annotation) if annotation else ()
            folder = "" if path.parent == home else path.parent.name
            unknown = {folder, *(found.name for found in objects)} - {"", *self.classes}
            if unknown:
                raise DataError(f"{annotation or path}: {min(unknown)!r} is no class: there is no such folder in train")
            images.append(_Image(path, objects, folder))
        shown = [image for image in images if image.folder or image.objects]
        if len(shown) < len(images):
            self.notes.append(f"images of {role} left out, which have no object: {len(images) - len(shown):,}")
        return shown


def read(path: Path) -> tuple[Object, ...]:
    """The objects of an annotation.

    Raises:
      DataError: the file is damaged, or lacks something; the message names it.
    """
    return tuple(_object(found, where) for found, where in _elements(path))


def _actions(path: Path, persons: list[int]) -> tuple[Object, ...]:
    """An object for each action of some of an annotation's objects, which are counted from 1."""
    elements = _elements(path)
    if missing := [person for person in persons if not 1 <= person <= len(elements)]:
        raise DataError(f"{path} has no object {missing[0]}, which is a person in the lists")
    return tuple(
        _object(found, where)._replace(name=action.tag)
        for found, where in (elements[person - 1] for person in persons)
        for action in found.iterfind("actions/*")
        if (action.text or "").strip() == "1"
    )


def _elements(path: Path) -> list[tuple[ElementTree.Element, str]]:
    """The elements of the objects, and what to call them.

    No entity is expanded: a file that declares a document type, which no annotation needs, is refused.
    """
    try:
        content = path.read_bytes()
        if b"<!DOCTYPE" in content.replace(b"\0", b""):  # in UTF-16 too
            raise DataError(f"{path} declares a document type; an annotation needs none")
        root = ElementTree.fromstring(content)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise DataError(f"{path} is no XML that can be read: {error}") from error
    return [(found, f"{path}, object {number}") for number, found in enumerate(root.findall("object"), 1)]


def _object(found: ElementTree.Element, where: str) -> Object:
    name = (found.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{where} has no <name>")
    try:
        left, top, right, bottom = (float(found.findtext(f"bndbox/{edge}")) for edge in _EDGES)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} ({name}) has no <bndbox> of four numbers: {', '.join(_EDGES)}") from error
    return Object(name, (left - 1, top - 1, right, bottom), found.findtext("difficult", "0").strip() == "1")


def _lines(file: Path) -> list[str]:
    """The lines of a list, without those that are empty."""
    lines = file.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    return list(filter(None, map(str.strip, lines)))


def _by_name(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """The files below a folder, if there is one, sorted, by their paths in it without suffix."""
    found = {}
    for file in files_below(folder) if folder.is_dir() else ():
        if file.suffix.lower() in suffixes:
            name = file.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise DataError(f"{found[name]} and {file} have the same name")
            found[name] = file
    return found
