"""Buckets: images of hundreds of shapes in a dozen programs (Sec. 3.2).

XLA compiles a program for every shape that it meets. Here images lie in the upper left corners of buckets, of which
there are few, and the network is given their true sizes (`VGG.__call__`), so each is scored as if it were alone. A side
of a bucket is rounded up to an eighth of the power of two below it, and to 8 at least: 256, 288, ... 512, 576, ...

For one test scale Q there are at most 17 buckets for images up to 1:2, 33 up to 1:4 and 49 up to 1:8. A bucket has one
program for a full batch, and at most one for what is left at the end. What is left goes to larger buckets where that
saves programs, as long as less than a tenth of all pixels is wasted.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

MOST_WASTE = 0.1
"""The fraction of the pixels that belong to no image up to which programs are saved at the price of pixels."""


_TRIED = 32
"""Moves to larger buckets of which the best is taken, those that add the fewest pixels: images of any two sides have
hundreds of buckets."""


class Bucket(NamedTuple):
    """Height and width of a bucket in pixels, and the functions that its images are for."""

    height: int
    width: int
    functions: tuple[str, ...]

    @property
    def pixels(self) -> int:
        return self.height * self.width

    def holds(self, other: Bucket) -> bool:
        """Whether the images of another bucket can be in this one."""
        return self.functions == other.functions and self.height >= other.height and self.width >= other.width


class ScaledImage(NamedTuple):
    """An image as the network is given it."""

    key: Hashable
    """Comes back with what is computed of the image."""
    image: np.ndarray
    """RGB uint8 (height, width, 3)."""
    functions: tuple[str, ...] = ()
    """Names of the runner's functions that the image is for; all of them if there are none. Images for different
    functions do not share a bucket."""

    @property
    def pixels(self) -> int:
        return self.image.shape[0] * self.image.shape[1]


class PaddedBatch(NamedTuple):
    """A batch of one bucket; places beyond the keys are empty."""

    bucket: Bucket
    keys: tuple[Hashable, ...]
    images: np.ndarray
    """uint8 (places, height, width, 3), zero beyond each image."""
    sizes: np.ndarray
    """int32 (places, 2): the true heights and widths; in an empty place those of the smallest image."""


class _Plan(NamedTuple):
    """A batch to come: `places` for images of its own and of smaller buckets."""

    bucket: Bucket
    places: int
    counts: Counter[Bucket]


def rounded_up(side: int) -> int:
    """The side of the smallest bucket for a side of an image, in pixels.

    >>> [rounded_up(side) for side in (32, 33, 256, 341, 500, 683)]
    [32, 40, 256, 352, 512, 704]
    """
    unit = max(8, 1 << max(side.bit_length() - 4, 0))
    return -(-side // unit) * unit


class Batcher:
    """Gathers images into full batches.

    Args:
      batch_pixels: how many pixels a batch has, about, those beyond its images included.
      multiple: what the number of places in a batch is a multiple of, the devices.
      smallest: the sides of an empty place's image in pixels: the least that the network's functions work on.

    Attributes:
      size: how large batches are: the first two arguments.
      image_pixels, bucket_pixels: what came, and what was handed out, empty places included.
    """

    def __init__(self, batch_pixels: int, multiple: int, smallest: int):
        self.size = self._batch_pixels, self._multiple = batch_pixels, multiple
        self._smallest = smallest
        self._known: dict[Bucket, set[int]] = {}  # numbers of places with a program
        self.image_pixels = self.bucket_pixels = 0

    @property
    def waste(self) -> float:
        """The fraction of the computed pixels that belong to no image."""
        return 1 - self.image_pixels / max(self.bucket_pixels, 1)

    @property
    def shapes(self) -> int:
        """How many shapes of batches were handed out so far."""
        return sum(map(len, self._known.values()))

    def batches(self, images: Iterable[ScaledImage]) -> Iterator[PaddedBatch]:
        """Batches of the images, each image once; those that wait for others of their bucket are less than a batch.

        Images of one size and the same functions keep their order.
        """
        waiting: dict[Bucket, list[ScaledImage]] = {}
        for scaled in images:
            height, width = map(rounded_up, scaled.image.shape[:2])
            bucket = Bucket(height, width, scaled.functions)
            here = waiting.setdefault(bucket, [])
            here.append(scaled)
            if len(here) == self._full(bucket):
                yield self._padded(bucket, waiting.pop(bucket), len(here))
        yield from self._rest(waiting)

    def _full(self, bucket: Bucket) -> int:
        places = max(1, round(self._batch_pixels / bucket.pixels))
        return max(1, round(places / self._multiple)) * self._multiple

    def _rest(self, waiting: dict[Bucket, list[ScaledImage]]) -> Iterator[PaddedBatch]:
        """What is left, on fewer buckets if it pays."""
        came = self.image_pixels + sum(scaled.pixels for images in waiting.values() for scaled in images)
        counts = Counter({bucket: len(images) for bucket, images in waiting.items()})
        while move := self._best_move(counts, came):
            bucket, larger = move
            counts = _moved(counts, *move)
            waiting.setdefault(larger, []).extend(waiting.pop(bucket))
        queues = {bucket: iter(images) for bucket, images in waiting.items()}
        for plan in self._planned(counts):
            images = [next(queues[bucket]) for bucket, count in plan.counts.items() for _ in range(count)]
            yield self._padded(plan.bucket, images, plan.places)

    def _best_move(self, counts: Counter[Bucket], came: int) -> tuple[Bucket, Bucket] | None:
        """Which bucket's images to move to the next larger bucket, so that the rest takes fewer programs or, in as
        many, fewer pixels, and no tenth of all pixels is wasted for it; `came`: the pixels of all images."""
        best, (programs, pixels) = None, self._cost(counts)
        allowed = max(pixels, came / (1 - MOST_WASTE) - self.bucket_pixels)
        moves = []
        for bucket in counts:
            larger = [other for other in {*counts, *self._known} if other != bucket and other.holds(bucket)]
            if larger:
                moves.append((bucket, min(larger, key=_size)))
        added = lambda move: counts[move[0]] * (move[1].pixels - move[0].pixels)
        for tried, move in enumerate(sorted(moves, key=added)):
            if best and tried >= _TRIED:
                break
            after = self._cost(_moved(counts, *move))
            if after < (programs, pixels) and after[1] <= allowed:
                best, (programs, pixels) = move, after
        return best

    def _cost(self, counts: Counter[Bucket]) -> tuple[int, int]:
        """How many new programs, and how many pixels, the batches of these counts of images have."""
        plans = self._planned(counts)
        shapes = {(plan.bucket, plan.places) for plan in plans}
        new = sum(places not in self._known.get(bucket, ()) for bucket, places in shapes)
        return new, sum(plan.places * plan.bucket.pixels for plan in plans)

    def _planned(self, counts: Counter[Bucket]) -> list[_Plan]:
        """Batches of these images: the largest buckets first, their empty places filled from smaller buckets."""
        left, plans = counts.copy(), []
        order = sorted(counts, key=_size, reverse=True)
        for position, bucket in enumerate(order):
            while left[bucket]:
                places = self._places(bucket, min(left[bucket], self._full(bucket)))
                plans.append(_Plan(bucket, places, Counter()))
                for other in order[position:]:
                    if left[other] and bucket.holds(other):
                        plans[-1].counts[other] = taken = min(left[other], places)
                        left[other] -= taken
                        places -= taken
                        if not places:
                            break
        return plans

    def _places(self, bucket: Bucket, count: int) -> int:
        """The places of a batch of `count` images: those of a program that there is already, or the devices times a
        power of two."""
        places = [places for places in self._known.get(bucket, ()) if places >= count]
        power_of_two = 1 << (-(-count // self._multiple) - 1).bit_length()
        return min(places, default=min(self._full(bucket), power_of_two * self._multiple))

    def _padded(self, bucket: Bucket, images: list[ScaledImage], places: int) -> PaddedBatch:
        self.image_pixels += sum(scaled.pixels for scaled in images)
        self.bucket_pixels += places * bucket.pixels
        self._known.setdefault(bucket, set()).add(places)
        pixels = np.zeros((places, bucket.height, bucket.width, 3), np.uint8)
        sizes = np.full((places, 2), self._smallest, np.int32)
        for place, scaled in enumerate(images):
            sizes[place] = height, width = scaled.image.shape[:2]
            np.copyto(pixels[place, :height, :width], scaled.image, casting="safe")  # floats would be cut off
        return PaddedBatch(bucket, tuple(scaled.key for scaled in images), pixels, sizes)


_size = operator.attrgetter("pixels", "height")


def _moved(counts: Counter[Bucket], bucket: Bucket, larger: Bucket) -> Counter[Bucket]:
    """The counts of images after those of a bucket went to a larger one."""
    return counts - Counter({bucket: counts[bucket]}) + Counter({larger: counts[bucket]})
