"""The objects of a source's images: gathered, checked against their images, as labels, as examples (App. A, B)."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from vgg_jax.data._pillow import Image
from vgg_jax.data.decode import decode, size
from vgg_jax.data.source import Files, Objects, Source, digest
from vgg_jax.errors import DataError
from vgg_jax.prefetch import in_order

_log = logging.getLogger(__name__)


class Object(NamedTuple):
    """An object of an image, as it was annotated."""

    name: str
    """Its class."""
    corners: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels, right and bottom exclusive."""
    difficult: bool = False


def gathered(images: Iterable[Sequence[Object]], classes: Sequence[str]) -> Objects:
    """The objects of images, a list for each image, as a source has them."""
    number = {name: label for label, name in enumerate(classes)}
    rows = [
        (image, number[found.name], found.corners, found.difficult)
        for image, objects in enumerate(images)
        for found in objects
    ]
    image, label, corners, difficult = zip(*rows, strict=True) if rows else ((),) * 4
    return Objects(
        np.array(image, np.int64),
        np.array(label, np.int32),
        np.array(corners, np.float32).reshape(-1, 4),
        np.array(difficult, bool),
    )


def image_class(objects: Sequence[Object]) -> str:
    """The one class of an image: of its first object that is not difficult, or of its first."""
    return min(objects, key=lambda found: found.difficult).name


def presence(source: Source) -> np.ndarray:
    """Which classes each image shows: int8 (images, classes), 1 present, 0 absent, -1 by difficult objects only.

    What is -1 is left out of VOC's average precision of that class.

    Raises:
      DataError: its images have no objects.
    """
    if source.objects is None:
        raise DataError(f"{source.name} has one label for each image: mean average precision is of images with objects")
    matrix = np.zeros((len(source), len(source.classes)), np.int8)
    of = source.objects
    matrix[of.image[of.difficult], of.label[of.difficult]] = -1
    matrix[of.image[~of.difficult], of.label[~of.difficult]] = 1
    return matrix


def checked(source: Source, *, on_error: str = "raise") -> Source:
    """The same source with objects whose boxes lie in their images; the images' headers are read for their sizes.

    A box may reach one pixel beyond its image, as some tools count, and is then cut. One that reaches further, or has
    no area or swapped corners, is an error. An image that cannot be read is not: its objects stay, and what reads it
    says so.

    Args:
      source: images with objects.
      on_error: "raise", or "skip" to leave such objects out, each with a warning, and count them in the note.

    Raises:
      DataError: there is such an object; the message names it. Or its images have no boxes.
    """
    of, kept = source.objects, []
    if of is None:
        raise DataError(f"{source.name}: its images have no boxes")
    corners = of.corners.copy()
    pictured = np.unique(of.image).tolist()
    with in_order(lambda image: _size(source, image), pictured) as found:
        sizes = dict(zip(pictured, found, strict=True))
    for row, image in enumerate(of.image.tolist()):
        try:
            if sizes[image]:
                corners[row] = _in_image(corners[row], *sizes[image])
            kept.append(row)
        except DataError as error:
            number = row - np.searchsorted(of.image, image) + 1
            message = f"{source.name_of(image)}, object {number} ({source.classes[of.label[row]]}): {error}"
            if on_error == "raise":
                raise DataError(f"{message}\nTo leave such objects out: --config.data.on_error=skip") from error
            _log.warning("left out: %s", message)
    result = copy.copy(source)
    result.objects = Objects(of.image[kept], of.label[kept], corners[kept], of.difficult[kept])
    if len(kept) < len(of.image):
        left_out = f"objects left out because of their boxes: {len(of.image) - len(kept):,}"
        result.note = "; ".join(filter(None, (source.note, left_out)))
    return result


def _size(source: Source, image: int) -> tuple[int, int] | None:
    """Height and width of an image, if it can be read."""
    with contextlib.suppress(OSError, DataError):
        if source.files:
            with open(source.files.paths[image], "rb") as file:
                return size(file)
        return size(io.BytesIO(source[image]["image"]))
    return None


