"""A linear classifier of image descriptors as a file, which also says how its descriptors are made (App. B).

A file is a NumPy `.npz` without pickles:

    weights     float32 (d, classes)
    intercept   float32 (classes,)
    classes     str (classes,)
    about       str ()                 JSON: what `provenance` says of the descriptors
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vgg_jax import npz_file
from vgg_jax.errors import DataError
from vgg_jax.files import check_replaceable, writing, written_aside
from vgg_jax.model.checksum import checksum
from vgg_jax.model.vgg import VGG
from vgg_jax.transfer.descriptors import Descriptor

if TYPE_CHECKING:
    from jaxtyping import Float

WHOLE_IMAGE = ("image",)
"""The regions of a classifier of images; one of boxes has ("image", "box") or ("box",)."""

FACTS = {
    "networks": [str],
    "layer": str,
    "scales": [int],
    "combine": str,
    "flip": bool,
    "normalization": str,
    "weights": [str],
    "regions": [str],
}
"""What `about` must say: the type of a value, or of the members of a list."""


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """Hyperplanes in the space of some networks' descriptors, one for each class."""

    weights: Float[np.ndarray, "d classes"]
    intercept: Float[np.ndarray, " classes"]
    classes: tuple[str, ...]
    about: dict
    """How its descriptors are made: see `provenance`."""

    @property
    def of_boxes(self) -> bool:
        """Whether it decides on boxes, not on images."""
        return "box" in self.about["regions"]

    def decide(self, descriptors: Float[np.ndarray, "n d"], about: dict) -> Float[np.ndarray, "n classes"]:
        """The decisions, positive on the side of a class; the largest is the answer where there is one.

        Args:
          descriptors: of images.
          about: how they are made (`provenance`).

        Raises:
          DataError: these are not the descriptors that the classifier was trained on.
        """
        for key in FACTS:
            ours, theirs = self.about[key], _as_json(about).get(key)
            if ours != theirs:
                raise DataError(f"the classifier was trained on descriptors of {key} {ours}; these are of {theirs}")
        if descriptors.ndim != 2 or descriptors.shape[1] != len(self.weights):
            raise DataError(f"the classifier takes descriptors (n, {len(self.weights)}); these are {descriptors.shape}")
        return descriptors @ self.weights + self.intercept

    def save(self, path: str | Path) -> None:
        """Writes the file; never half of it.

        Raises:
          ConfigError: it cannot be written, or something lies there that is no such classifier.
        """
        path = Path(path)
        check_replaceable(path, lambda path: bool(LinearProbe.load(path)))
        with writing(path), written_aside(path) as partial, partial.open("wb") as file:
            np.savez(
                file,
                weights=self.weights,
                intercept=self.intercept,
                classes=np.array(self.classes, np.str_),
                about=np.array(json.dumps(self.about)),
            )

    @classmethod
    def load(cls, path: str | Path) -> LinearProbe:
        """Reads a file.

        Raises:
          DataError: the file is missing, of another kind or damaged.
        """
        path = Path(path)
        try:
            file = npz_file.arrays(path)
            about = {"regions": [*WHOLE_IMAGE]} | json.loads(str(file["about"]))  # earlier files do not say it
            found = cls(file["weights"], file["intercept"], tuple(file["classes"].tolist()), about)
        except FileNotFoundError as error:
            raise DataError(f"{path}: is not there; --mode=transfer writes such files") from error
        except Exception as error:  # a damaged file can make the parsers of zip and npy raise nearly anything
            raise DataError(f"{path}: not a linear classifier of descriptors: {error}") from error
        problem = found._problem()
        if problem:
            raise DataError(f"{path}: not a linear classifier of descriptors, or damaged: {problem}")
        return found

    def _problem(self) -> str:
        weights, intercept = self.weights, self.intercept
        if weights.ndim != 2 or intercept.shape != weights.shape[1:] or intercept.shape != (len(self.classes),):
            return f"weights {weights.shape}, intercept {intercept.shape}, {len(self.classes)} classes"
        for name, array in (("weights", weights), ("intercept", intercept)):
            if array.dtype.kind != "f" or not np.isfinite(array).all():
                return f"{name} are not all finite numbers"
        if not all(isinstance(name, str) for name in self.classes):
            return "classes are not all names"
        wrong = [key for key, kind in FACTS.items() if not _is_of(self.about.get(key), kind)]
        return f"`about` does not say {', '.join(wrong)}" if wrong else ""


def provenance(descriptor: Descriptor, nets: Sequence[VGG], flip: bool, regions: Sequence[str] = WHOLE_IMAGE) -> dict:
    """How descriptors are made: `layer`, `scales` Q, `combine`, whether with mirror images, and each network's weights.

    Args:
      descriptor: their kind.
      nets: the networks, in the order in which theirs are stacked.
      flip: whether they are averaged with the mirror images'.
      regions: what is described, one region after the other: "image", "box" (`vgg_jax.data.objects.EachBox`).
    """
    facts = descriptor._asdict() | {"flip": flip, "normalization": "l2", "weights": [checksum(net) for net in nets]}
    return _as_json(facts | {"networks": [net.spec.name for net in nets], "regions": regions})


def _is_of(value: object, kind: type | list[type]) -> bool:
    if isinstance(kind, list):
        return isinstance(value, list) and bool(value) and all(_is_of(member, kind[0]) for member in value)
    return type(value) is kind


def _as_json(facts: dict) -> dict:
    """As they are read from a file: tuples are lists."""
    return json.loads(json.dumps(facts))
