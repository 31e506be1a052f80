"""The activations that fine-tuning keeps: a folder of `inference.array_folder` that is filled view by view.

NAME.npy      for each array of a batch, (views, images, ...): pool5, what it is to be compared with, and the mask,
              0 where an image could not be read
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vgg_jax.inference import array_folder


def views_in(folder: Path, made_of: dict) -> int:
    """How many views a folder keeps that are made of this; what is made of something else is reported.

    Args:
      made_of: JSON values, everything that a view's activations depend on.
    """
    return array_folder.counted(folder, made_of, lambda about: len(np.load(folder / "mask.npy", mmap_mode="r")))


def rows_in(folder: Path, made_of: dict, views: int) -> int:
    """How many rows, of one image in one view, are complete of a folder that is not, and is to have so many views."""
    return array_folder.rows_in(folder, made_of | {"views": views})


@contextlib.contextmanager
def writing(
    folder: Path, made_of: dict, views: int, images: int, *, first: int, rows: int
) -> Iterator[array_folder.Unfinished]:
    """Arrays to be filled; afterwards the folder is complete, or after an interruption its complete rows are kept.

    Args:
      made_of: as in `views_in`; its `arrays` says which there are, {name: (shape of one row, dtype)}.
      views, images: how many there are to be.
      first: how many views are taken over from the folder as it was.
      rows: how many are complete: those of these views or, if there are more, those of `rows_in`.
    """

    def take_over(arrays: array_folder.Arrays) -> dict[str, str]:
        before, problems = array_folder.read(folder) if first else ({}, {})
        for name, array in before.items():
            arrays[name][:first] = array[:first]
        return problems

    begun = rows if rows > first * images else 0
    with array_folder.writing(folder, made_of | {"views": views}, (views, images), begun, take_over) as unfinished:
        unfinished.rows = rows
        yield unfinished
