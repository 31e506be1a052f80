"""Buckets: images of hundreds of shapes in a dozen programs (Sec. 3.2).

XLA compiles a program for every shape that it meets. Here images lie in the upper left corners of buckets, of which
there are few, and the network is given their true sizes (`VGG.__call__`), so each is scored as if it were alone. A side
of a bucket is rounded up to an eighth of the power of two below it, and to 8 at least: 256, 288, ... 512, 576, ...

For one test scale Q there are so at most 17 buckets for images up to 1:2, 33 up to 1:4 and 49 up to 1:8; `buckets`
lists them. A bucket has one program for a full batch, and at most one for what is left at the end. What is left goes to
larger buckets where that saves programs, as long as less than a tenth of all pixels is wasted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vgg_jax.data.decode import rescaled_size
from vgg_jax.errors import DataError

MAX_PIXELS = 2**22
"""The largest bucket, in pixels: 2048 x 2048. Net D's activations of one stage take a gigabyte there."""

MOST_WASTE = 0.1
"""The fraction of the pixels that belong to no image up to which programs are saved at the price of pixels."""


class Bucket(NamedTuple):
    """Height and width of a bucket in pixels, and what is to be done on it."""

    height: int
    width: int
    purpose: Hashable

    @property
    def pixels(self) -> int:
        return self.height * self.width

    def holds(self, other: Bucket) -> bool:
        """Whether what is on another bucket can be on this one."""
        return self.purpose == other.purpose and self.height >= other.height and self.width >= other.width


class ScaledImage(NamedTuple):
    """An image at one test scale."""

    key: Hashable
    """Whose it is: comes back with its posterior."""
    image: np.ndarray
    """uint8 (height, width, 3)."""
    purpose: Hashable
    """Views with different purposes do not share a bucket."""

    @property
    def pixels(self) -> int:
        return self.image.shape[0] * self.image.shape[1]


class PaddedBatch(NamedTuple):
    """A batch on one bucket; places beyond the keys are empty."""

    bucket: Bucket
    keys: tuple[Hashable, ...]
    images: np.ndarray
    """uint8 (places, height, width, 3), zero beyond each image."""
    sizes: np.ndarray
    """int32 (places, 2): the true heights and widths; (crop, crop) in an empty place."""


class _Batch(NamedTuple):
    """A batch to come: so many places on a bucket for so many views of that and smaller buckets."""

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


def buckets(smaller_side: int, most_elongated: float) -> list[tuple[int, int]]:
    """All buckets of one test scale, for images whose longer side is up to `most_elongated` times the smaller one.

    >>> len(buckets(256, 2)), len(buckets(256, 4)), len(buckets(72, 4))
    (17, 33, 33)
    """
    longer = sorted({rounded_up(side) for side in range(smaller_side, round(smaller_side * most_elongated) + 1)})
    shorter = rounded_up(smaller_side)
    return sorted({(shorter, side) for side in longer} | {(side, shorter) for side in longer})


def bucket_of(view: ScaledImage) -> Bucket:
    """The smallest bucket that holds a view."""
    height, width = view.image.shape[:2]
    return Bucket(rounded_up(height), rounded_up(width), view.purpose)


