"""A folder that keeps activations: arrays that are read a batch at a time, never all into memory.

    of.json       what they are made of: everything that they depend on; and the images that could not be read
    pool5.npy     float32 (views, images, h, w, channels)
    label.npy     int32 (images,)
    mask.npy      float32 (views, images), 0 where an image could not be read

It is written aside and renamed when complete.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vgg_jax.errors import CheckpointError

log = logging.getLogger(__name__)


class Stored(NamedTuple):
    """The arrays of a folder, mapped into memory."""

    pool5: np.ndarray
    label: np.ndarray
    mask: np.ndarray


def views_in(folder: Path, made_of: dict) -> int:
    """How many views a folder keeps that are made of this; what is made of something else is reported.

    Args:
      made_of: JSON values, everything that a view's activations depend on.
    """
    if not folder.is_dir():
        return 0
    try:
        stored = json.loads((folder / "of.json").read_text())["of"]
        views = len(np.load(folder / "mask.npy"))
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s cannot be read (%s): computed again", folder, error)
        return 0
    made_of = json.loads(json.dumps(made_of))
    changed = [f"{key}: {stored.get(key)} -> {made_of[key]}" for key in made_of if stored.get(key) != made_of[key]]
    if changed:
        log.warning("%s was made otherwise (%s): computed again", folder, "; ".join(changed))
    return 0 if changed else views


def read(folder: Path) -> tuple[Stored, dict[str, str]]:
    """The arrays, and the images that could not be read: {name: reason}.

    Raises:
      CheckpointError: a file is missing or damaged.
    """
    try:
        arrays = Stored(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in Stored._fields))
        return arrays, json.loads((folder / "of.json").read_text())["unreadable"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder} is damaged: {error}; remove it, and it is computed again") from error


@contextlib.contextmanager
def writing(folder: Path, made_of: dict, shape: tuple[int, ...], first: int) -> Iterator[tuple[Stored, dict[str, str]]]:
    """Arrays to be filled, and a dict for what cannot be read; afterwards the folder is complete.

    Args:
      made_of: as in `views_in`.
      shape: of `pool5`.
      first: the view to begin with; those before it are taken over from the folder as it was.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    views, images = shape[:2]
    shapes = {"pool5": (np.float32, shape), "label": (np.int32, (images,)), "mask": (np.float32, (views, images))}
    arrays = Stored(*(np.lib.format.open_memmap(partial / f"{n}.npy", "w+", *of) for n, of in shapes.items()))
    problems: dict[str, str] = {}
    if first:
        before, problems = read(folder)
        arrays.pool5[:first], arrays.mask[:first] = before.pool5[:first], before.mask[:first]
        arrays.label[:] = before.label
    yield arrays, problems
    for array in arrays:
        array.flush()
    (partial / "of.json").write_text(json.dumps({"of": made_of, "unreadable": problems}, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
