"""A folder of arrays that are filled row by row, and then read a few rows at a time, never all into memory.

    of.json       what they are made of: everything that they depend on; and the images that could not be read
    NAME.npy      an array

It is written aside and renamed when complete. Until then `of.json` says too how many rows are complete; it is written
after them, so that whoever stops goes on from there.
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

SECONDS = 1.0
"""Of work that a kill may cost."""

Arrays = dict[str, np.ndarray]
"""By name, mapped into memory."""


def counted(folder: Path, made_of: dict, count: Callable[[dict], int]) -> int:
    """What a function counts in a folder that is made of this, given its `of.json`; 0 where there is none.

    A folder that is made of something else is reported.

    Args:
      made_of: JSON values, everything that the arrays depend on.
    """
    if not folder.is_dir():
        return 0
    try:
        about = json.loads((folder / "of.json").read_text())
        stored, number = about["of"], count(about)
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s cannot be read (%s): computed again", folder, error)
        return 0
    made_of = json.loads(json.dumps(made_of))
    changed = [f"{key}: {stored.get(key)} -> {made_of[key]}" for key in made_of if stored.get(key) != made_of[key]]
    if changed:
        log.warning("%s was made otherwise (%s): computed again", folder, "; ".join(changed))
    return 0 if changed else number


def rows_in(folder: Path, made_of: dict) -> int:
    """How many rows are complete of a folder that is not; the arguments are those of `writing`."""
    return counted(aside(folder), made_of, lambda about: about["rows"])


def read(folder: Path, mode: str = "r") -> tuple[Arrays, dict[str, str]]:
    """The arrays of a folder, and the images that could not be read: {name: reason}.

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
    """Arrays to be filled row by row; in memory alone if there is no folder.

    Attributes:
      arrays: the arrays.
      problems: to be filled with what cannot be read, {name: reason}.
      rows: how many rows are complete.
    """

    def __init__(self, folder: Path | None, made_of: dict, arrays: Arrays, problems: dict[str, str], rows: int):
        self._folder, self._made_of = folder, made_of
        self.arrays, self.problems, self.rows, self._kept = arrays, problems, rows, 0.0

    def complete(self, rows: int) -> None:
        """Takes note that so many rows are complete."""
        self.rows = rows
        if time.monotonic() - self._kept > SECONDS:
            self.keep()

    def keep(self) -> None:
        """Writes what is complete to the disk, and then how much that is."""
        if self._folder is None:
            return
        for array in self.arrays.values():
            array.flush()
        # A copy, for a thread may be filling it.
        about = {"of": self._made_of, "rows": self.rows, "unreadable": dict(self.problems)}
        with written_aside(self._folder / "of.json") as partial:
            partial.write_text(json.dumps(about, indent=1))
        self._kept = time.monotonic()


def in_memory(made_of: dict, shape: tuple[int, ...]) -> Unfinished:
    """Arrays that nobody keeps; the arguments are those of `writing`."""
    arrays = {name: np.zeros((*shape, *of_row), dtype) for name, (of_row, dtype) in made_of["arrays"].items()}
    return Unfinished(None, made_of, arrays, {}, 0)


@contextlib.contextmanager
def writing(
    folder: Path,
    made_of: dict,
    shape: tuple[int, ...],
    rows: int,
    begin: Callable[[Arrays], dict[str, str]] = lambda arrays: {},
) -> Iterator[Unfinished]:
    """Arrays to be filled; afterwards the folder is complete, or after an interruption its complete rows are kept.

    Args:
      made_of: as in `counted`; its `arrays` says which there are, {name: (shape of one row, dtype)}.
      shape: how many rows there are to be, in one dimension or several.
      rows: those that `rows_in` counts, to go on from there; or 0 for new arrays.
      begin: fills rows of new arrays, and says what of them could not be read.
    """
    partly = aside(folder)
    if rows:
        arrays, problems = read(partly, "r+")
    else:
        shutil.rmtree(partly, ignore_errors=True)
        partly.mkdir(parents=True)
        arrays = {
            name: np.lib.format.open_memmap(partly / f"{name}.npy", "w+", np.dtype(dtype), (*shape, *of_row))
            for name, (of_row, dtype) in made_of["arrays"].items()
        }
        problems = begin(arrays)
    unfinished = Unfinished(partly, made_of, arrays, problems, rows)
    unfinished.keep()
    try:
        yield unfinished
    finally:
        unfinished.keep()
    shutil.rmtree(folder, ignore_errors=True)
    partly.replace(folder)


def aside(folder: Path) -> Path:
    """Where a folder is until it is complete."""
    return folder.with_name(f"{folder.name}.partial")
