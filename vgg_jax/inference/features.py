"""Activations of whole images as features (App. B): pooled over an image's places, its mirror image and the scales.

Any number of images passes through in bounded memory: a few are read ahead, and those that wait for others of their
size fill at most one batch a bucket. `vgg_jax.inference.feature_file` keeps those that do not fit into memory.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from vgg_jax.commands.predict import images_of
from vgg_jax.commands.target import EvalTarget
from vgg_jax.config import eval_scale
from vgg_jax.data.bad_images import error_reason
from vgg_jax.data.batch_stream import cores
from vgg_jax.data.decode import decode, rescale
from vgg_jax.errors import ConfigError, DataError
from vgg_jax.inference.buckets import ScaledImage, check_size
from vgg_jax.inference.feature_file import FeatureFile, Features, FeaturesInMemory, table
from vgg_jax.inference.runner import Runner, mirrored, with_mirror_images
from vgg_jax.inference.scorer import check_image
from vgg_jax.model.vgg import VGG
from vgg_jax.prefetch import in_order
from vgg_jax.progress import Progress

LAYERS = ("relu3_3", "pool5", "fc7")

Image = np.ndarray | str | os.PathLike


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
    """Activations of images of any sizes, each as if it were alone.

    The paper's features are `relu7` by mean, with the mirror image; it scales them to length 1 afterwards.

    Args:
      net: the network.
      images: RGB uint8 arrays (height, width, 3) or paths, of which a few are asked for at a time, from a thread.
      layers: names of activations (`net.activations`). `fc7` is before its ReLU, `relu7` after it.
      scales: what an image's smaller side is rescaled to, in pixels: at least the net's crop for layers of the head,
        32 for others.
      pool: what is taken over an activation's places: "mean", "max", or None to keep the map.
      flip: whether the result is the average of the image's and its mirror image's, whose map is mirrored back; digits
        and letters must not be mirrored. By default with pooling, as in the paper, but not for maps.
      combine: what becomes of several scales: "average", or "stack", which puts their channels one after the other.
      into: a file to write instead, see `feature_file`. One that exists is replaced, and stays as it is if this
        fails.
      problems: takes note of images that cannot be read or are too elongated, the reasons by name, and these are left
        out. By default the first of them is raised.
      batch_size, mesh: as in `vgg_jax.Scorer`.
      threads: how many read and rescale, 0 for one a core.
      progress: is reported how many images are done.

    Returns:
      float32 (n, channels) by layer, in the images' order; lists of (h, w, channels) if there is no pooling; None if
      they went into a file.

    Raises:
      ConfigError: the net has no such layer, a scale is too small for it, there is no such way of pooling or combining,
        or the file cannot be written.
      DataError: an image cannot be read; the message begins with its name.

    >>> net = VGG("D", num_classes=10, crop=32, width=0.0625, rngs=nnx.Rngs(0))
    >>> photographs = [np.zeros((50, 70, 3), np.uint8), np.zeros((64, 40, 3), np.uint8)]
    >>> {layer: values.shape for layer, values in features(net, photographs, ("relu3_3", "relu7"), (32,)).items()}
    {'relu3_3': (2, 16), 'relu7': (2, 256)}
    >>> [values.shape for values in features(net, photographs, ("relu3_3",), (32,), None)["relu3_3"]]
    [(8, 11, 16), (12, 8, 16)]
    """
    layers = (layers,) if isinstance(layers, str) else tuple(dict.fromkeys(layers))
    channels, smallest = _checked(net, layers, scales, pool, combine)
    if isinstance(images, str | os.PathLike):
        raise ConfigError(f"images={os.fspath(images)!r}: give a list of images, or of paths")
    flip = pool is not None if flip is None else flip
    repeats = len(scales) if combine == "stack" else 1
    sizes = {layer: channels[layer] * repeats for layer in layers} if pool else dict.fromkeys(layers)
    about = {"net": net.spec.name, "scales": list(scales), "pool": pool, "combine": combine, "flip": flip}
    engine = _Describer(net, layers, pool, flip, smallest, batch_size, mesh)
    names: list[str] = []
    with FeaturesInMemory(sizes) if into is None else FeatureFile(Path(into), sizes) as store:
        with _views(images, scales, names, problems, threads or cores()) as views:
            described = engine.described(views)
            with contextlib.closing(_combined(described, len(scales), combine)) as results:
                for done, (number, values) in enumerate(results, start=1):
                    store.add(number, values)
                    progress(done)
        return store.finish(names, about)


def activations(
    graphdef: nnx.GraphDef,
    state: nnx.State,
    images: UInt8[Array, "n h w 3"],
    sizes: Int[Array, "n 2"],
    *,
    layers: Sequence[str],
    pool: str | None,
    flip: bool,
) -> dict[str, Float[Array, "n ..."]]:
    """Activations by layer, float32: pooled (n, channels), or maps (n, h', w', channels) in the upper left corners.

    Args:
      graphdef, state: the network.
      images: in the upper left corners of one bucket.
      sizes: their heights and widths in pixels.
      layers: names of activations.
      pool: "mean", "max" or None.
      flip: whether to average with the mirror image's, which for maps are mirrored back.
    """
    net = nnx.merge(graphdef, state)
    both, sizes = with_mirror_images(images, sizes) if flip else (images, sizes)
    found = {}
    for layer, x in net.activations_of(both, layers, sizes=sizes).items():
        x, places = x.astype(jnp.float32), places_of(net, layer, sizes)
        if pool == "mean":
            x = x.sum((1, 2)) / places.prod(1)[:, None]  # zeros lie beyond the image
        elif pool == "max":
            rows, columns = (jnp.arange(side) < places[:, axis, None] for axis, side in enumerate(x.shape[1:3]))
            x = jnp.max(x, (1, 2), where=(rows[:, :, None] & columns[:, None])[..., None], initial=-jnp.inf)
        if flip:
            one, other = x[::2], x[1::2]
            x = (one + (other if pool else mirrored(other, places[1::2]))) / 2
        found[layer] = x
    return found


def places_of(net: VGG, layer: str, sizes: Int[Array, "n 2"]) -> Int[Array, "n 2"]:
    """Height and width of an activation of images of these sizes in pixels.

    >>> net = VGG("A", num_classes=10, crop=32, width=0.0625, rngs=nnx.Rngs(0))
    >>> [places_of(net, layer, np.array([[32, 65]])).tolist() for layer in ("relu2_1", "pool2", "fc7")]
    [[[16, 32]], [[8, 16]], [[1, 2]]]
    """
    place = net.activations.index(layer)
    if place > net.activations.index("pool5"):
        return net.map_sizes(sizes)
    return sizes // 2 ** sum(name.startswith("pool") for name in net.activations[: place + 1])


def write_features(
    target: EvalTarget, arguments: Sequence[str], out: str, layers: Sequence[str], pool: str | None, stack: bool
) -> int:
    """The command: features of images, folders of images or patterns, at `config.evaluate.scales`, into a file.

    Prints a table of what was written, and which images could not be read.

    Returns:
      How many images could not be read; these are left out.

    Raises:
      ConfigError: there are no images, or as `features`.
    """
    config = target.config
    paths = list(dict.fromkeys(path for argument in arguments for path in images_of(argument)))
    if not paths:
        raise ConfigError(
            "--mode=features takes images, folders or patterns: --mode=features --workdir=RUN --out=f.npz photographs/"
        )
    problems: dict[str, str] = {}
    progress = Progress("features")
    features(
        target.net,
        paths,
        layers,
        tuple(config.evaluate.scales) or (eval_scale(config),),
        pool,
        flip=config.data.flip if pool else None,
        combine="stack" if stack else "average",
        into=out,
        problems=problems,
        batch_size=config.evaluate.batch_size or None,
        threads=config.data.threads,
        progress=lambda done: progress(done, len(paths) - len(problems)),
    )
    progress.clear()
    print(table(Path(out)))
    if problems:
        print(f"\n{len(problems)} images could not be read and are left out:")
        print("\n".join(f"  {name}: {problem}" for name, problem in problems.items()))
    return len(problems)


def _checked(net: VGG, layers, scales, pool, combine) -> tuple[dict[str, int], int]:
    """The layers' channels, and the smallest image that they can be computed of, in pixels."""
    crop = jax.ShapeDtypeStruct((1, net.crop, net.crop, 3), jnp.uint8)
    maps = jax.eval_shape(lambda images: net.activations_of(images, layers), crop)  # the net knows its layers
    if not isinstance(scales, Sequence) or not scales or not all(isinstance(q, int | np.integer) for q in scales):
        raise ConfigError(f"scales={scales}: one or more scales in whole pixels, such as (256,)")
    if pool not in ("mean", "max", None):
        raise ConfigError(f"pool={pool!r}: there are 'mean', 'max' and None")
    if combine not in ("average", "stack"):
        raise ConfigError(f"combine={combine!r}: there are 'average' and 'stack'")
    if pool is None and len(scales) > 1:
        raise ConfigError(f"scales={tuple(scales)}: the maps of several scales differ in size; pool them, or take one")
    head = [layer for layer in layers if net.activations.index(layer) > net.activations.index("pool5")]
    smallest = net.crop if head else net.spec.stride
    if min(scales) < smallest:
        of = f"the net's crop, which {head[0]} needs" if head else "the least for its layers"
        raise ConfigError(f"scales={tuple(scales)}: {min(scales)} pixels are below {of}, {smallest}")
    return {layer: maps[layer].shape[-1] for layer in layers}, smallest


