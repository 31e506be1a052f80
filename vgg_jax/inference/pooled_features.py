"""Features of a source, pooled: at each test scale by itself, kept in the feature store (App. B).

    STORE/<made of>/Q256-pool5-relu7/     for one pass over the images at one scale
      pool5.npy, relu7.npy                float32 (images, channels), not normalized, by the source's index
      label.npy                           int32 (images,)
      there.npy                           bool (images,), False where an image could not be read

Combining scales, stacking and normalizing come later and cost no pass. Of a pass that was cut off, the images are read
again up to its last complete batch, but not computed.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from vgg_jax import processes
from vgg_jax.data.pipeline import scaled_images
from vgg_jax.data.source import Source, digest
from vgg_jax.errors import DataError
from vgg_jax.inference import array_folder, feature_store
from vgg_jax.inference.activations import check_features, feature_function
from vgg_jax.inference.buckets import ScaledImage
from vgg_jax.inference.runner import Runner
from vgg_jax.model.checksum import checksum
from vgg_jax.model.vgg import VGG

log = logging.getLogger(__name__)


class KeptFeatures(NamedTuple):
    """Features of a source's images by their index, mapped into memory."""

    of: dict[tuple[str, int], np.ndarray]
    """By (layer, Q): float32 (images, channels), means or maxima over the places."""
    labels: np.ndarray
    """int32 (images,)."""
    there: np.ndarray
    """bool (images,): False for what could not be read."""
    problems: dict[str, str]
    """What could not be read, and why: {name: reason}."""


def kept_features(
    store: Path,
    net: VGG,
    source: Source,
    layers: Sequence[str],
    scales: Sequence[int],
    pool: str = "mean",
    *,
    flip: bool = True,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    threads: int = 0,
    on_error: str = "raise",
    progress: Callable[[int, int, int], None] = lambda scale, done, count: None,
) -> KeptFeatures:
    """Activations pooled over their places; what the store lacks is computed and kept there.

    Args:
      store: a folder for the features of any networks and sources.
      net: the network.
      source: the images; their names, sizes and times of modification must be those of what is kept.
      layers: names of activations.
      scales: the test scales Q in pixels.
      pool: "mean" or "max".
      flip: whether each is the average of the image's and its mirror image's.
      batch_size, mesh, threads: as in `vgg_jax.features`.
      on_error: "raise", or "skip" to leave out what cannot be read.
      progress: called with a scale that is computed, how many images are done at it, and of how many.

    Raises:
      ConfigError: the net has no such layer, a scale is too small for it, or the folder cannot be written to.
      DataError: an image cannot be read, or none can.
      CheckpointError: what is kept is damaged.
    """
    layers, scales = tuple(dict.fromkeys(layers)), tuple(dict.fromkeys(scales))
    channels, smallest = check_features(net, layers, scales, pool, "average")
    if not len(source):
        raise DataError(f"{source.describe()}: the source is empty")
    made_of = feature_store.identity(source) | {"weights": checksum(net), "net": net.spec.name, "dtype": net.dtype.name}
    made_of |= {"pool": pool, "flip": flip}
    home = store / digest(sorted(made_of.items()))
    whole = on_error == "raise"
    folders: dict[tuple[str, int], Path] = {}
    computed = False
    for scale in scales:
        of_scale = made_of | {"scale": scale}
        there = processes.by_first(functools.partial(_complete, home, of_scale, whole=whole))
        if missing := [layer for layer in layers if layer not in there]:
            computed = True
            name = "-".join(missing)
            folder = home / f"Q{scale}-{name if len(name) < 100 else digest(missing)}"  # a file's name has limits
            function = feature_function(tuple(missing), pool, flip)
            runner = Runner(net, function, smallest=smallest, batch_size=batch_size, mesh=mesh)
            arrays = {layer: ((channels[layer],), "float32") for layer in missing}
            arrays |= {"label": ((), "int32"), "there": ((), "bool")}
            batches = [jax.default_backend(), *runner.batcher.size]
            reading = {"threads": threads, "on_error": on_error}
            compute = functools.partial(_compute, runner, source, scale, reading, progress)
            feature_store.fill(folder, of_scale | {"arrays": arrays, "batches": batches}, source, compute, whole=whole)
            there |= dict.fromkeys(missing, folder.name)
        folders |= {(layer, scale): home / there[layer] for layer in layers}
    if not computed:
        log.info("features found in %s: nothing had to be computed", home)
    kept = KeptFeatures({}, np.zeros(len(source), np.int32), np.ones(len(source), bool), {})
    for (layer, scale), folder in folders.items():
        arrays, problems = feature_store.read(folder, source)
        kept.of[layer, scale], kept.labels[:] = arrays[layer], arrays["label"]
        kept.there[:] &= arrays["there"]  # what is too elongated at one scale need not be at another
        kept.problems.update(problems)
    if not kept.there.any():
        raise _none_readable(source, kept.problems)
    return kept


def forget(store: Path) -> None:
    """Removes all that a store keeps, and nothing else."""
    for home in {of_pass.parent.parent for of_pass in store.glob("*/Q*/of.json")}:
        shutil.rmtree(home)
    with contextlib.suppress(OSError):  # what else is there is not ours
        store.rmdir()


def _complete(home: Path, made_of: dict, *, whole: bool) -> dict[str, str]:
    """The names of the complete passes at a scale, by layer."""
    there: dict[str, str] = {}
    for folder in sorted(home.glob(f"Q{made_of['scale']}-*")):
        if folder.suffix not in (".partial", ".lock") and feature_store.is_complete(folder, made_of, whole=whole):
            there |= dict.fromkeys(_layers_of(array_folder.read(folder)[0]), folder.name)
    return there


def _compute(
    runner: Runner,
    source: Source,
    scale: int,
    reading: dict,
    progress: Callable[[int, int, int], None],
    unfinished: array_folder.Unfinished,
    indices: range,
) -> None:
    """Fills arrays with the features of some images; what they count as complete are the runner's batches."""
    arrays, problems, first, count = unfinished.arrays, unfinished.problems, unfinished.rows, len(indices)
    layers = _layers_of(arrays)
    going_on = f", from batch {first} on" if first else ""
    log.info("%s of %s images at Q = %d%s", ", ".join(layers), f"{count:,}", scale, going_on)

    def images(examples) -> Iterator[ScaledImage]:
        for example in examples:
            arrays["label"][indices.index(example.index)] = example.label
            if example.problem:
                problems[source.name_of(example.index)] = example.problem
            else:
                yield ScaledImage(example.index, example.images[0])

    done = int(arrays["there"].sum())
    progress(scale, done, count)
    with (
        scaled_images(source, indices, (scale,), **reading) as examples,
        contextlib.closing(runner.batches(images(examples), first)) as batches,
    ):
        for number, batch in enumerate(batches, start=first + 1):
            for index, values in batch:
                row = indices.index(index)
                for layer, value in values.items():
                    arrays[layer][row] = value
                done += not arrays["there"][row]
                arrays["there"][row] = True
            unfinished.complete(number)
            progress(scale, done, count - len(problems))
    if not done and jax.process_count() == 1:  # other shares may have some
        raise _none_readable(source, problems)
    log.info("%s images; %.1f %% of the pixels were waste", f"{done:,}", 100 * runner.batcher.waste)


def _layers_of(arrays: Iterable[str]) -> list[str]:
    return [name for name in arrays if name not in ("label", "there")]


def _none_readable(source: Source, problems: dict[str, str]) -> DataError:
    name, reason = next(iter(problems.items()))
    return DataError(f"{source.name}: no image could be read; the first is {name}: {reason}")