def check_size(image: np.ndarray, scales: Iterable[int]) -> None:
    """Refuses an image that no bucket holds, before it is rescaled.

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


def packed(bucket: Bucket, views: Sequence[ScaledImage], places: int, crop: int) -> PaddedBatch:
    """Views on a bucket of so many places."""
    images = np.zeros((places, bucket.height, bucket.width, 3), np.uint8)
    sizes = np.full((places, 2), crop, np.int32)
    for place, view in enumerate(views):
        sizes[place] = height, width = view.image.shape[:2]
        images[place, :height, :width] = view.image
    return PaddedBatch(bucket, tuple(view.key for view in views), images, sizes)


class Batcher:
    """Gathers views into full batches.

    Args:
      batch_pixels: how many pixels of bucket a batch has, about.
      multiple: of which the number of places in a batch is a multiple, the devices.
      crop: side of the crop in pixels.

    Attributes:
      image_pixels, bucket_pixels: what came, and what was handed out, empty places included.
    """

    def __init__(self, batch_pixels: int, multiple: int, crop: int):
        self._batch_pixels, self._multiple, self._crop = batch_pixels, multiple, crop
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

    def pack(self, views: Iterable[ScaledImage]) -> Iterator[PaddedBatch]:
        """Batches of the views, each view once; a few buckets' worth of them is held back until there are enough."""
        waiting: dict[Bucket, list[ScaledImage]] = {}
        for view in views:
            bucket = bucket_of(view)
            here = waiting.setdefault(bucket, [])
            here.append(view)
            if len(here) == self._full(bucket):
                yield self._packed(bucket, waiting.pop(bucket), len(here))
        yield from self._rest(waiting)

    def _full(self, bucket: Bucket) -> int:
        places = max(1, round(self._batch_pixels / bucket.pixels))
        return max(1, round(places / self._multiple)) * self._multiple

    def _rest(self, waiting: dict[Bucket, list[ScaledImage]]) -> Iterator[PaddedBatch]:
        """What is left, on fewer buckets if it pays."""
        came = self.image_pixels + sum(view.pixels for views in waiting.values() for view in views)
        counts = Counter({bucket: len(views) for bucket, views in waiting.items()})
        while move := self._best_move(counts, came):
            bucket, larger = move
            counts = _moved(counts, *move)
            waiting.setdefault(larger, []).extend(waiting.pop(bucket))
        for batch in self._batches(counts):
            views = [waiting[bucket].pop() for bucket, count in batch.counts.items() for _ in range(count)]
            yield self._packed(batch.bucket, views, batch.places)

    def _best_move(self, counts: Counter[Bucket], came: int) -> tuple[Bucket, Bucket] | None:
        """Which bucket's views to move to the next larger bucket, so that the rest takes fewer programs or, in as many,
        fewer pixels, and no tenth of all pixels is wasted for it; `came`: the pixels of all images."""
        best, (programs, pixels) = None, self._cost(counts)
        allowed = max(pixels, came / (1 - MOST_WASTE) - self.bucket_pixels)
        for bucket in counts:
            larger = [other for other in {*counts, *self._known} if other != bucket and other.holds(bucket)]
            if larger:
                move = bucket, min(larger, key=_size)
                after = self._cost(_moved(counts, *move))
                if after < (programs, pixels) and after[1] <= allowed:
                    best, (programs, pixels) = move, after
        return best

    def _cost(self, counts: Counter[Bucket]) -> tuple[int, int]:
        """How many new programs, and how many pixels, the batches of so many views have."""
        batches = self._batches(counts)
        shapes = {(batch.bucket, batch.places) for batch in batches}
        new = sum(places not in self._known.get(bucket, ()) for bucket, places in shapes)
        return new, sum(batch.places * batch.bucket.pixels for batch in batches)

    def _batches(self, counts: Counter[Bucket]) -> list[_Batch]:
        """Batches of so many views: the largest buckets first, their empty places filled from smaller buckets."""
        left, batches = counts.copy(), []
        order = sorted(counts, key=_size, reverse=True)
        for position, bucket in enumerate(order):
            while left[bucket]:
                places = self._places(bucket, min(left[bucket], self._full(bucket)))
                batches.append(_Batch(bucket, places, Counter()))
                for other in order[position:]:
                    if bucket.holds(other):
                        batches[-1].counts[other] = taken = min(left[other], places)
                        left[other] -= taken
                        places -= taken
        return batches

    def _places(self, bucket: Bucket, count: int) -> int:
        """The places of a batch of so many views: those of a program that is there already, or a power of two."""
        places = [places for places in self._known.get(bucket, ()) if places >= count]
        return min(places, default=min(self._full(bucket), _power_of_two(count, self._multiple)))

    def _packed(self, bucket: Bucket, views: list[ScaledImage], places: int) -> PaddedBatch:
        self.image_pixels += sum(view.pixels for view in views)
        self.bucket_pixels += places * bucket.pixels
        self._known.setdefault(bucket, set()).add(places)
        return packed(bucket, views, places, self._crop)


def _size(bucket: Bucket) -> tuple[int, int]:
    return bucket.pixels, bucket.height


def _moved(counts: Counter[Bucket], bucket: Bucket, larger: Bucket) -> Counter[Bucket]:
    """The counts of views after those of a bucket went to a larger one."""
    return counts - Counter({bucket: counts[bucket]}) + Counter({larger: counts[bucket]})


def _power_of_two(count: int, multiple: int) -> int:
    """The smallest power of two times `multiple` that is at least `count`."""
    places = multiple
    while places < count:
        places *= 2
    return places
