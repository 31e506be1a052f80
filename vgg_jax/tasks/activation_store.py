"""The activations that fine-tuning keeps: a folder of `inference.array_folder` that is filled view by view.

NAME.npy      for each array of a batch, (views, images, ...): pool5, what it is to be compared with, and the mask,
              0 where an image could not be read
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from vgg_jax.inference import array_folder


def views_in(folder: Path, made_of: dict) -> int:
    """How many views a folder keeps that are made of this; what is made of something else is reported.

    Args:
      made_of: JSON values, everything that a view's activations depend on.
    """
    return len(array_folder.read(folder)[0]["mask"]) if array_folder.about_of(folder, made_of) else 0


def rows_in(folder: Path, made_of: dict, views: int) -> int:
    """How many rows, of one image in one view, are complete of a folder that is not, and is to have `views` views."""
    return array_folder.rows_in(folder, made_of | {"views": views})


@contextlib.contextmanager
def writing(folder: Path, made_of: dict, views: int, images: int, *, first: int) -> Iterator[array_folder.Unfinished]:
    """Arrays to be filled; afterwards the folder is complete, or after an interruption its complete rows are kept.

    Args:
      made_of: as in `views_in`; its `arrays` says which there are, {name: (shape of one row, dtype)}.
      views, images: how many there are to be.
      first: how many views are taken over from the folder as it was, unless more rows are complete.
    """
    what = f"{views} views of {images:,} images"
    with array_folder.writing(folder, made_of | {"views": views}, (views, images), what) as unfinished:
        if unfinished.rows < first * images:
            before, problems = array_folder.read(folder)
            for name, array in before.items():
                unfinished.arrays[name][:first] = array[:first]
            unfinished.problems |= problems
            unfinished.rows = first * images
        yield unfinished
