"""Image descriptors (App. B): what a linear classifier is given of an image.

The paper's order: activations of the penultimate layer, averaged over the places of the dense map, then with those of
the mirror image; the scales averaged, stacked or max-pooled; and "the resulting image descriptor is L2-normalized":
once, at the end. Descriptors of several networks are stacked as they are, each of length 1.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vgg_jax.data.source import Source
from vgg_jax.inference.activations import COMBINE
from vgg_jax.inference.features import Image, features
from vgg_jax.inference.pooled_features import KeptFeatures, kept_features
from vgg_jax.model.vgg import VGG
from vgg_jax.progress import Progress

if TYPE_CHECKING:
    from jaxtyping import Float


class Descriptor(NamedTuple):
    """A kind of descriptor."""

    layer: str = "relu7"
    """The activation: the paper's relu7, 4096-D."""
    scales: tuple[int, ...] = (256,)
    """The test scales Q in pixels."""
    combine: str = "stack"
    """How several scales are combined: a key of `COMBINE`."""

    def of_scales(self, parts: Sequence[Float[np.ndarray, "n channels"]]) -> Float[np.ndarray, "n d"]:
        """Descriptors of features at each of the scales: combined, then normalized.

        >>> one, two = np.array([[3.0, 0.0]]), np.array([[1.0, 3.0]])
        >>> {how: Descriptor("relu7", (256, 384), how).of_scales([one, two]).round(2).tolist() for how in COMBINE}
        {'average': [[0.8, 0.6]], 'stack': [[0.69, 0.0, 0.23, 0.69]], 'max': [[0.71, 0.71]]}
        """
        return normalized(COMBINE[self.combine](parts))

    def __str__(self) -> str:
        scales = ",".join(map(str, self.scales))
        return f"{self.layer}, Q = {scales}" + (f" ({self.combine})" if len(self.scales) > 1 else "")


def normalized(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows divided by their length; zeros stay.

    >>> normalized(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, np.finfo(rows.dtype).tiny)


def stacked(parts: Sequence[Float[np.ndarray, "n d"]]) -> Float[np.ndarray, "n d"]:
    """The descriptors of several networks as one: late fusion."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def candidates(layers: Sequence[str], scales: Sequence[int], combine: Sequence[str]) -> list[Descriptor]:
    """The descriptors of some layers, each layer by itself.

    Args:
      layers: names of activations.
      scales: the test scales Q.
      combine: keys of `COMBINE`, for all scales together; and "single", for each by itself.

    >>> [str(each) for each in candidates(["pool5"], [256, 384], ["single", "max"])]
    ['pool5, Q = 256', 'pool5, Q = 384', 'pool5, Q = 256,384 (max)']
    """
    kinds: list[tuple[tuple[int, ...], str]] = []
    for how in combine:
        if how == "single" or len(scales) == 1:
            kinds += [((scale,), "stack") for scale in scales]
        else:
            kinds.append((tuple(scales), how))
    return [Descriptor(layer, *kind) for layer, kind in itertools.product(layers, dict.fromkeys(kinds))]


def of_images(nets: Sequence[VGG], images: Iterable[Image], descriptor: Descriptor, **options) -> np.ndarray:
    """Descriptors of images, (n, d): arrays or paths, and options, as `vgg_jax.features` takes them."""
    images = list(images) if len(nets) > 1 else images
    found = (
        features(net, images, (descriptor.layer,), descriptor.scales, combine=descriptor.combine, **options)
        for net in nets
    )
    return stacked([normalized(of[descriptor.layer]) for of in found])


def kept_for(store: Path, net: VGG, source: Source, kinds: Sequence[Descriptor], **options) -> KeptFeatures:
    """The features that descriptors of a source are made of, kept in a store: see `kept_features`."""
    layers, scales = [kind.layer for kind in kinds], [scale for kind in kinds for scale in kind.scales]
    line = functools.cache(lambda scale: Progress(f"features at Q = {scale}", first=None))
    shown = lambda scale, *count: line(scale)(*count)
    kept = kept_features(store, net, source, layers, scales, progress=shown, **options)
    line(scales[-1]).clear()
    return kept


def of_kept(kept: Sequence[KeptFeatures], descriptor: Descriptor, rows: np.ndarray) -> Float[np.ndarray, "n d"]:
    """Descriptors of some images of a source, of the features of each of several networks.

    Args:
      rows: the images' indices.
    """
    parts: Iterator[list[np.ndarray]] = (
        [np.asarray(of.of[descriptor.layer, scale][rows]) for scale in descriptor.scales] for of in kept
    )
    return stacked([descriptor.of_scales(part) for part in parts])
