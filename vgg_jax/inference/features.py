"""Activations of whole images as features (App. B): pooled over an image's places, its mirror image and the scales.

Any number of images passes through in bounded memory: a few are read ahead, and those that wait for others of their
size fill at most one batch per bucket. `vgg_jax.inference.feature_file` keeps features that do not fit into memory.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vgg_jax.data.files import FileSource
from vgg_jax.data.pipeline import ScaledExample, scaled_images
from vgg_jax.errors import ConfigError, DataError
from vgg_jax.inference.arrays import check_net, check_scales, scaled_arrays
from vgg_jax.inference.buckets import ScaledImage
from vgg_jax.inference.feature_file import FeatureFile
from vgg_jax.inference.runner import Function, Maps, Runner, mirrored, with_mirror_images
from vgg_jax.model.vgg import VGG

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt8

LAYERS = ("relu3_3", "pool5", "fc7")

COMBINE: dict[str, Callable[[Sequence[np.ndarray]], np.ndarray]] = {
    "average": functools.partial(np.mean, axis=0),
    "stack": functools.partial(np.concatenate, axis=-1),
    "max": functools.partial(np.max, axis=0),
}
"""How the features (..., channels) of several scales are combined: their average, their channels one after the other,
or the largest of each channel."""

Image = np.ndarray | str | os.PathLike

Features = dict[str, np.ndarray | list[np.ndarray]]
"""By layer: float32 (images, channels), or lists of (h, w, channels)."""


def features(
    net: VGG,
    images: Iterable[Image],
    layers: Sequence[str] = LAYERS,
    scales: Sequence[int] = (256,),
    pool: str | None = "mean",
    *,
    flip: bool | None = None,
    combine: str = "average",
    into: str | Path | None = None,
    problems: dict[str, str] | None = None,
    batch_size: int | None = None,
    threads: int = 0,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Features | None:
    """Activations of images of any sizes, each computed as if it were alone.

    The paper's features are `relu7` by mean, with the mirror image; it scales them to length 1 afterwards.

    Args:
      net: the network.
      images: RGB uint8 arrays (height, width, 3), of which a few are asked for at a time, from a thread; or paths.
      layers: names of activations (`net.activations`). `fc7` is before its ReLU, `relu7` after it.
      scales: what an image's smaller side is rescaled to, in pixels: at least the net's crop for layers of the head,
        32 for others.
      pool: how an activation's places are pooled: "mean", "max", or None to keep the map.
      flip: whether the result is the average of the image's and its mirror image's, whose map is mirrored back; digits
        and letters must not be mirrored. By default with pooling, as in the paper, but not for maps.
      combine: how several scales are combined: a key of `COMBINE`.
      into: a file to write instead, see `feature_file`; features that are there stay until the new ones are whole, and
        a file of another kind is refused.
      problems: a dict that receives the images that cannot be read or are too elongated, the reasons by name; they are
        left out. By default the first one is raised.
      batch_size, mesh: as in `vgg_jax.Scorer`.
      threads: how many read and rescale, 0 for one per core.
      progress: called with the number of images done.

    Returns:
      float32 (n, channels) by layer, in the images' order; lists of (h, w, channels) if there is no pooling; None if
      they went into a file.

    Raises:
      ConfigError: the net has no such layer, a scale is too small for it, there is no such way of pooling or combining,
        or the file cannot be written.
      DataError: an image cannot be read; the message begins with its name.

    >>> from flax import nnx
    >>> net = VGG("D", num_classes=10, crop=32, width=0.0625, rngs=nnx.Rngs(0))
    >>> photographs = [np.zeros((50, 70, 3), np.uint8), np.zeros((64, 40, 3), np.uint8)]
    >>> {layer: values.shape for layer, values in features(net, photographs, ("relu3_3", "relu7"), (32,)).items()}
    {'relu3_3': (2, 16), 'relu7': (2, 256)}
    >>> [values.shape for values in features(net, photographs, ("relu3_3",), (32,), None)["relu3_3"]]
    [(8, 11, 16), (12, 8, 16)]
    """
    check_net(net)
    layers = (layers,) if isinstance(layers, str) else tuple(dict.fromkeys(layers))
    channels, smallest = check_features(net, layers, scales, pool, combine)
    if isinstance(images, str | os.PathLike) or not isinstance(images, Iterable):
        raise ConfigError(f"images={str(images)!r}: give a list of images, or of paths")
    flip = pool is not None if flip is None else flip
    about = {"net": net.spec.name, "scales": list(scales), "pool": pool, "combine": combine, "flip": flip}
    about["channels"] = channels
    runner = Runner(net, feature_function(layers, pool, flip), smallest=smallest, batch_size=batch_size, mesh=mesh)
    names: list[str] = []

    def computed() -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        with (
            _examples(images, scales, threads) as (examples, name_of),
            contextlib.closing(runner(_scaled_images(examples, name_of, names, problems))) as outputs,
        ):
            for done, numbered in enumerate(_combined(outputs, len(scales), combine), start=1):
                yield numbered
                progress(done)

    with contextlib.closing(computed()) as results:
        if into is not None:
            with FeatureFile(Path(into), about) as file:
                for number, values in results:
                    file.add(number, values)
                return file.finish(names)
        found = dict(results)
    rows = {layer: [found[number].pop(layer) for number in range(len(names))] for layer in layers}
    if pool is None:
        return rows
    return {layer: np.array(rows.pop(layer), np.float32).reshape(-1, channels[layer]) for layer in layers}


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
      net: the network.
      images: in the upper left corners of a bucket.
      sizes: their heights and widths in pixels.
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


@contextlib.contextmanager
def _examples(
    images: Iterable[Image], scales: Sequence[int], threads: int
) -> Iterator[tuple[Iterator[ScaledExample], Callable[[int], str]]]:
    """Examples of arrays or, where the first is one, of paths; and a function of an example's index to its name."""
    images = iter(images)
    first = list(itertools.islice(images, 1))
    options = {"threads": threads, "on_error": "skip"}
    if first and isinstance(first[0], str | os.PathLike):
        paths = [*first, *images]
        for number, path in enumerate(paths):
            if not isinstance(path, str | os.PathLike):
                raise DataError(f"image {number} is of type {type(path).__name__} among paths: give arrays, or paths")
        files = FileSource(paths)
        with scaled_images(files, range(len(files)), scales, **options) as examples:
            yield examples, files.name_of
    else:
        with scaled_arrays(itertools.chain(first, images), scales, **options) as examples:
            yield examples, "image {}".format


def _scaled_images(
    examples: Iterable[ScaledExample],
    name_of: Callable[[int], str],
    names: list[str],
    problems: dict[str, str] | None,
) -> Iterator[ScaledImage]:
    """Images with keys (place in `names`, place of the scale); adds to `names` and `problems` what comes."""
    for example in examples:
        name = name_of(example.index)
        if not example.problem:
            names.append(name)
            for position, image in enumerate(example.images):
                yield ScaledImage((len(names) - 1, position), image)
        elif problems is None:
            raise DataError(f"{name}: {example.problem}")
        else:
            problems[name] = example.problem


def _combined(
    outputs: Iterator[tuple[tuple[int, int], dict[str, np.ndarray]]], scales: int, combine: str
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Images' numbers and values, of all scales together."""
    pending: dict[int, dict[int, dict[str, np.ndarray]]] = {}
    for (number, position), values in outputs:
        parts = pending.setdefault(number, {})
        parts[position] = values
        if len(parts) == scales:
            del pending[number]
            together = {layer: [parts[place][layer] for place in range(scales)] for layer in values}
            yield number, values if scales == 1 else {layer: COMBINE[combine](them) for layer, them in together.items()}
