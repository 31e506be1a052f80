"""Mean and principal colours of a training set (Sec. 3.1; Krizhevsky et al. 2012, Sec. 4.1).

The network subtracts the mean; the colour shift moves an image along the principal components of its RGB values.
No TensorFlow here: the device side reads these numbers too.
"""

import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vgg_jax.data.bad_images import check_on_error, error_reason, unreadable
from vgg_jax.data.batch_stream import cores
from vgg_jax.data.decode import decode
from vgg_jax.data.source import Source
from vgg_jax.errors import DataError

_log = logging.getLogger(__name__)

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ColorStatistics:
    """What training needs to know of a data set's colours.

    Attributes:
      mean: mean R, G, B, in 0..255.
      eigenvalues: of the RGB covariance of pixels scaled to [0, 1], the largest first.
      eigenvectors: 3 x 3, as rows; column i belongs to eigenvalue i.
    """

    mean: Triple
    eigenvalues: Triple
    eigenvectors: tuple[Triple, Triple, Triple]


IMAGENET = ColorStatistics(
    mean=(123.68, 116.779, 103.939),
    eigenvalues=(0.2175, 0.0188, 0.0045),
    eigenvectors=((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203)),
)
"""ILSVRC-2012's training set: the mean of the published VGG networks, the components in common use."""


def color_statistics(
    source: Source, *, cache: Path | None, threads: int = 0, on_error: str = "raise"
) -> ColorStatistics:
    """Statistics of all pixels of all images, every image with the same weight whatever its size.

    The sums within an image are exact and the images are added in order, so the result has the same bits whatever the
    number of threads.

    Args:
      source: the training images.
      cache: a JSON file that keeps the result; one that was made from something else is made anew, with a warning.
      threads: how many decode; 0 is one per core.
      on_error: "raise", or "skip" to leave out unreadable images, each with a warning.

    Raises:
      DataError: an image cannot be read, or none can.
    """
    check_on_error(on_error)
    key = {"source": source.name, "split": source.split, "images": len(source)}
    if cache is not None and cache.exists():
        kept = json.loads(cache.read_text())
        if kept["of"] == key:
            return ColorStatistics(
                tuple(kept["mean"]), tuple(kept["eigenvalues"]), tuple(map(tuple, kept["eigenvectors"]))
            )
        _log.warning("%s holds the colours of %s, not of %s: computed anew", cache, kept["of"], key)
    statistics = _principal_colours(_moments(source, threads, on_error))
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_name(f"{cache.name}.{os.getpid()}")
        partial.write_text(json.dumps({"of": key, **vars(statistics)}, indent=1))
        partial.replace(cache)  # never half a file, even if several processes write
    return statistics


def _moments(source: Source, threads: int, on_error: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each image in turn: the means of its pixels (3,) and of their products (3, 3), in 0..255."""

    def of_image(index: int) -> tuple[np.ndarray, np.ndarray] | str:
        try:
            pixels = decode(source[index]["image"]).reshape(-1, 3).astype(np.float64)
        except (OSError, DataError) as error:
            return error_reason(error)
        # Sums of integers below 2**53: exact in float64, in whatever order a BLAS adds them.
        return pixels.sum(axis=0) / len(pixels), pixels.T @ pixels / len(pixels)

    with ThreadPoolExecutor(threads or cores()) as pool:
        chunk = 1024  # keeps few results waiting
        for first in range(0, len(source), chunk):
            indices = range(first, min(first + chunk, len(source)))
            for index, result in zip(indices, pool.map(of_image, indices), strict=True):
                if not isinstance(result, str):
                    yield result
                elif on_error == "skip":
                    _log.warning("left out of the colour statistics: %s: %s", source.name_of(index), result)
                else:
                    raise unreadable(source.name_of(index), result)


def _principal_colours(moments: Iterator[tuple[np.ndarray, np.ndarray]]) -> ColorStatistics:
    count, total, products = 0, np.zeros(3), np.zeros((3, 3))
    for mean, product in moments:
        count, total, products = count + 1, total + mean, products + product
    if not count:
        raise DataError("no image could be read, so there are no colour statistics")
    mean = total / count
    covariance = (products / count - np.outer(mean, mean)) / 255**2
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    # An eigenvector's sign is free; fixing it keeps equal data equal to the bit on another machine's LAPACK.
    vectors = vectors * np.where(vectors[np.abs(vectors).argmax(axis=0), range(3)] < 0, -1.0, 1.0)
    return ColorStatistics(tuple(mean.tolist()), tuple(values.tolist()), tuple(map(tuple, vectors.tolist())))
