"""Canvases: images of hundreds of shapes in a dozen programs (Sec. 3.2).

XLA compiles a program for every shape that it meets. Here images lie in the upper left corners of canvases, of which
there are few, and the network is told their true sizes (`VGG.__call__`), so each is scored as if it were alone. A side
of a canvas is rounded up to an eighth of the power of two below it, and to 8 at least: 256, 288, ... 512, 576, ...

For one test scale Q there are so at most 17 canvases for images up to 1:2, 33 up to 1:4 and 49 up to 1:8; `canvases`
lists them. A canvas has one program for a full batch, and at most one for what is left at the end. What is left goes to
larger canvases where that saves programs, as long as less than a tenth of all pixels is wasted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vgg_jax.data.image_ops import rescaled_size
from vgg_jax.errors import DataError

MAX_PIXELS = 2**22
"""The largest canvas, in pixels: 2048 x 2048. Net D's activations of one stage take a gigabyte there."""

MOST_WASTE = 0.1
"""The fraction of the pixels that belong to no image up to which programs are saved at the price of pixels."""


class Canvas(NamedTuple):
    """Height and width of a canvas in pixels, and what is to be done on it."""

    height: int
    width: int
    purpose: Hashable

    @property
    def pixels(self) -> int:
        return self.height * self.width

    def holds(self, other: Canvas) -> bool:
        """Whether what is on another canvas can be on this one."""
        return self.purpose == other.purpose and self.height >= other.height and self.width >= other.width


class View(NamedTuple):
    """An image at one test scale."""

    ticket: Hashable
    """Whose it is: comes back with its posterior."""
    image: np.ndarray
    """uint8 (height, width, 3)."""
    purpose: Hashable
    """Views with different purposes do not share a canvas."""

    @property
    def pixels(self) -> int:
        return self.image.shape[0] * self.image.shape[1]


class Packed(NamedTuple):
    """A batch on one canvas; places beyond the tickets are empty."""

    canvas: Canvas
    tickets: tuple[Hashable, ...]
    images: np.ndarray
    """uint8 (places, height, width, 3), zero beyond each image."""
    sizes: np.ndarray
    """int32 (places, 2): the true heights and widths; (crop, crop) in an empty place."""


class _Batch(NamedTuple):
    """A batch to come: so many places on a canvas for so many views of that and smaller canvases."""

    canvas: Canvas
    places: int
    counts: Counter[Canvas]


