"""What a user names by path: images to read, and where to write."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from vgg_jax.data.folder import SUFFIXES
from vgg_jax.errors import ConfigError


def images_of(arguments: Sequence[str]) -> list[Path]:
    """The images that arguments name, each once: files, the images below folders, and what patterns match.

    Raises:
      ConfigError: an argument names none.
    """
    return list(dict.fromkeys(path for argument in arguments for path in _images_of(argument)))


def _images_of(argument: str) -> list[Path]:
    path = Path(argument).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not found:
            raise ConfigError(f"{argument}: no images ({' '.join(sorted(SUFFIXES))}) in this folder")
        return found
    found = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
    if not found:
        raise ConfigError(f"{argument}: there is no such image, folder, or match of this pattern")
    return found


@contextlib.contextmanager
def writing(what: str | Path, way_out: str = "") -> Iterator[None]:
    """Says of an OSError within that a thing cannot be written, and the way out.

    Raises:
      ConfigError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = f"{what}: cannot be written: {error.strerror}"
        raise ConfigError(f"{reason}; {way_out}" if way_out else reason) from error
