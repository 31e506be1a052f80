"""Posteriors in a file: written once for a network, a protocol and a source, then fused at no cost (Sec. 4.3, 4.4).

A file is a NumPy `.npz` without pickles:

    posteriors   float32 (scales, images, classes)
    scales       int32 (scales,)      the test scales Q in pixels
    labels       int32 (images,)
    images       str (images,)        their names, relative to the folder that they have in common
    classes      str (classes,)
    about        str ()               JSON: protocol, network, S, flip, where the weights came from, checksums of
                                      weights and images, and `unreadable`, {image: reason} of those that are left out
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vgg_jax import npz_file
from vgg_jax.config import RENAMED_PROTOCOLS
from vgg_jax.data.source import Source
from vgg_jax.errors import DataError
from vgg_jax.files import writing, written_aside

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Posteriors:
    """Posteriors of a network on the images of a source by one protocol, at one or more test scales."""

    values: np.ndarray
    """float32 (scales, images, classes)."""
    scales: tuple[int, ...]
    labels: np.ndarray
    """int32 (images,)."""
    images: tuple[str, ...]
    classes: tuple[str, ...]
    about: dict
    """`protocol`, `network`, `S`, `flip`, `checkpoint`, `weights` (a checksum), `source`, `split`, ..."""
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)
    """Images of the source that could not be read, and why: {name: reason}."""

    def at(self, *scales: int) -> Posteriors:
        """The same at fewer scales."""
        places = [self.scales.index(scale) for scale in scales]
        return dataclasses.replace(self, values=self.values[places], scales=tuple(scales))

    def joined(self, other: Posteriors) -> Posteriors:
        """The same at the scales of another, too."""
        values = np.concatenate([self.values, other.values])
        return dataclasses.replace(self, values=values, scales=(*self.scales, *other.scales))

    def mean(self) -> np.ndarray:
        """Averaged over the scales, float32 (images, classes)."""
        return self.values.mean(0)

    def save(self, path: Path) -> None:
        """Writes the file; never half of it.

        Raises:
          ConfigError: it cannot be written.
        """
        with writing(path), written_aside(path) as partial, partial.open("wb") as file:
            np.savez(
                file,
                posteriors=self.values,
                scales=np.array(self.scales, np.int32),
                labels=self.labels,
                images=np.array(self.images),
                classes=np.array(self.classes),
                about=np.array(json.dumps(self.about | {"unreadable": self.unreadable})),
            )


def read(path: Path) -> Posteriors:
    """Reads a file.

    Raises:
      DataError: it is not there, or not such a file.
    """
    try:
        file = npz_file.arrays(path)
        about = dict(json.loads(str(file["about"])))
        unreadable = dict(about.pop("unreadable", {}))
        protocol = about.get("protocol")
        found = Posteriors(
            file["posteriors"],
            tuple(int(scale) for scale in file["scales"]),
            file["labels"],
            tuple(file["images"].tolist()),
            tuple(file["classes"].tolist()),
            about | {"protocol": RENAMED_PROTOCOLS.get(protocol, protocol)},
            unreadable,
        )
    except FileNotFoundError as error:
        raise DataError(f"{path}: is not there; evaluating a network writes such files") from error
    except Exception as error:  # a damaged file can make the parsers of zip and npy raise nearly anything
        raise DataError(f"{path}: not a file of posteriors: {error}") from error
    count = len(found.images)
    if found.values.shape != (len(found.scales), count, len(found.classes)) or found.labels.shape != (count,):
        shapes = f"posteriors {found.values.shape}, labels {found.labels.shape}"
        raise DataError(f"{path}: its arrays contradict each other: {shapes}, {count} images")
    if not _is_sound(found):
        problem = "posteriors that are not numbers, labels of no class, names that are not text, or `about` incomplete"
        raise DataError(f"{path}: damaged: {problem}")
    return found


def _is_sound(found: Posteriors) -> bool:
    """Whether the values of the arrays can be those of posteriors."""
    about, labels = found.about, found.labels
    return (
        found.values.dtype.kind == "f"
        and bool(np.isfinite(found.values).all())
        and labels.dtype.kind == "i"
        and bool(((labels >= 0) & (labels < len(found.classes))).all())
        and all(isinstance(name, str) for name in (*found.images, *found.classes))
        and all(isinstance(about.get(key), str) for key in ("network", "protocol"))
        and isinstance(about.get("S"), list)
        and [*map(type, about["S"])] == [int, int]
    )


def check_alike(first: Posteriors, other: Posteriors, first_name: str, other_name: str) -> None:
    """Refuses to mix posteriors of different images or classes.

    Raises:
      DataError: with the first difference.
    """
    for what in ("classes", "images"):
        ours, theirs = getattr(first, what), getattr(other, what)
        if len(ours) != len(theirs):
            raise DataError(
                f"{first_name} has {len(ours)} {what}, {other_name} has {len(theirs)}: they cannot be fused"
            )
        for place, (one, two) in enumerate(zip(ours, theirs, strict=True)):
            if one != two:
                raise DataError(
                    f"the {what} of {first_name} and {other_name} differ, first at {place}: {one!r} and {two!r}; "
                    "they cannot be fused"
                )
    differing = np.flatnonzero(first.labels != other.labels)
    if len(differing):
        raise DataError(
            f"{first_name} and {other_name} label {first.images[differing[0]]} differently; they cannot be fused"
        )


def warn_of_repetition(parts: Sequence[Posteriors], names: Sequence[str]) -> None:
    """Warns of the same weights by the same protocol among posteriors that are fused."""
    seen: dict[tuple, str] = {}
    for part, name in zip(parts, names, strict=True):
        key = (part.about.get("weights", name), part.about["protocol"])
        if key in seen:
            log.warning(
                "%s and %s are of the same weights by the same protocol: fused, they only count twice", seen[key], name
            )
        seen.setdefault(key, name)


def fused(parts: Sequence[Posteriors]) -> np.ndarray:
    """The average of the parts' posteriors, each averaged over its scales first (Sec. 4.4): (images, classes)."""
    return np.mean([part.mean() for part in parts], axis=0, dtype=np.float64).astype(np.float32)


def image_names(source: Source) -> tuple[str, ...]:
    """The names of a source's images, without the folder that they have in common: a data set may be moved."""
    return relative([source.name_of(index) for index in range(len(source))])


def relative(names: Sequence[str]) -> tuple[str, ...]:
    """Names without the folder that they have in common.

    >>> relative(["/data/a/1.jpg", "/data/b/2.jpg"])
    ('a/1.jpg', 'b/2.jpg')
    """
    common = ""
    with contextlib.suppress(ValueError):  # of no names, and of absolute ones beside others
        common = os.path.commonpath([os.path.dirname(name) for name in names])
    return tuple(os.path.relpath(name, common) if common else name for name in names)
