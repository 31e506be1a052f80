"""A folder of arrays that are filled row by row, and then read a few rows at a time, never all into memory.

    of.json       what they are made of: everything that they depend on; and the images that could not be read
    NAME.npy      an array

It is written aside and renamed when complete. Until then `of.json` says too how many rows are complete; it is written
after them, so an interrupted pass goes on from there. One process at a time writes it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vgg_jax.errors import CheckpointError
from vgg_jax.files import check_room, written_aside
from vgg_jax.locks import locked

log = logging.getLogger(__name__)

SECONDS = 1.0
"""Of work that a kill may cost."""

Arrays = dict[str, np.ndarray]
"""By name, mapped into memory."""


def about_of(folder: Path, made_of: dict) -> tuple[int, dict[str, str]] | None:
    """How many rows are complete of a folder that is made of this, and the images that could not be read.

    None where there is none, or one that is made of something else, which is said.

    Args:
      made_of: JSON values, everything that the arrays depend on.
    """
    if not folder.is_dir():
        return None
    try:
        about = json.loads((folder / "of.json").read_text())
        stored, rows, unreadable = about["of"], int(about["rows"]), dict(about["unreadable"])
        made_of = json.loads(json.dumps(made_of))
        changed = [f"{key}: {stored.get(key)} -> {made_of[key]}" for key in made_of if stored.get(key) != made_of[key]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be read (%s): computed again", folder, error)
        return None
    if changed:
        log.warning("%s was made otherwise (%s): computed again", folder, "; ".join(changed))
        return None
    return rows, unreadable


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
      rows: how many rows are complete; or batches, or what else their writer counts.
    """

    def __init__(self, folder: Path | None, made_of: dict, arrays: Arrays, problems: dict[str, str], rows: int):
        self._folder, self._made_of = folder, made_of
        self.arrays, self.problems, self.rows, self._kept = arrays, problems, rows, 0.0

    def complete(self, rows: int) -> None:
        """Records how many rows are complete."""
        self.rows = rows
        if time.monotonic() - self._kept > SECONDS:
            self.keep()

    def keep(self) -> None:
        """Writes what is complete to the disk, and then how much that is."""
        if self._folder is None:
            return
        for array in self.arrays.values():
            array.flush()
        # A copy, because a thread may be filling it.
        about = {"of": self._made_of, "rows": self.rows, "unreadable": dict(self.problems)}
        with written_aside(self._folder / "of.json") as partial:
            partial.write_text(json.dumps(about, indent=1))
        self._kept = time.monotonic()


def in_memory(made_of: dict, count: int) -> Unfinished:
    """Arrays that nobody keeps; the arguments are those of `writing`."""
    arrays = {name: np.zeros((count, *of_row), dtype) for name, (of_row, dtype) in made_of["arrays"].items()}
    return Unfinished(None, made_of, arrays, {}, 0)


@contextlib.contextmanager
def writing(folder: Path, made_of: dict, count: int, what: str, *, whole: bool = False) -> Iterator[Unfinished]:
    """Arrays to be filled; afterwards the folder is complete, or after an interruption its complete rows are kept.

    They go on from the rows that are complete; if there are none, the arrays are new.

    Args:
      made_of: as in `about_of`; its `arrays` says which there are, {name: (shape of one row, dtype)}.
      count: how many rows there are to be, one for each image.
      what: what the rows hold, for messages: "features".
      whole: whether rows do not count among which are those of images that could not be read.

    Raises:
      ConfigError: another process computes in the folder, or there is no room on the disk.
      CheckpointError: the complete rows are damaged.
    """
    partly = aside(folder)
    with locked(folder):
        rows, problems = about_of(partly, made_of) or (0, {})
        if rows and not (whole and problems):
            arrays, _ = read(partly, "r+")
        else:  # none of its files is mapped: NFS would keep the folder
            rows, problems = 0, {}
            shutil.rmtree(partly, ignore_errors=True)
            row = sum(math.prod(of_row) * np.dtype(dtype).itemsize for of_row, dtype in made_of["arrays"].values())
            check_room(folder.parent, count * row, f"the {what} of {count:,} images")
            partly.mkdir()
            arrays = {
                name: np.lib.format.open_memmap(partly / f"{name}.npy", "w+", np.dtype(dtype), (count, *of_row))
                for name, (of_row, dtype) in made_of["arrays"].items()
            }
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
