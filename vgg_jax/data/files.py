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
        self._files = Files([os.fspath(path) for path in paths], labels)
        # A photograph without a suffix may be one.
        self.jpegs = any(Path(path).suffix.lower() not in SUFFIXES - {".jpg", ".jpeg"} for path in self._files.paths)

    @property
    def files(self) -> Files:
        """The paths and labels."""
        return self._files

    def __len__(self) -> int:
        return len(self._files.paths)

    def __getitem__(self, index: int) -> dict:
        return {"image": Path(self._files.paths[index]).read_bytes(), "label": int(self._files.labels[index])}

    def name_of(self, index: int) -> str:
        """Its path."""
        return self._files.paths[index]


def existing_folder(path: str) -> Path:
    """The folder of a data set.

    Raises:
      DataError: there is none.
    """
    folder = Path(path).expanduser()
    if not os.path.isdir(folder):  # `Path.is_dir` raises where a name is too long
        raise DataError("there is no such folder" if not os.path.exists(folder) else "this is a file, not a folder")
    return folder
