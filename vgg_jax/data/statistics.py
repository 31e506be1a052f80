"""Mean and principal colors of a training set (Sec. 3.1; Krizhevsky et al. 2012, Sec. 4.1).

The network subtracts the mean; the color shift moves an image along the principal components of its RGB values.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vgg_jax import processes
from vgg_jax.data.pipeline import scaled_images
from vgg_jax.data.source import Source
from vgg_jax.errors import DataError
from vgg_jax.files import set_aside, written_aside

_log = logging.getLogger(__name__)

SAMPLE = 1024
"""The most images that are looked at: a mean color is then known to one or two gray levels, as the log states."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ColorStatistics:
    """What training needs to know of a data set's colors.

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
    """Statistics of all pixels of the images, every image with the same weight whatever its size.

    Of more than 1,024 images that many are taken, at random but always the same. The sums within an image are exact and
    the images are added in order, so the result has the same bits whatever the number of threads. Of several processes
    the first one computes it for all: its numbers are constants of one program.

    Args:
      source: the training images.
      cache: a JSON file that keeps the result; one that was made from something else is replaced, with a warning.
      threads: how many decode; 0 is one per core.
      on_error: "raise", or "skip" to leave out unreadable images, each with a warning.

    Raises:
      DataError: an image cannot be read, or none can.
    """
    return _of_json(processes.by_first(lambda: asdict(_kept_or_computed(source, cache, threads, on_error))))


def _kept_or_computed(source: Source, cache: Path | None, threads: int, on_error: str) -> ColorStatistics:
    """As `color_statistics`, in one process."""
    key = {"source": source.name, "split": source.split, "images": len(source)}
    if cache is not None and (kept := _kept(cache, key)):
        return kept
    moments = list(_moments(source, threads, on_error))
    if not moments:
        raise DataError("no image could be read, so there are no color statistics")
    means, products = (np.array(column) for column in zip(*moments, strict=True))
    statistics = _principal_colors(means.mean(0), products.mean(0))
    if len(means) < len(source):
        error = means.std(0).max() / np.sqrt(len(means)) * np.sqrt(1 - len(means) / len(source))
        mean, sample = [round(value, 1) for value in statistics.mean], f"{len(means):,} of {len(source):,}"
        _log.info("mean RGB %s from %s images, standard error %.1f", mean, sample, error)
    if cache is not None:
        with written_aside(cache) as partial:
            partial.write_text(json.dumps({"of": key, "sample": len(means), **asdict(statistics)}, indent=1))
    return statistics


def _kept(cache: Path, key: dict) -> ColorStatistics | None:
    """What a file keeps, unless it is of other images or damaged, as is then reported."""
    if not cache.exists():
        return None
    try:
        kept = json.loads(cache.read_bytes())
        of, found = kept["of"], _of_json(kept)
        mean, numbers = found.mean, np.array([found.mean, found.eigenvalues, *found.eigenvectors])
        if numbers.shape != (5, 3) or not np.isfinite(numbers).all() or not 0 <= min(mean) <= max(mean) <= 255:
            raise ValueError("its values are no colors")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        _log.warning("%s is damaged (%s): kept as %s, computed again", cache, error, set_aside(cache).name)
        return None
    if of != key:
        _log.warning("%s holds the colors of %s, not of %s: computed again", cache, of, key)
        return None
    return found


def _of_json(values: dict) -> ColorStatistics:
    """The statistics whose `asdict` was written as JSON."""
    triples = values["mean"], values["eigenvalues"], *values["eigenvectors"]
    mean, eigenvalues, *eigenvectors = (tuple(map(float, triple)) for triple in triples)
    return ColorStatistics(mean, eigenvalues, tuple(eigenvectors))


def _moments(source: Source, threads: int, on_error: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each image in turn: the means of its pixels (3,) and of their products (3, 3), in 0..255."""
    sample = np.sort(np.random.default_rng(len(source)).permutation(len(source))[:SAMPLE])
    with scaled_images(source, sample, (0,), threads=threads, on_error=on_error) as examples:
        for example in examples:
            if example.problem:
                _log.warning("left out of the color statistics: %s: %s", source.name_of(example.index), example.problem)
                continue
            pixels = example.images[0].reshape(-1, 3).astype(np.float64)
            # Sums of integers below 2**53: exact in float64, in whatever order a BLAS adds them.
            yield pixels.sum(axis=0) / len(pixels), pixels.T @ pixels / len(pixels)


def _principal_colors(mean: np.ndarray, products: np.ndarray) -> ColorStatistics:
    covariance = (products - np.outer(mean, mean)) / 255**2
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    # An eigenvector's sign is free; fixing it keeps equal data equal to the bit on another machine's LAPACK.
    vectors = vectors * np.where(vectors[np.abs(vectors).argmax(axis=0), range(3)] < 0, -1.0, 1.0)
    return ColorStatistics(tuple(mean.tolist()), tuple(values.tolist()), tuple(map(tuple, vectors.tolist())))
