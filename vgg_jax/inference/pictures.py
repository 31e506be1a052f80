"""Pictures of an image, which replace nothing but a former one of the same kind and of the same image."""

from __future__ import annotations

import os
from pathlib import Path

from vgg_jax.data._pillow import Image
from vgg_jax.files import check_replaceable, writing, written_aside


def save_picture(path: Path, figure, kind: str, of: Path) -> None:
    """Writes a Matplotlib figure as a PNG that says of which image it is.

    Args:
      path: the file.
      figure: the picture.
      kind: what it shows: "heat map".
      of: the image's path.

    Raises:
      ConfigError: it cannot be written.
    """
    with writing(path), written_aside(path) as partial:
        figure.savefig(partial, format="png", dpi=120, metadata={"Description": _description(kind, of)})


def check_picture(path: Path, kind: str, of: Path) -> None:
    """Refuses a path at which another file lies than a former picture of this kind of the same image.

    Raises:
      ConfigError: with the name.
    """

    def is_ours(path: Path) -> bool:
        with Image.open(path) as picture:
            return picture.info["Description"] == _description(kind, of)

    check_replaceable(path, is_ours)


def _description(kind: str, of: Path) -> str:
    return f"{kind} of {ascii(os.path.abspath(of))} by vgg_jax"