class _Describer(Runner):
    """A network as a function of views to features."""

    def __init__(self, net, layers, pool, flip, smallest, batch_size, mesh):
        function = functools.partial(activations, layers=layers, pool=pool)
        super().__init__(net, {"activations": function}, smallest, batch_size, mesh)
        self._net, self._pool, self._flip = net, pool, flip

    def _run(self, purpose, images, sizes):
        return self._programs["activations"](self._state, images, sizes, flip=self._flip)

    def described(self, views: Iterable[ScaledImage]) -> Iterator[tuple[tuple, dict[str, np.ndarray]]]:
        """Tickets and values by layer, in whatever order is fast."""
        for packed, found in self._results(views):
            places = {layer: places_of(self._net, layer, packed.sizes) for layer in found}
            for row, key in enumerate(packed.keys):
                values = {layer: values[row] for layer, values in found.items()}
                if self._pool is None:
                    values = {layer: x[: places[layer][row, 0], : places[layer][row, 1]] for layer, x in values.items()}
                yield key, {layer: x.copy() for layer, x in values.items()}  # a view would keep the whole batch


@contextlib.contextmanager
def _views(
    images: Iterable[Image], scales: Sequence[int], names: list[str], problems: dict[str, str] | None, threads: int
) -> Iterator[Iterator[ScaledImage]]:
    """Images at every scale, rescaled by a few threads. Tickets are pairs: the place in `names`, the scale's place."""

    def prepared(item: tuple[int, Image]) -> tuple[str, list[np.ndarray], str]:
        number, image = item
        if isinstance(image, str | os.PathLike):
            name = os.fspath(image)
            try:
                image = decode(Path(image).read_bytes())
            except (OSError, DataError) as error:
                return name, [], error_reason(error)
        else:
            name = f"image {number}"
            check_image(image, name)
            image = np.asarray(image)
        try:
            check_size(image, scales)
        except DataError as error:
            return name, [], str(error)
        return name, [rescale(image, scale) for scale in scales], ""

    def views(results) -> Iterator[ScaledImage]:
        for name, at_scales, problem in results:
            if not problem:
                names.append(name)
                for position, image in enumerate(at_scales):
                    yield ScaledImage((len(names) - 1, position), image, None)
            elif problems is None:
                raise DataError(f"{name}: {problem}")
            else:
                problems[name] = problem

    with in_order(prepared, enumerate(images), threads, ahead=4 * threads) as results:
        yield views(results)


def _combined(
    described: Iterator[tuple[tuple[int, int], dict[str, np.ndarray]]], scales: int, combine: str
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Images' numbers and values, of all scales together."""
    pending: dict[int, dict[int, dict[str, np.ndarray]]] = {}
    with contextlib.closing(described):
        for (number, position), values in described:
            parts = pending.setdefault(number, {})
            parts[position] = values
            if len(parts) < scales:
                continue
            of_layer = {layer: [parts[position][layer] for position in range(scales)] for layer in values}
            join = np.concatenate if combine == "stack" else functools.partial(np.mean, axis=0)
            yield number, values if scales == 1 else {layer: join(them) for layer, them in of_layer.items()}
            del pending[number]
