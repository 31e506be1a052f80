"""From a source's index to pixels (Sec. 3.1, 3.2): read, decode, rescale."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vgg_jax.data.bad_images import check_on_error, error_reason, unreadable
from vgg_jax.data.batch_stream import cores
from vgg_jax.data.decode import decode, rescale, rescaled_size
from vgg_jax.data.source import Source
from vgg_jax.errors import DataError
from vgg_jax.prefetch import in_order

MAX_PIXELS = 2**22
"""The most pixels of one rescaled image: 2048 x 2048. Net D's activations of one stage take a gigabyte there."""


class ScaledExample(NamedTuple):
    """An example of a source, rescaled."""

    index: int
    """Its position in the source."""
    label: int
    images: tuple[np.ndarray, ...]
    """RGB uint8 (height, width, 3), one for each scale; none if it could not be read."""
    problem: str
    """Why it could not be read, or ""."""


@contextlib.contextmanager
def scaled_images(
    source: Source, indices: Iterable[int], scales: Sequence[int], *, threads: int = 0, on_error: str = "raise"
) -> Iterator[Iterator[ScaledExample]]:
    """A context with examples of a source in the order of `indices`, their images at every one of the scales Q.

    Args:
      source: the images.
      indices: which of them.
      scales: the test scales Q: what an image's smaller side is rescaled to, in pixels.
      threads: how many read, decode and rescale; 0 for one a core.
      on_error: "raise", or "skip" to give an example without images, and its problem.

    Raises (while iterating):
      DataError: with on_error="raise", an image cannot be read or is too elongated; the message names it.
    """
    check_on_error(on_error)
    threads = threads or cores()

    def read(index: int) -> ScaledExample:
        try:
            example = source[index]
            image = decode(example["image"])
            check_elongated(*image.shape[:2], scales)
            images = tuple(rescale(image, scale) for scale in scales)
        except (OSError, DataError) as error:
            if on_error == "raise":
                raise unreadable(source.name_of(index), error_reason(error)) from error
            return ScaledExample(index, -1, (), error_reason(error))
        return ScaledExample(index, example["label"], images, "")

    with in_order(read, indices, threads, ahead=4 * threads) as examples:
        yield examples


def check_elongated(height: int, width: int, scales: Iterable[int]) -> None:
    """Refuses an image that takes too much memory at one of the scales, before it is rescaled.

    Raises:
      DataError: it is too elongated.
    """
    for scale in scales:
        rows, columns = rescaled_size(height, width, scale)
        if rows * columns > MAX_PIXELS:
            raise DataError(
                f"{height} x {width} pixels are too elongated: at the test scale Q = {scale} they are "
                f"{rows} x {columns}, and {MAX_PIXELS:,} is the most; crop the image, or use a smaller test scale"
            )
