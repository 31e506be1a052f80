"""The feature store: passes over the images of a source that are computed once and kept (App. B; Sec. 3.1).

    STORE/.../PASS/    a folder of `array_folder`, with a row for each image of the source, by its index

`pooled_features` keeps a pass for each test scale here, for descriptors and for files of features, and
`tasks.cached_features` one for each view of the images, to train the FC layers on.

A pass that was cut off goes on from its last complete batch, and gives the same bits as one that was not: the batches
are the same, a function of the images' order. Memory holds what is computed at the moment; the arrays are mapped.

Several processes compute a share of the images each, in a folder of its own, and the first one joins them on the disk:
the store must be on a disk that they all see.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from vgg_jax.data.source import Source, digest
from vgg_jax.errors import CheckpointError, DataError
from vgg_jax.files import writing
from vgg_jax.inference import array_folder

log = logging.getLogger(__name__)

_AT_ONCE = 4096
"""Rows that are copied at once."""


def identity(source: Source) -> dict:
    """What tells a source from others and from itself with other content, as JSON values."""
    names = digest(source.name_of(index) for index in range(len(source)))
    facts = {"source": source.name, "split": source.split, "images": len(source), "names": names}
    return facts | {"classes": digest(source.classes), "content": source.fingerprint()}


def is_complete(folder: Path, made_of: dict, *, whole: bool) -> bool:
    """Whether a pass is there that is made of this; what is made of something else is reported.

    Args:
      folder: of the pass.
      made_of: JSON values, everything that the features depend on.
      whole: whether a pass that lacks an image which could not be read does not count.
    """
    about = array_folder.about_of(folder, made_of)
    return about is not None and not (whole and about[1])


def read(folder: Path, source: Source) -> tuple[array_folder.Arrays, dict[str, str]]:
    """The arrays of a pass, mapped, and the images that could not be read: {name: reason}.

    Raises:
      CheckpointError: it is damaged.
    """
    arrays, problems = array_folder.read(folder)
    if any(len(array) != len(source) for array in arrays.values()):
        raise CheckpointError(f"{folder} is damaged: it is not of {len(source):,} images; remove it")
    return arrays, problems


def fill(
    folder: Path,
    made_of: dict,
    source: Source,
    compute: Callable[[array_folder.Unfinished, range], None],
    *,
    whole: bool,
) -> None:
    """Computes a pass over a source: each process its share of the images, which the first one joins.

    Args:
      folder: of the pass.
      made_of: JSON values, everything that the features depend on, the order of the batches included; `arrays` says
        which there are, {name: (shape of one row, dtype)}.
      source: the images.
      compute: is given unfinished arrays and the indices of the images that are their rows; goes on from
        `unfinished.rows`, which counts rows or batches as it likes, and reports what is complete.
      whole: whether an unfinished pass that lacks an image which could not be read is started over.

    Raises:
      ConfigError: another process computes in the folder, or it cannot be written to.
      DataError: there are fewer images than processes; and what `compute` raises.
      CheckpointError: what is kept is damaged.
    """
    process, processes = jax.process_index(), jax.process_count()
    with writing(folder):
        if processes == 1:
            with array_folder.writing(folder, made_of, len(source), "features", whole=whole) as unfinished:
                compute(unfinished, range(len(source)))
            _remove_shares(folder)
            return
        if len(source) < processes:
            raise DataError(f"{source.describe()}: fewer images than the {processes} processes")
        shares = [range(number, len(source), processes) for number in range(processes)]
        folders = [folder.with_name("shares") / f"{folder.name}-{number}of{processes}" for number in range(processes)]
        _compute_share(folders[process], made_of | {"share": [process, processes]}, shares[process], compute, whole)
        multihost_utils.sync_global_devices(f"all shares of {folder.name}")
        if process == 0:
            with array_folder.writing(folder, made_of, len(source), "features") as joined:
                for share, part in zip(shares, folders, strict=True):
                    _join(joined, share, part)
            _remove_shares(folder)
        multihost_utils.sync_global_devices(folder.name)


def _compute_share(folder: Path, made_of: dict, share: range, compute: Callable, whole: bool) -> None:
    """Computes a process's share, unless it is there; none of its files stays mapped: NFS would keep the folder."""
    if not is_complete(folder, made_of, whole=whole):
        with array_folder.writing(folder, made_of, len(share), "features", whole=whole) as unfinished:
            compute(unfinished, share)


def _join(joined: array_folder.Unfinished, share: range, folder: Path) -> None:
    """Copies a share to its rows of the pass; here too none of its files stays mapped."""
    arrays, problems = array_folder.read(folder)
    joined.problems.update(problems)
    for name, array in arrays.items():
        for first in range(0, len(share), _AT_ONCE):
            joined.arrays[name][share[first : first + _AT_ONCE]] = array[first : first + _AT_ONCE]


def _remove_shares(folder: Path) -> None:
    """Removes the shares of a pass that is complete, also those of another number of processes before."""
    shares = folder.with_name("shares")
    for part in shares.glob(f"{folder.name}-[0-9]*of[0-9]*"):
        try:
            if part.is_dir():
                shutil.rmtree(part)
            else:  # the lock of a process that was killed
                part.unlink()
        except OSError as error:  # what was computed is complete
            log.warning("%s is not needed any longer, but cannot be removed: %s", part, error.strerror)
    with contextlib.suppress(OSError):  # there are none, or another pass's, which was cut off
        for emptied in shares.glob("*of*[0-9]"):  # where files were still open, which NFS keeps until they are closed
            with contextlib.suppress(OSError):
                emptied.rmdir()
        shares.rmdir()
