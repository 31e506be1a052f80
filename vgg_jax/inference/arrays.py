"""Images that a program hands over as arrays, rescaled (Sec. 3.2); those of files and sources: `data.pipeline`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from vgg_jax.data.rescaling import ScaledExample, check_rescaled_size, rescale
from vgg_jax.errors import ConfigError, DataError
from vgg_jax.model.vgg import VGG
from vgg_jax.prefetch import in_order


@contextlib.contextmanager
def scaled_arrays(
    images: Iterable[np.ndarray], scales: Sequence[int], *, threads: int = 0, on_error: str = "raise"
) -> Iterator[Iterator[ScaledExample]]:
    """A context with images at every one of the scales Q, in order, without labels (-1).

    Args:
      images: RGB uint8 (height, width, 3), of which a few are asked for at a time.
      scales: the test scales Q: what an image's smaller side is rescaled to, in pixels.
      threads: how many rescale; 0 for one per core.
      on_error: "raise", or "skip" to give an example without images, and its problem, for one that is too elongated.

    Raises (while iterating):
      DataError: an image is of another type or shape, or too elongated; the message says which.
    """

    def scaled(numbered: tuple[int, np.ndarray]) -> ScaledExample:
        number, image = numbered
        _check(image, f"image {number}")
        try:
            check_rescaled_size(*image.shape[:2], scales)
        except DataError as error:
            if on_error == "raise":
                raise DataError(f"image {number}: {error}") from error
            return ScaledExample(number, -1, (), str(error))
        pixels = np.asarray(image)
        return ScaledExample(number, -1, tuple(rescale(pixels, scale) for scale in scales), "", image.shape[:2])

    with in_order(scaled, enumerate(images), threads) as examples:
        yield examples


def check_net(net: VGG) -> None:
    """Refuses what is no network.

    Raises:
      ConfigError: with its type.
    """
    if not isinstance(net, VGG):
        raise ConfigError(f"net is of type {type(net).__name__}: give a vgg_jax.VGG, as vgg_jax.load gives one")


def networks(nets: VGG | Sequence[VGG]) -> list[VGG]:
    """One network or several as a list.

    Raises:
      ConfigError: there is none, or one is no network.
    """
    several = isinstance(nets, Iterable) and not isinstance(nets, VGG | str)
    nets = [*nets] if several else [nets]
    for net in nets:
        check_net(net)
    if not nets:
        raise ConfigError("nets=[]: give a network, or several")
    return nets


def check_scales(
    scales: Sequence[int], smallest: int, what: str = "the net's crop, which the class-score map needs"
) -> None:
    """Refuses test scales Q below `smallest` pixels, which is `what`, or that are not whole pixels.

    Raises:
      ConfigError: with the value.
    """
    if not isinstance(scales, Sequence) or not scales or not all(isinstance(q, int | np.integer) for q in scales):
        raise ConfigError(f"scales={scales}: one or more test scales Q in whole pixels, such as (256,)")
    if min(scales) < smallest:
        raise ConfigError(f"the test scale Q = {min(scales)} is below {what}, {smallest} pixels")


def _check(image: np.ndarray, name: str) -> None:
    if getattr(image, "dtype", None) != np.uint8:
        what = getattr(image, "dtype", type(image).__name__)
        raise DataError(f"{name} is of type {what}: images are RGB in 0..255, uint8")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"{name} is of shape {image.shape}: expected (height, width, 3), RGB")
