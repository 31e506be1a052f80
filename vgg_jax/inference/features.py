"""Activations of whole images as features (App. B): pooled over an image's places, its mirror image and the scales.

Any number of images passes through in bounded memory: a few are read ahead, and those that wait for others of their
size fill at most one batch per bucket. `feature_file` keeps features that do not fit into memory. Pooled ones of files
go there through the feature store, so that nothing is computed twice after an interruption:

    FILE.npz.unfinished/    until FILE.npz is written, a store as in `pooled_features`
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from vgg_jax.data.files import FileSource
from vgg_jax.data.pipeline import scaled_images
from vgg_jax.data.rescaling import ScaledExample
from vgg_jax.errors import ConfigError, DataError
from vgg_jax.files import writing
from vgg_jax.inference.activations import COMBINE, check_features, feature_function
from vgg_jax.inference.arrays import check_net, scaled_arrays
from vgg_jax.inference.buckets import ScaledImage
from vgg_jax.inference.feature_file import FeatureFile
from vgg_jax.inference.pooled_features import forget, kept_features
from vgg_jax.inference.runner import Runner
from vgg_jax.locks import locked
from vgg_jax.model.vgg import VGG

LAYERS = ("relu3_3", "pool5", "fc7")

Image = np.ndarray | str | os.PathLike

Features = dict[str, np.ndarray | list[np.ndarray]]
"""By layer: float32 (images, channels), or lists of (h, w, channels)."""

Numbered = Iterator[tuple[int, dict[str, np.ndarray]]]
"""Images' numbers, those that cannot be read left out, and what is computed of them, by layer."""


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
        a file of another kind is refused. If it is cut off, the same call goes on from its last complete batch where
        the images are files and pooled.
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
      DataError: an image cannot be read; the message begins with its name. Or of files that go into a file none can.

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

    def computed(images: FileSource | Iterator[np.ndarray]) -> Numbered:
        opening, name_of = _examples(images, scales, threads)
        with (
            opening as examples,
            contextlib.closing(runner(_scaled_images(examples, name_of, names, problems))) as outputs,
        ):
            for done, numbered in enumerate(_combined(outputs, len(scales), combine), start=1):
                yield numbered
                progress(done)

    def kept(images: FileSource, store: Path) -> Numbered:
        options = {"flip": flip, "batch_size": batch_size, "threads": threads, "mesh": mesh}
        options |= {"on_error": "raise" if problems is None else "skip"}
        done = lambda scale, count, _: progress((scales.index(scale) * len(images) + count) // len(scales))
        try:
            of, _, there, unreadable = kept_features(store, net, images, layers, scales, pool, progress=done, **options)
        except DataError as error:  # the way out that it names is a command's
            raise DataError(str(error).partition("\n")[0]) from error
        if problems is not None:
            problems.update(unreadable)
        for number, index in enumerate(np.flatnonzero(there)):
            names.append(images.name_of(index))
            parts = {layer: [of[layer, scale][index] for scale in scales] for layer in layers}
            yield number, {layer: COMBINE[combine](values) for layer, values in parts.items()}

    if into is None:
        with contextlib.closing(computed(_files(images))) as results:
            found = dict(results)
        rows = {layer: [found[number].pop(layer) for number in range(len(names))] for layer in layers}
        if pool is None:
            return rows
        return {layer: np.array(rows.pop(layer), np.float32).reshape(-1, channels[layer]) for layer in layers}
    path = Path(into)
    with contextlib.ExitStack() as hold:
        with FeatureFile(path, about) as file:
            images, store = _files(images), path.with_name(f"{path.name}.unfinished")
            # Of several processes each may be given images of its own.
            through_store = pool is not None and isinstance(images, FileSource) and jax.process_count() == 1
            if through_store:
                hold.enter_context(locked(store))
            with contextlib.closing(kept(images, store) if through_store else computed(images)) as results:
                for number, values in results:
                    file.add(number, values)
            file.finish(names)
        with writing(store):
            forget(store)
    return None


def _files(images: Iterable[Image]) -> FileSource | Iterator[np.ndarray]:
    """The images, if the first one is a path, as files."""
    images = iter(images)
    first = list(itertools.islice(images, 1))
    if not first or not isinstance(first[0], str | os.PathLike):
        return itertools.chain(first, images)
    paths = [*first, *images]
    for number, path in enumerate(paths):
        if not isinstance(path, str | os.PathLike):
            raise DataError(f"image {number} is of type {type(path).__name__} among paths: give arrays, or paths")
    return FileSource(paths)


def _examples(
    images: FileSource | Iterator[np.ndarray], scales: Sequence[int], threads: int
) -> tuple[AbstractContextManager[Iterator[ScaledExample]], Callable[[int], str]]:
    """A context with examples of files or of arrays, and a function of an example's index to its name."""
    options = {"threads": threads, "on_error": "skip"}
    if isinstance(images, FileSource):
        return scaled_images(images, range(len(images)), scales, **options), images.name_of
    return scaled_arrays(images, scales, **options), "image {}".format


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


def _combined(outputs: Iterator[tuple[tuple[int, int], dict[str, np.ndarray]]], scales: int, combine: str) -> Numbered:
    """Images' numbers and values, of all scales together."""
    pending: dict[int, dict[int, dict[str, np.ndarray]]] = {}
    for (number, position), values in outputs:
        parts = pending.setdefault(number, {})
        parts[position] = values
        if len(parts) == scales:
            del pending[number]
            together = {layer: [parts[place][layer] for place in range(scales)] for layer in values}
            yield number, values if scales == 1 else {layer: COMBINE[combine](them) for layer, them in together.items()}
