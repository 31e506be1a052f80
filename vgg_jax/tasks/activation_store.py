"""A folder that keeps activations: arrays that are read a batch at a time, never all into memory.

    of.json       what they are made of: everything that they depend on; and the images that could not be read
    NAME.npy      for each array of a batch, (views, images, ...): pool5, what it is to be compared with, and the mask,
                  0 where an image could not be read

It is written aside, view by view, and renamed when complete. Until then `of.json` says too how many rows, of one image
in one view, are complete; it is written after them, so that whoever stops goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from vgg_jax.errors import CheckpointError
from vgg_jax.files import written_aside

log = logging.getLogger(__name__)

_SECONDS = 1.0  # of work that a kill may cost


def views_in(folder: Path, made_of: dict) -> int:
    """How many views a folder keeps that are made of this; what is made of something else is reported.

    Args:
      made_of: JSON values, everything that a view's activations depend on.
    """
    return _counted(folder, made_of, lambda about: len(np.load(folder / "mask.npy", mmap_mode="r")))


def rows_in(folder: Path, made_of: dict, views: int) -> int:
    """How many rows are complete of a folder that is not, and is to have so many views."""
    return _counted(_aside(folder), made_of | {"views": views}, lambda about: about["rows"])


def read(folder: Path, mode: str = "r") -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays, mapped into memory, and the images that could not be read: {name: reason}.

    Args:
      mode: "r+" for arrays that may be written to.

    Raises:
      CheckpointError: a file is missing or damaged.
    """
    try:
        about = json.loads((folder / "of.json").read_text())
        names = about["of"]["arrays"]
        return {name: np.load(folder / f"{name}.npy", mmap_mode=mode) for name in names}, about["unreadable"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder} is damaged: {error}; remove it, and it is computed again") from error


class Unfinished:
    """Arrays to be filled view by view.

    Attributes:
      arrays: the arrays.
      problems: to be filled with what cannot be read, {name: reason}.
      rows: how many rows are complete.
    """

    def __init__(self, folder: Path, made_of: dict, arrays: dict[str, np.ndarray], problems: dict[str, str], rows: int):
        self._folder, self._made_of = folder, made_of
        self.arrays, self.problems, self.rows, self._kept = arrays, problems, rows, 0.0

    def complete(self, rows: int) -> None:
        """Takes note that so many rows are complete."""
        self.rows = rows
        if time.monotonic() - self._kept > _SECONDS:
            self.keep()

    def keep(self) -> None:
        """Writes what is complete to the disk, and then how much that is."""
        for array in self.arrays.values():
            array.flush()
        about = {"of": self._made_of, "rows": self.rows, "unreadable": self.problems}
        with written_aside(self._folder / "of.json") as partial:
            partial.write_text(json.dumps(about, indent=1))
        self._kept = time.monotonic()


@contextlib.contextmanager
def writing(folder: Path, made_of: dict, views: int, images: int, *, first: int, rows: int) -> Iterator[Unfinished]:
    """Arrays to be filled; afterwards the folder is complete, or after an interruption its complete rows are kept.

    Args:
      made_of: as in `views_in`; its `arrays` says which there are, {name: (shape of one row, dtype)}.
      views, images: how many there are to be.
      first: how many views are taken over from the folder as it was.
      rows: how many are complete: those of these views or, if there are more, those of `rows_in`.
    """
    aside = _aside(folder)
    if rows > first * images:
        arrays, problems = read(aside, "r+")
    else:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        arrays = {
            name: np.lib.format.open_memmap(aside / f"{name}.npy", "w+", np.dtype(dtype), (views, images, *shape))
            for name, (shape, dtype) in made_of["arrays"].items()
        }
        problems = {}
        if first:
            before, problems = read(folder)
            for name, array in arrays.items():
                array[:first] = before[name][:first]
    unfinished = Unfinished(aside, made_of | {"views": views}, arrays, problems, rows)
    unfinished.keep()
    try:
        yield unfinished
    finally:
        unfinished.keep()
    shutil.rmtree(folder, ignore_errors=True)
    aside.replace(folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.partial")


def _counted(folder: Path, made_of: dict, count: Callable[[dict], int]) -> int:
    """What a function counts in a folder that is made of this, given its `of.json`; 0 where there is none."""
    if not folder.is_dir():
        return 0
    try:
        about = json.loads((folder / "of.json").read_text())
        stored, counted = about["of"], count(about)
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s cannot be read (%s): computed again", folder, error)
        return 0
    made_of = json.loads(json.dumps(made_of))
    changed = [f"{key}: {stored.get(key)} -> {made_of[key]}" for key in made_of if stored.get(key) != made_of[key]]
    if changed:
        log.warning("%s was made otherwise (%s): computed again", folder, "; ".join(changed))
    return 0 if changed else counted
