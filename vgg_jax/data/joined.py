"""Several splits of a source as one: `train+test` (App. B: Caltech's random splits are drawn from all images)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vgg_jax.data.source import Files, Objects, Source, digest
from vgg_jax.errors import DataError


class Joined(Source):
    """The images of several sources, one after the other.

    Args:
      parts: sources of the same classes, which share no image.
      split: what they are together.

    Raises:
      DataError: the classes differ, or an image is there twice.
    """

    def __init__(self, parts: Sequence[Source], split: str):
        first = parts[0]
        for number, part in enumerate(parts):
            if part.classes != first.classes:
                raise DataError(f"split {split!r}: {part.split} has other classes than {first.split}")
            for other in parts[:number]:
                if shared := part.shared_with(other):
                    raise DataError(f"split {split!r}: {shared:,} images of {part.split} are in {other.split} too")
        notes = dict.fromkeys(part.note for part in parts if part.note)
        super().__init__(first.name, split, first.classes, "; ".join(notes))
        self._parts, self._ends = parts, np.cumsum([len(part) for part in parts])
        self.jpegs = any(part.jpegs for part in parts)

    @property
    def files(self) -> Files | None:
        """Those of the parts, if all of these are files."""
        files = [part.files for part in self._parts]
        if any(of is None for of in files):
            return None
        return Files([path for of in files for path in of.paths], np.concatenate([of.labels for of in files]))

    @property
    def objects(self) -> Objects | None:
        """Those of the parts, if all of these have some."""
        objects = [part.objects for part in self._parts]
        if any(of is None for of in objects):
            return None
        starts = self._ends - [len(part) for part in self._parts]
        moved = [of._replace(image=of.image + start) for of, start in zip(objects, starts, strict=True)]
        return Objects(*map(np.concatenate, zip(*moved, strict=True)))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict:
        part, place = self._place(index)
        return part[place]

    def name_of(self, index: int) -> str:
        part, place = self._place(index)
        return part.name_of(place)

    def fingerprint(self) -> str:
        return digest(part.fingerprint() for part in self._parts)

    def _place(self, index: int) -> tuple[Source, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self._parts[number]
        return part, int(index - self._ends[number] + len(part))
