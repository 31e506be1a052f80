"""Images by their paths: what a person names at the command line or hands to the library (Sec. 3.2)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vgg_jax.data.source import Files, Source


class FileSource(Source):
    """Files of images, without labels (-1).

    Args:
      paths: of the files.
    """

    def __init__(self, paths: Sequence[str | os.PathLike]):
        super().__init__("files", "", ())
        self._paths = [os.fspath(path) for path in paths]

    @property
    def files(self) -> Files:
        """The paths."""
        return Files(self._paths, np.full(len(self._paths), -1, np.int32))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict:
        return {"image": Path(self._paths[index]).read_bytes(), "label": -1}

    def name_of(self, index: int) -> str:
        """Its path."""
        return self._paths[index]
