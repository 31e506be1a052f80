"""The images that a user names by path."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vgg_jax.data.folder import SUFFIXES
from vgg_jax.errors import ConfigError
from vgg_jax.evaluate.posteriors import relative
from vgg_jax.files import printable, writing
from vgg_jax.inference.pictures import check_picture


def images_of(arguments: Sequence[str]) -> list[Path]:
    """The images that arguments name, each once: files, the images below folders, and what patterns match.

    Raises:
      ConfigError: an argument names none.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path, problem = Path(os.path.expanduser(argument)), "there is no such image, folder, or match of this pattern"
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


def unreadable(problems: Mapping[str, str], consequence: str) -> list[str]:
    """The lines that list images which could not be read, {name: reason}, and what follows; none if there are none."""
    if not problems:
        return []
    listed = [f"  {printable(name)}: {reason}" for name, reason in sorted(problems.items())]
    return ["", f"{len(problems)} images could not be read and {consequence}:", *listed]


def picture_paths(paths: Sequence[Path], folder: str, flag: str, kind: str) -> dict[Path, Path]:
    """Where the picture of each image goes: by the image's name, or its path if two share it, or that with its suffix.

    Args:
      paths: of the images.
      folder: where the pictures are to be.
      flag: that names it.
      kind: what the pictures show, as in `vgg_jax.inference.pictures`.

    Raises:
      ConfigError: the folder cannot be written to; something else than that picture is there.
    """
    folder = Path(folder)
    with writing(f"--{flag}={folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    below = relative([os.path.abspath(path) for path in paths])
    for names in ([path.stem for path in paths], [os.path.splitext(path)[0] for path in below], below):
        if len(set(names)) == len(names):
            break
    pictures = {path: folder / f"{name}.png" for path, name in zip(paths, names, strict=True)}
    for path, picture in pictures.items():
        check_picture(picture, kind, path)
    return pictures
