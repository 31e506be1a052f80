"""A folder that keeps activations: arrays that are read a batch at a time, never all into memory.

    of.json       what they are of: everything that they depend on; and the images that could not be read
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


class Kept(NamedTuple):
    """The arrays of a folder, mapped into memory."""

    pool5: np.ndarray
    label: np.ndarray
    mask: np.ndarray


def views_of(folder: Path, of: dict) -> int:
    """How many views a folder keeps that were made of this; something else there is reported of.

    Args:
      of: JSON values, everything that a view's activations depend on.
    """
    if not folder.is_dir():
        return 0
    try:
        kept = json.loads((folder / "of.json").read_text())["of"]
        views = len(np.load(folder / "mask.npy"))
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s cannot be read (%s): computed anew", folder, error)
        return 0
    wanted = json.loads(json.dumps(of))
    changed = [f"{key}: {kept.get(key)} -> {wanted[key]}" for key in wanted if kept.get(key) != wanted[key]]
    if changed:
        log.warning("%s was made otherwise (%s): computed anew", folder, "; ".join(changed))
    return 0 if changed else views


def opened(folder: Path) -> tuple[Kept, dict[str, str]]:
    """The arrays, and the images that could not be read: {where: reason}.

    Raises:
      CheckpointError: a file is missing or damaged.
    """
    try:
        arrays = Kept(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in Kept._fields))
        return arrays, json.loads((folder / "of.json").read_text())["unreadable"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder} is damaged: {error}; remove it, and it is computed anew") from error


@contextlib.contextmanager
def writing(folder: Path, of: dict, shape: tuple[int, ...], first: int) -> Iterator[tuple[Kept, dict[str, str]]]:
    """Arrays to be filled, and a dict for what could not be read; afterwards the folder is complete.

    Args:
      of: as `views_of` has it.
      shape: of `pool5`.
      first: the view to begin with; those before it are taken over from the folder as it was.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    views, images = shape[:2]
    unreadable: dict[str, str] = {}
    arrays = Kept(
        np.lib.format.open_memmap(partial / "pool5.npy", "w+", np.float32, shape),
        np.lib.format.open_memmap(partial / "label.npy", "w+", np.int32, (images,)),
        np.lib.format.open_memmap(partial / "mask.npy", "w+", np.float32, (views, images)),
    )
    if first:
        before, reported = opened(folder)
        arrays.pool5[:first], arrays.mask[:first], arrays.label[:] = (
            before.pool5[:first],
            before.mask[:first],
            before.label,
        )
        unreadable |= reported
    yield arrays, unreadable
    for array in arrays:
        array.flush()
    (partial / "of.json").write_text(json.dumps({"of": of, "unreadable": unreadable}, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
