"""The images that a user names by path."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from vgg_jax.data.folder import SUFFIXES
from vgg_jax.errors import ConfigError
from vgg_jax.files import printable


def images_of(arguments: Sequence[str]) -> list[Path]:
    """The images that arguments name, each once: files, the images below folders, and what patterns match.

    Raises:
      ConfigError: an argument names none.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path, problem = Path(argument).expanduser(), "there is no such image, folder, or match of this pattern"
        if os.path.isdir(path):  # `Path.is_dir` raises where a name is too long or a folder may not be looked into
            problem = f"no images ({' '.join(sorted(SUFFIXES))}) in this folder"
            paths = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        else:
            paths = [path] if os.path.isfile(path) else map(Path, glob.glob(str(path), recursive=True))
        images = sorted(filter(os.path.isfile, paths))
        if not images:
            raise ConfigError(f"{printable(argument)}: {problem}")
        found |= dict.fromkeys(images)
    return list(found)
