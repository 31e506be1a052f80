"""The contract of a source: one split of a data set, an example by its index (Sec. 3.1, 4).

A source is a fixed sequence, open to random access: the position in the data is then a function of the training step
alone, and resuming needs nothing but the step. `data.open` opens one by its name.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Files(NamedTuple):
    """The images of a source that are files, by index."""

    paths: Sequence[str]
    labels: np.ndarray
    """int32 (n,)."""


class Objects(NamedTuple):
    """The objects of a source, those of one image together."""

    image: np.ndarray
    """int64 (m,), rising: the position of the image in the source."""
    label: np.ndarray
    """int32 (m,)."""
    corners: np.ndarray
    """float32 (m, 4): left, top, right, bottom in pixels of the image as it is decoded, right and bottom exclusive."""
    difficult: np.ndarray
    """bool (m,): what VOC marks so, and does not count."""


class Source(ABC):
    """One split of a data set, as a sequence of encoded images with what is known of them.

    Attributes:
      name, split: what it was opened with.
      classes: the class names; a label is a position in them.
      note: a remark that a reader of the log should not miss, or "".
      jpegs: whether JPEGs are to be expected; the pipeline then looks for them first.
      files: where each image is a file of its own, these, which TensorFlow then reads; otherwise None.
      objects: where the images have boxes, these, as they were annotated (`data.objects.checked`); otherwise None.
    """

    files: Files | None = None
    objects: Objects | None = None

    def __init__(self, name: str, split: str, classes: tuple[str, ...], note: str = ""):
        self.name, self.split, self.classes, self.note = name, split, classes, note
        self.jpegs = True

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> dict:
        """An example: `image`, the encoded bytes (JPEG, PNG, ...), and `label`, an int. Called from many threads.

        Raises:
          OSError, DataError: the bytes cannot be read.
        """

    @abstractmethod
    def name_of(self, index: int) -> str:
        """Where a person finds this image: its path, or its file and record number."""

    def fingerprint(self) -> str:
        """A checksum of the images' sizes and times, and of their objects: another one where content was replaced."""
        facts = [_size_and_time(path) for path in (self.files.paths if self.files else ())]
        return digest(facts + [array.tobytes() for array in self.objects or ()])

    def shared_with(self, other: Source) -> int:
        """How many of its images another source has too."""
        names = set(map(self.name_of, range(len(self))))
        return len(names.intersection(map(other.name_of, range(len(other)))))

    def describe(self) -> str:
        """One line for the log: classes, images, split, and what is unusual."""
        summary = f"{self.name}, split {self.split}: {len(self):,} images of {len(self.classes):,} classes"
        return f"{summary} ({self.note})" if self.note else summary


def digest(facts: Iterable[object]) -> str:
    """A checksum of what has a `repr`, 16 hexadecimal digits."""
    value = hashlib.sha256()
    for fact in facts:
        value.update(f"{fact!r}\n".encode())
    return value.hexdigest()[:16]


def _size_and_time(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:  # reading it says why
        return None
    return status.st_size, status.st_mtime_ns
