"""Images by their paths: the files of a data set, or what a person names (Sec. 3.2)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vgg_jax.data.source import Files, Source
from vgg_jax.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"})
"""What counts as an image in a folder, in upper or lower case."""


class FileSource(Source):
    """Files of images.

    Args:
      paths: of the files.
      labels: of the images; -1 each, if there are none.
      name, split, classes, note: as in `Source`.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike],
        labels: Sequence[int] | None = None,
        *,
        name: str = "files",
        split: str = "",
        classes: tuple[str, ...] = (),
        note: str = "",
    ):
        super().__init__(name, split, classes, note)
        labels = np.full(len(paths), -1, np.int32) if labels is None else np.array(labels, np.int32)
        self.files = Files([os.fspath(path) for path in paths], labels)
        # A photograph without a suffix may be one.
        self.jpegs = any(Path(path).suffix.lower() not in SUFFIXES - {".jpg", ".jpeg"} for path in self.files.paths)

    def __len__(self) -> int:
        return len(self.files.paths)

    def __getitem__(self, index: int) -> dict:
        return {"image": Path(self.files.paths[index]).read_bytes(), "label": int(self.files.labels[index])}

    def name_of(self, index: int) -> str:
        """Its path."""
        return self.files.paths[index]


def class_folders(home: Path) -> tuple[str, ...]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    return tuple(sorted(entry.name for entry in os.scandir(home) if entry.is_dir() and not entry.name.startswith(".")))


def files_below(home: Path) -> list[Path]:
    """All files below a folder, sorted."""
    # Not `rglob` and `is_file`, which ask the system about every file: seconds for ten thousand.
    return sorted(Path(folder, name) for folder, _, names in os.walk(home) for name in names)


def existing_folder(path: str) -> Path:
    """The folder of a data set.

    Raises:
      DataError: there is none.
    """
    folder = Path(path).expanduser()
    if not os.path.isdir(folder):  # `Path.is_dir` raises where a name is too long
        raise DataError("there is no such folder" if not os.path.exists(folder) else "this is a file, not a folder")
    return folder
