"""The one input convention, RGB in 0..255; anything else is refused.

Floats that look like another range cause a warning: other packages feed VGG colors in [0, 1] or standardized ones, and
the network answers those too, wrongly.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from vgg_jax.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Array, Real

_warned = False
_looks = 8
"""How many more arrays on devices are checked: each check waits for the device. NumPy's cost nothing."""


def check_images(images: Real[Array, "n h w 3"]) -> None:
    """Refuses what is not a batch of images, and warns, once per process, about floats that do not look like 0..255.

    Only the first image of a batch is checked, and none while a function is traced.

    Raises:
      ConfigError: the images are no array of numbers, or not of shape (n, h, w, 3).
    """
    dtype = getattr(images, "dtype", None)
    if not hasattr(images, "astype") or not any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise ConfigError(f"images of type {dtype or type(images).__name__}: expected an array of RGB in 0..255")
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ConfigError(f"images of shape {images.shape}: expected (n, h, w, 3), RGB in 0..255")
    if not _warned and images.size and jnp.issubdtype(dtype, jnp.floating) and not isinstance(images, jax.core.Tracer):
        _look_at(images)


def check_color(name: str, color: Sequence[float]) -> tuple[float, float, float]:
    """A color as three floats.

    Raises:
      ConfigError: it is not a color in 0..255; the message begins with `name`.
    """
    try:
        values = np.asarray(color, np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (3,) or not ((values >= 0) & (values <= 255)).all():
        raise ConfigError(f"{name}={color}: expected three numbers in 0..255, red, green and blue")
    return tuple(values.tolist())


def _look_at(images: np.ndarray | jax.Array) -> None:
    """Warns if the colors of the first image do not look like 0..255."""
    global _warned, _looks
    if isinstance(images, jax.Array):
        if not _looks or not images.is_fully_addressable:
            return
        _looks -= 1
        with jax.ensure_compile_time_eval():  # a constant of a function that is being traced is checked too
            images = np.asarray(images[:1])
    lowest, highest = float(images[0].min()), float(images[0].max())
    if lowest >= 0 and (1 < highest <= 255 or highest == 0):
        return
    _warned = True
    warnings.warn(
        f"images with colors from {lowest:.3g} to {highest:.3g}: expected RGB in 0..255; the network subtracts its own "
        "mean. Multiply colors in [0, 1] by 255; undo a mean and a standard deviation. This is said once",
        stacklevel=_stacklevel(),
    )


def _stacklevel() -> int:
    """The level of a warning about the nearest frame outside this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == __name__.partition(".")[0]:
        level, frame = level + 1, frame.f_back
    return level
