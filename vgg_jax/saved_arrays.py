"""The arrays of one item of a checkpoint, `net/` or `optimizer/`: read, and compared with what was saved."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from vgg_jax import sharding
from vgg_jax.errors import CheckpointError
from vgg_jax.model.match import match, shapes_of


class DamagedCheckpoint(CheckpointError):
    """Files of a checkpoint are missing, cut off or changed."""


def read(folder: Path, like: dict | None = None) -> dict:
    """The arrays of one item of a checkpoint, placed as those of `like` are, or all on the default device."""
    # Each process for itself: Orbax would let it wait for others, which may have found the files damaged.
    alone = ocp.options.MultiprocessingOptions(jax.process_index(), {jax.process_index()})
    with ocp.StandardCheckpointer(multiprocessing_options=alone) as reader:
        with _damage(folder):
            saved = reader.metadata(folder).item_metadata.tree
        if like:
            check(folder, like, saved)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shape = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding if like else device)
        with _damage(folder):
            return reader.restore(folder, jax.tree.map(shape, like or saved))


def compare(folder: Path, there: dict[str, int], meta: dict) -> None:
    """Refuses one item of a checkpoint whose arrays have other checksums than what was saved."""
    if "checksums" in meta:  # old checkpoints have none
        then = meta["checksums"][folder.name]
        if changed := [name for name in there if there[name] != then.get(name)]:
            which = f"{changed[0]} and {len(changed) - 1} more arrays are" if len(changed) > 1 else f"{changed[0]} is"
            raise DamagedCheckpoint(f"{folder} is damaged: {which} not what was saved")


@contextlib.contextmanager
def _damage(folder: Path) -> Iterator[None]:
    """Reports any error while reading as damage, except running out of memory."""
    silence_the_others()
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # Orbax's and TensorStore's are of any type
        raise DamagedCheckpoint(f"{folder} is damaged: {reason(error)}") from error


@functools.cache
def silence_the_others() -> None:
    """Orbax reads and writes all arrays at once. When one fails it leaves the others, and Python prints their end."""
    shown = sys.unraisablehook
    left = re.compile("Event loop is closed|error while reading array index")
    sys.unraisablehook = lambda args: None if left.search(str(args.exc_value)) else shown(args)


def reason(error: Exception) -> str:
    """What went wrong, in part of a line."""
    while error.__cause__:
        error = error.__cause__
    if isinstance(error, AttributeError):  # Orbax's None in place of what it could not read
        return "files are missing or changed"
    lines = (getattr(error, "strerror", None) or str(error)).splitlines()
    return lines[0][:200] if lines else type(error).__name__


def check(folder: Path, wanted: dict, saved: dict) -> None:
    """Refuses a checkpoint of another network, naming every array that is missing, unexpected or of another shape."""
    if mismatch := match(shapes_of(wanted), shapes_of(saved)):
        raise CheckpointError(f"{folder} is of another network or freezes other layers: {mismatch}")


def checksums(tree: dict) -> dict[str, int]:
    """CRC-32 of every array of a tree {layer: {name: array}}, by its name `LAYER/ARRAY`."""
    paths, arrays = zip(*jax.tree_util.tree_leaves_with_path(tree), strict=True)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]
    arrays = [sharding.whole(array) if isinstance(array, jax.Array) else array for array in arrays]
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(lambda array: zlib.crc32(np.ascontiguousarray(array)), arrays), strict=True))
