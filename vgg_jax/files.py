"""Atomic writes that never replace a file this program did not write; damaged files are renamed, not deleted."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from vgg_jax.errors import ConfigError
from vgg_jax.stopping import removed_at_end

log = logging.getLogger(__name__)

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place when the block ends well and is removed when it fails.

    A reader never meets half a file, even if several processes write. The folder is made if need be.

    Raises:
      OSError: it cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "metrics.json"
    >>> with written_aside(path) as partial:
    ...     _ = partial.write_text("[]")
    >>> [file.name for file in path.parent.iterdir()]
    ['metrics.json']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by the process's number: in a container it is 1, on every host that writes to the same disk.
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    with removed_at_end(partial):
        yield partial
        partial.replace(path)


@contextlib.contextmanager
def writing(what: str | Path, way_out: str = "name another place") -> Iterator[None]:
    """Says of an OSError within that a thing cannot be written, and the way out.

    Raises:
      ConfigError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        room = "make room there, or " if error.errno in DISK_FULL else ""
        raise ConfigError(f"{what}: cannot be written: {error.strerror or error}; {room}{way_out}") from error


def check_room(folder: Path, size: int, what: str) -> None:
    """Refuses to begin what does not fit on the disk: half of it would be left.

    Args:
      folder: where it is to be written; it exists.
      size: in bytes.
      what: it is.

    Raises:
      ConfigError: it does not fit.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise ConfigError(
            f"{folder}: no room for {what}, {size / 1e6:,.1f} MB; {free / 1e6:,.1f} MB are left: make room there, and "
            "start the same command again"
        )


@contextlib.contextmanager
def drawing(path: Path) -> Iterator[Path]:
    """A picture never fails what it illustrates: what goes wrong within is said in the log, and that is all."""
    try:
        yield path
    except Exception as error:
        log.warning("%s could not be drawn: %s", path, error)


def printable(name: str) -> str:
    """A name of a file or a class as it can be shown in a line: what cannot be printed is escaped.

    >>> print(printable("a line\\nand a byte \\udcff.jpg"))
    a line\\nand a byte \\udcff.jpg
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


def check_replaceable(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Refuses a path at which something lies that this program did not write in that place.

    Args:
      path: where a file is to be written.
      is_ours: whether a file that is there is what a former call wrote; one that it cannot read is not.

    Raises:
      ConfigError: it is not.

    >>> check_replaceable(Path("no-such-file"), lambda path: False)
    """
    if not os.path.lexists(path):
        return
    with contextlib.suppress(Exception):  # a file of another kind can make a parser raise nearly anything
        if is_ours(path):
            return
    problem = "is a folder" if path.is_dir() else "is there already and would be replaced"
    raise ConfigError(f"{path}: {problem}; name another file, or move this one away")


def set_aside(path: Path) -> Path:
    """Renames a damaged file or folder to NAME.damaged1, or the next free number, so that another can take its place.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
    >>> _ = path.write_text("junk")
    >>> set_aside(path).name, path.exists()
    ('metrics.jsonl.damaged1', False)
    """
    names = (path.with_name(f"{path.name}.damaged{number}") for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    with contextlib.suppress(FileNotFoundError):  # another process was first
        path.rename(aside)
    return aside