def _in_image(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """The corners of a box, cut at the edges of its image."""
    left, top, right, bottom = corners
    edges = f"left {left:g}, top {top:g}, right {right:g}, bottom {bottom:g}"
    if not np.isfinite(corners).all():
        raise DataError(f"{edges} are no numbers")
    if right < left or bottom < top:
        raise DataError(f"its corners are swapped: {edges}")
    if min(left, top) < -1 or right > width + 1 or bottom > height + 1:
        raise DataError(f"it reaches beyond the image, of {width} x {height} pixels: {edges}")
    cut = np.clip(corners, 0, [width, height, width, height])
    if not (cut[:2] < cut[2:]).all():
        raise DataError(f"it has no area: {edges}")
    return cut


class EachObject(Source):
    """A source with an example for every object that is not difficult: its image, and its class as the label.

    Its own `objects` say in row i which box example i is about.
    """

    def __init__(self, source: Source):
        super().__init__(source.name, source.split, source.classes, source.note)
        of = source.objects
        kept = np.flatnonzero(~of.difficult)
        self._source, self._image, self.jpegs = source, of.image[kept], source.jpegs
        self.objects = Objects(np.arange(len(kept)), of.label[kept], of.corners[kept], of.difficult[kept])
        if files := source.files:
            self.files = Files([files.paths[image] for image in self._image], self.objects.label)

    def describe(self) -> str:
        return f"{self._source.describe()}, {len(self):,} objects"

    def __len__(self) -> int:
        return len(self._image)

    def __getitem__(self, index: int) -> dict:
        return self._source[int(self._image[index])] | {"label": int(self.objects.label[index])}

    def name_of(self, index: int) -> str:
        return self._source.name_of(int(self._image[index]))


class EachBox(Source):
    """A source with an example for every box; its classes are those of the objects with that box (App. B, actions).

    Its own `objects` say in `image` which example they are about; `image_of` says which image an example is of, and
    `corners` what its box is.

    Args:
      source: images with objects, `checked`.
      region: what an example shows: "image", the whole image, or "box", only what is in the box.
      rest: a class for what belongs to no other, such as VOC's action `other`, if there is one: it is not a class
        here, and its boxes have none.

    Raises:
      DataError: it has no such class.
    """

    def __init__(self, source: Source, region: str, rest: str = ""):
        classes = tuple(name for name in source.classes if name != rest)
        super().__init__(source.name, source.split, classes, source.note)
        of = source.objects
        if rest and classes == source.classes:
            raise DataError(f"{source.name}: there is no class {rest!r}; there are {', '.join(classes)}")
        boxes, example = np.unique(np.column_stack([of.image, of.corners]), axis=0, return_inverse=True)
        order = np.argsort(example, kind="stable")
        if rest:
            order = order[of.label[order] != source.classes.index(rest)]
        number = np.array([classes.index(name) if name != rest else -1 for name in source.classes], np.int32)
        self.objects = Objects(example[order], number[of.label[order]], of.corners[order], of.difficult[order])
        self.image_of, self.corners = boxes[:, 0].astype(np.int64), boxes[:, 1:]
        self._source, self._region, self.jpegs = source, region, source.jpegs and region == "image"

    def describe(self) -> str:
        return f"{self._source.describe()}, {len(self):,} boxes"

    def fingerprint(self) -> str:
        return digest([self._source.fingerprint(), self._region, self.classes, self.objects.label.tobytes()])

    def __len__(self) -> int:
        return len(self.image_of)

    def __getitem__(self, index: int) -> dict:
        example = self._source[int(self.image_of[index])]
        of, place = self.objects, np.searchsorted(self.objects.image, index)
        label = int(of.label[place]) if place < len(of.image) and of.image[place] == index else -1
        if self._region == "image":
            return {"image": example["image"], "label": label}
        pixels, file = decode(example["image"]), io.BytesIO()
        height, width = pixels.shape[:2]
        edges = np.round(self.corners[index]).astype(int).clip(0, [width - 1, height - 1, width, height])
        left, top, right, bottom = edges.tolist()
        Image.fromarray(pixels[top : max(bottom, top + 1), left : max(right, left + 1)]).save(file, "PNG")
        return {"image": file.getvalue(), "label": label}

    def name_of(self, index: int) -> str:
        corners = ", ".join(f"{corner:g}" for corner in self.corners[index])
        return f"{self._source.name_of(int(self.image_of[index]))}, box ({corners})"
