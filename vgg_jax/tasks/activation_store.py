"""The activations that fine-tuning keeps in a run's folder, by `inference.array_folder`.

    pool5.npy     float32 (views, images, h, w, channels)
    label.npy     int32 (images,)
    mask.npy      float32 (views, images), 0 where an image could not be read

It is filled view by view; a row is one image in one view.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vgg_jax.inference import array_folder
from vgg_jax.inference.array_folder import Unfinished


class Stored(NamedTuple):
    """The arrays of a folder, mapped into memory."""

    pool5: np.ndarray
    label: np.ndarray
    mask: np.ndarray


def views_in(folder: Path, made_of: dict) -> int:
    """How many views a folder keeps that are made of this; what is made of something else is reported."""
    return array_folder.counted(folder, made_of, lambda about: len(np.load(folder / "mask.npy", mmap_mode="r")))


def rows_in(folder: Path, made_of: dict, shape: tuple[int, ...]) -> int:
    """How many rows are complete of a folder that is not; the arguments are those of `writing`."""
    return array_folder.rows_in(folder, made_of | {"views": shape[0]})


def read(folder: Path, mode: str = "r") -> tuple[Stored, dict[str, str]]:
    """The arrays, and the images that could not be read, as `array_folder.read` has them."""
    arrays, problems = array_folder.read(folder, Stored._fields, mode)
    return Stored(**arrays), problems


@contextlib.contextmanager
def writing(folder: Path, made_of: dict, shape: tuple[int, ...], views: int, rows: int) -> Iterator[Unfinished]:
    """Arrays to be filled, as `array_folder.writing` has them.

    Args:
      shape: of `pool5`.
      views: how many are taken over from the folder as it was.
      rows: how many are complete: those of the views or, if there are more, those of `rows_in`.
    """
    images = shape[1]
    shapes = {"pool5": (np.float32, shape), "label": (np.int32, (images,)), "mask": (np.float32, shape[:2])}

    def take_over(arrays: array_folder.Arrays) -> dict[str, str]:
        if not views:
            return {}
        before, problems = read(folder)
        arrays["pool5"][:views], arrays["mask"][:views] = before.pool5[:views], before.mask[:views]
        arrays["label"][:] = before.label
        return problems

    more = rows if rows > views * images else 0
    with array_folder.writing(folder, made_of | {"views": shape[0]}, shapes, more, take_over) as unfinished:
        unfinished.rows = rows
        yield unfinished
