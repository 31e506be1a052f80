"""Activations of whole images as a runner computes them: of a layer, pooled over its places or as a map (App. B)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from vgg_jax.errors import ConfigError
from vgg_jax.inference.arrays import check_scales
from vgg_jax.inference.runner import Function, Maps, mirrored, with_mirror_images
from vgg_jax.model.vgg import VGG

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt8

COMBINE: dict[str, Callable[[Sequence[np.ndarray]], np.ndarray]] = {
    "average": functools.partial(np.mean, axis=0),
    "stack": functools.partial(np.concatenate, axis=-1),
    "max": functools.partial(np.max, axis=0),
}
"""How the features (..., channels) of several scales are combined: their average, their channels one after the other,
or the largest of each channel."""


@functools.lru_cache(maxsize=16)
def feature_function(layers: tuple[str, ...], pool: str | None, flip: bool) -> Function:
    """`activations` as a runner takes it; the same function for the same features, so it is compiled once."""
    return functools.partial(activations, layers=layers, pool=pool, flip=flip)


def activations(
    net: VGG,
    images: UInt8[Array, "n h w 3"],
    sizes: Int[Array, "n 2"],
    *,
    layers: Sequence[str],
    pool: str | None,
    flip: bool,
) -> dict[str, Float[Array, "n channels"] | Maps]:
    """Activations by layer, float32: pooled (n, channels), or maps.

    Args:
      net, images, sizes: as a runner gives them.
      layers: names of activations.
      pool: "mean", "max" or None.
      flip: whether to average with the mirror image's, which for maps are mirrored back.
    """
    both, sizes = with_mirror_images(images, sizes) if flip else (images, sizes)
    found = {}
    for layer, x in net.activations_of(both, layers, sizes=sizes).items():
        x, places = x.astype(jnp.float32), net.activation_sizes(layer, sizes)
        if pool == "mean":
            x = x.sum((1, 2)) / places.prod(1)[:, None]  # zeros lie beyond the image
        elif pool == "max":
            rows, columns = (jnp.arange(side) < places[:, axis, None] for axis, side in enumerate(x.shape[1:3]))
            x = jnp.max(x, (1, 2), where=(rows[:, :, None] & columns[:, None])[..., None], initial=-jnp.inf)
        if flip:
            places = places[::2]
            x = (x[::2] + (x[1::2] if pool else mirrored(x[1::2], places))) / 2
        found[layer] = x if pool else Maps(x, places)
    return found


def check_features(
    net: VGG, layers: Sequence[str], scales: Sequence[int], pool: str | None, combine: str
) -> tuple[dict[str, int], int]:
    """The channels of the layers' features, and the smallest image that they can be computed of, in pixels.

    Raises:
      ConfigError: they cannot be computed, see `features`.
    """
    crop = jax.ShapeDtypeStruct((1, net.crop, net.crop, 3), jnp.uint8)
    maps = jax.eval_shape(lambda images: net.activations_of(images, layers), crop)  # the net knows its layers
    if pool not in ("mean", "max", None):
        raise ConfigError(f"pool={pool!r}: there are 'mean', 'max' and None")
    if combine not in COMBINE:
        raise ConfigError(f"combine={combine!r}: there are 'average', 'stack' and 'max'")
    head = [layer for layer in layers if net.in_head(layer)]
    smallest = net.crop if head else net.spec.stride
    check_scales(scales, smallest, f"the net's crop, which {head[0]} needs" if head else "the least for its layers")
    if pool is None and len(scales) > 1:
        raise ConfigError(f"scales={tuple(scales)}: the maps of several scales differ in size; pool them, or take one")
    repeats = len(scales) if combine == "stack" else 1
    return {layer: maps[layer].shape[-1] * repeats for layer in layers}, smallest
