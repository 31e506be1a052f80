"""A source with an example for each object of its images (App. A)."""

from __future__ import annotations

import numpy as np

from vgg_jax.data.source import Files, Objects, Source


class EachObject(Source):
    """A source with an example for every object that is not difficult: its image, and its class as the label.

    Its own `objects` say in row i which box example i is about.

    Args:
      source: images with objects.
    """

    def __init__(self, source: Source):
        super().__init__(source.name, source.split, source.classes, source.note)
        of = source.objects
        kept = np.flatnonzero(~of.difficult)
        self._source, self._image, self.jpegs = source, of.image[kept], source.jpegs
        self._objects = Objects(np.arange(len(kept)), of.label[kept], of.corners[kept], of.difficult[kept])

    @property
    def objects(self) -> Objects:
        """One for each example."""
        return self._objects

    @property
    def files(self) -> Files | None:
        """The images' files, one for each example, if they are files."""
        files = self._source.files
        return files and Files([files.paths[image] for image in self._image], self._objects.label)

    def describe(self) -> str:
        return f"{self._source.describe()}, {len(self):,} objects"

    def __len__(self) -> int:
        return len(self._image)

    def __getitem__(self, index: int) -> dict:
        return self._source[int(self._image[index])] | {"label": int(self._objects.label[index])}

    def name_of(self, index: int) -> str:
        return self._source.name_of(int(self._image[index]))