def rounded_up(side: int) -> int:
    """The side of the smallest canvas for a side of an image, in pixels.

    >>> [rounded_up(side) for side in (32, 33, 256, 341, 500, 683)]
    [32, 40, 256, 352, 512, 704]
    """
    unit = max(8, 1 << max(side.bit_length() - 4, 0))
    return -(-side // unit) * unit


def canvases(smaller_side: int, most_elongated: float) -> list[tuple[int, int]]:
    """All canvases of one test scale, for images whose longer side is up to `most_elongated` times the smaller one.

    >>> len(canvases(256, 2)), len(canvases(256, 4)), len(canvases(72, 4))
    (17, 33, 33)
    """
    longer = sorted({rounded_up(side) for side in range(smaller_side, round(smaller_side * most_elongated) + 1)})
    shorter = rounded_up(smaller_side)
    return sorted({(shorter, side) for side in longer} | {(side, shorter) for side in longer})


def canvas_of(view: View) -> Canvas:
    """The smallest canvas that holds a view."""
    height, width = view.image.shape[:2]
    return Canvas(rounded_up(height), rounded_up(width), view.purpose)


def check_size(image: np.ndarray, scales: Iterable[int]) -> None:
    """Refuses an image that no canvas holds, before it is rescaled.

    Args:
      image: of shape (height, width, 3).
      scales: the test scales Q, in pixels.

    Raises:
      DataError: it is too elongated.
    """
    for scale in scales:
        height, width = rescaled_size(*image.shape[:2], scale)
        if rounded_up(height) * rounded_up(width) > MAX_PIXELS:
            raise DataError(
                f"{image.shape[0]} x {image.shape[1]} pixels are too elongated: at the test scale Q = {scale} they are "
                f"{height} x {width}, and {MAX_PIXELS:,} is the most; crop the image, or use a smaller test scale"
            )


def packed(canvas: Canvas, views: Sequence[View], places: int, crop: int) -> Packed:
    """Views on a canvas of so many places."""
    images = np.zeros((places, canvas.height, canvas.width, 3), np.uint8)
    sizes = np.full((places, 2), crop, np.int32)
    for place, view in enumerate(views):
        sizes[place] = height, width = view.image.shape[:2]
        images[place, :height, :width] = view.image
    return Packed(canvas, tuple(view.ticket for view in views), images, sizes)


class Packer:
    """Gathers views into full batches.

    Args:
      batch_pixels: how many pixels of canvas a batch has, about.
      multiple: of which the number of places in a batch is a multiple, the devices.
      crop: side of the crop in pixels.

    Attributes:
      image_pixels, canvas_pixels: what came, and what was handed out, empty places included.
    """

    def __init__(self, batch_pixels: int, multiple: int, crop: int):
        self._batch_pixels, self._multiple, self._crop = batch_pixels, multiple, crop
        self._known: dict[Canvas, set[int]] = {}  # numbers of places with a program
        self.image_pixels = self.canvas_pixels = 0

    @property
    def waste(self) -> float:
        """The fraction of the computed pixels that belong to no image."""
        return 1 - self.image_pixels / max(self.canvas_pixels, 1)

    @property
    def shapes(self) -> int:
        """How many shapes of batches were handed out so far."""
        return sum(map(len, self._known.values()))

    def pack(self, views: Iterable[View]) -> Iterator[Packed]:
        """Batches of the views, each view once; a few canvases' worth of them is held back until there are enough."""
        waiting: dict[Canvas, list[View]] = {}
        for view in views:
            canvas = canvas_of(view)
            here = waiting.setdefault(canvas, [])
            here.append(view)
            if len(here) == self._full(canvas):
                yield self._packed(canvas, waiting.pop(canvas), len(here))
        yield from self._rest(waiting)

    def _full(self, canvas: Canvas) -> int:
        places = max(1, round(self._batch_pixels / canvas.pixels))
        return max(1, round(places / self._multiple)) * self._multiple

    def _rest(self, waiting: dict[Canvas, list[View]]) -> Iterator[Packed]:
        """What is left, on fewer canvases if it pays."""
        came = self.image_pixels + sum(view.pixels for views in waiting.values() for view in views)
        counts = Counter({canvas: len(views) for canvas, views in waiting.items()})
        while move := self._best_move(counts, came):
            canvas, larger = move
            counts = _moved(counts, *move)
            waiting.setdefault(larger, []).extend(waiting.pop(canvas))
        for batch in self._batches(counts):
            views = [waiting[canvas].pop() for canvas, count in batch.counts.items() for _ in range(count)]
            yield self._packed(batch.canvas, views, batch.places)

    def _best_move(self, counts: Counter[Canvas], came: int) -> tuple[Canvas, Canvas] | None:
        """Which canvas's views to move to the next larger canvas, so that the rest takes fewer programs or, in as many,
        fewer pixels, and no tenth of all pixels is wasted for it; `came`: the pixels of all images."""
        best, (programs, pixels) = None, self._cost(counts)
        allowed = max(pixels, came / (1 - MOST_WASTE) - self.canvas_pixels)
        for canvas in counts:
            larger = [other for other in {*counts, *self._known} if other != canvas and other.holds(canvas)]
            if larger:
                move = canvas, min(larger, key=_size)
                after = self._cost(_moved(counts, *move))
                if after < (programs, pixels) and after[1] <= allowed:
                    best, (programs, pixels) = move, after
        return best

    def _cost(self, counts: Counter[Canvas]) -> tuple[int, int]:
        """How many new programs, and how many pixels, the batches of so many views have."""
        batches = self._batches(counts)
        shapes = {(batch.canvas, batch.places) for batch in batches}
        new = sum(places not in self._known.get(canvas, ()) for canvas, places in shapes)
        return new, sum(batch.places * batch.canvas.pixels for batch in batches)

    def _batches(self, counts: Counter[Canvas]) -> list[_Batch]:
        """Batches of so many views: the largest canvases first, their empty places filled from smaller canvases."""
        left, batches = counts.copy(), []
        order = sorted(counts, key=_size, reverse=True)
        for position, canvas in enumerate(order):
            while left[canvas]:
                places = self._places(canvas, min(left[canvas], self._full(canvas)))
                batches.append(_Batch(canvas, places, Counter()))
                for other in order[position:]:
                    if canvas.holds(other):
                        batches[-1].counts[other] = taken = min(left[other], places)
                        left[other] -= taken
                        places -= taken
        return batches

    def _places(self, canvas: Canvas, count: int) -> int:
        """The places of a batch of so many views: those of a program that is there already, or a power of two."""
        places = [places for places in self._known.get(canvas, ()) if places >= count]
        return min(places, default=min(self._full(canvas), _power_of_two(count, self._multiple)))

    def _packed(self, canvas: Canvas, views: list[View], places: int) -> Packed:
        self.image_pixels += sum(view.pixels for view in views)
        self.canvas_pixels += places * canvas.pixels
        self._known.setdefault(canvas, set()).add(places)
        return packed(canvas, views, places, self._crop)


def _size(canvas: Canvas) -> tuple[int, int]:
    return canvas.pixels, canvas.height


def _moved(counts: Counter[Canvas], canvas: Canvas, larger: Canvas) -> Counter[Canvas]:
    """The counts of views after those of a canvas went to a larger one."""
    return counts - Counter({canvas: counts[canvas]}) + Counter({larger: counts[canvas]})


def _power_of_two(count: int, multiple: int) -> int:
    """The smallest power of two times `multiple` that is at least `count`."""
    places = multiple
    while places < count:
        places *= 2
    return places
