"""Files that are whole or not there at all, and damaged ones that are kept."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path


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
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


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
