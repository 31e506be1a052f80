"""A folder of class folders: PATH/CLASS/*.jpg, or PATH/train/CLASS/*.jpg and so on."""

import hashlib
import os
from pathlib import Path

import numpy as np

from vgg_jax.data import splits
from vgg_jax.data.source import Files, Source
from vgg_jax.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"})
"""What counts as an image, in upper or lower case; other files are left alone, and counted in the source's note."""

_FOLDERS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}


class FolderSource(Source):
    """Images in class folders; the classes are the folders' names, sorted.

    With train, validation (or val) and test below it, a role is that folder; where there is no test, validation stands
    in, and the note says so. Without any of them, the images are divided 80 / 10 / 10 by a hash of their path below
    PATH: an image keeps its role when others come or go.
    """

    def __init__(self, path: str, split: str):
        self._root = Path(path).expanduser()
        role, _, _ = splits.parse(split)
        if not os.path.isdir(self._root):  # `Path.is_dir` raises where a name is too long
            raise DataError(
                "there is no such folder" if not os.path.exists(self._root) else "this is a file, not a folder"
            )
        divided = {
            role: self._root / name
            for role, names in _FOLDERS.items()
            for name in names
            if (self._root / name).is_dir()
        }
        notes = [] if divided else [f"{role} by a hash of the path, 80/10/10"]
        if role == "test" and "test" not in divided and "validation" in divided:
            role, notes = "validation", [f"it has no test folder, {divided['validation'].name} stands in"]
        if divided and role not in divided:
            raise DataError(
                f"split {split!r}: the folder has {', '.join(sorted(divided))}, but no {role}; "
                "a slice can stand in for it: train[:90%] to train on, train[90%:] to validate"
            )
        home = divided.get(role, self._root)
        images, ignored = _images(home)
        classes = tuple(sorted(images))
        if divided and role != "train" and "train" in divided:
            _check_classes(_class_names(divided["train"]), classes, role)
        files = [(file, label) for label, name in enumerate(classes) for file in images[name]]
        if not divided:
            files = [(file, label) for file, label in files if _role(file.relative_to(self._root)) == role]
            if not files:
                raise DataError(f"split {split!r}: none of its few images falls into this tenth; make {role}/ below it")
        self._files = [files[position] for position in splits.positions(split, len(files))]
        notes += [f"other files left alone: {ignored}"] if ignored else []
        super().__init__(f"folder:{path}", split, classes, "; ".join(notes))
        self._all = Files(
            [str(file) for file, _ in self._files], np.array([label for _, label in self._files], np.int32)
        )
        self.jpegs = any(file.suffix.lower() in (".jpg", ".jpeg") for file, _ in self._files)

    @property
    def files(self) -> Files:
        """The images' paths and labels."""
        return self._all

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict:
        file, label = self._files[index]
        return {"image": file.read_bytes(), "label": label}

    def name_of(self, index: int) -> str:
        return str(self._files[index][0])


def _class_names(home: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in home.iterdir() if entry.is_dir() and not entry.name.startswith(".")))


def _images(home: Path) -> tuple[dict[str, list[Path]], int]:
    """Images of each class below a folder, sorted, and how many other files lie among them."""
    names = _class_names(home)
    if not names:
        raise DataError(f"no class folders in {home}; images belong in {home}/CLASS/")
    images, ignored = {}, 0
    for name in names:
        # Not `rglob` and `is_file`, which ask the system about every file: seconds for ten thousand.
        files = sorted(Path(folder, file) for folder, _, files in os.walk(home / name) for file in files)
        images[name] = [file for file in files if file.suffix.lower() in SUFFIXES]
        ignored += len(files) - len(images[name])
    empty = [name for name in names if not images[name]]
    if empty:
        raise DataError(f"no images ({' '.join(sorted(SUFFIXES))}) in {home / empty[0]}{_others(empty)}")
    return images, ignored


def _check_classes(expected: tuple[str, ...], found: tuple[str, ...], role: str) -> None:
    """Labels are positions in the sorted names, so two splits must have the very same ones."""
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        differences = [f"{role} lacks {missing[0]!r}{_others(missing)}"] if missing else []
        differences += [f"train lacks {extra[0]!r}{_others(extra)}"] if extra else []
        raise DataError(f"the classes of train and {role} differ: {'; '.join(differences)}")


def _others(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _role(relative: Path) -> str:
    tenth = int.from_bytes(hashlib.sha256(relative.as_posix().encode()).digest()[:8], "big") % 10
    return {8: "validation", 9: "test"}.get(tenth, "train")
