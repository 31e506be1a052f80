"""Features of a source that are computed once: pooled, at each test scale by itself, and kept (App. B).

    STORE/<made of>/Q256-pool5-relu7/     a folder of `array_folder`, for one pass over the images at one scale
      pool5.npy, relu7.npy                float32 (images, channels), not normalized, by the source's index
      label.npy                           int32 (images,)
      there.npy                           bool (images,), False where an image could not be read

Combining scales, stacking and normalizing come later and cost no pass. A pass that was cut off goes on from its last
complete batch, and gives the same bits as one that was not: the batches are the same, a function of the images' order
(so the images up to there are read again, but not computed). Memory holds what a runner holds; the arrays are mapped.

Several processes compute a share of the images each, in a folder of its own, and the first one joins them on the disk:
the store must be on a disk that they all see.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vgg_jax.data.pipeline import scaled_images
from vgg_jax.data.source import Source, digest
from vgg_jax.errors import CheckpointError, DataError
from vgg_jax.files import writing
from vgg_jax.inference import array_folder
from vgg_jax.inference.buckets import ScaledImage
from vgg_jax.inference.features import check_features, feature_function
from vgg_jax.inference.runner import Runner
from vgg_jax.model.vgg import VGG
from vgg_jax.progress import Progress

log = logging.getLogger(__name__)

_AT_ONCE = 4096
"""Rows that are copied at once."""


class KeptFeatures(NamedTuple):
    """Features of a source's images by their index, mapped into memory."""

    of: dict[tuple[str, int], np.ndarray]
    """By (layer, Q): float32 (images, channels), means over the places."""
    labels: np.ndarray
    """int32 (images,)."""
    there: np.ndarray
    """bool (images,): False for what could not be read."""
    problems: dict[str, str]
    """What could not be read, and why: {name: reason}."""


def kept_features(
    store: Path,
    made_of: dict,
    net: VGG,
    source: Source,
    layers: Sequence[str],
    scales: Sequence[int],
    *,
    flip: bool = True,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    threads: int = 0,
    on_error: str = "raise",
) -> KeptFeatures:
    """Means of activations over their places; what the store lacks is computed and kept there.

    Args:
      store: a folder for the features of any networks and sources.
      made_of: JSON values that identify the network; the source, its content and `flip` are added.
      net: the network.
      source: the images; their names, sizes and times of modification must be those of what is kept.
      layers: names of activations.
      scales: the test scales Q in pixels.
      flip: whether each is the average of the image's and its mirror image's.
      batch_size, mesh, threads: as in `vgg_jax.features`.
      on_error: "raise", or "skip" to leave out what cannot be read.

    Raises:
      ConfigError: the net has no such layer, a scale is too small for it, or the folder cannot be written to.
      DataError: an image cannot be read, or none can.
      CheckpointError: what is kept is damaged.
    """
    layers, scales = tuple(dict.fromkeys(layers)), tuple(dict.fromkeys(scales))
    channels, smallest = check_features(net, layers, scales, "mean", "average")
    names = digest(source.name_of(index) for index in range(len(source)))
    made_of = made_of | {"source": source.name, "split": source.split, "images": len(source), "names": names}
    made_of |= {"content": source.fingerprint(), "flip": flip, "net": net.spec.name, "dtype": net.dtype.name}
    home = store / digest(sorted(made_of.items()))
    if not len(source):
        raise DataError(f"{source.describe()}: the source is empty")
    found: dict[tuple[str, int], Path] = {}
    computed: list[str] = []
    for scale in scales:
        of_scale = made_of | {"scale": scale}
        there = _found(home, of_scale, whole=on_error == "raise")
        missing = [layer for layer in layers if layer not in there]
        computed += missing
        if missing:
            folder = home / "-".join([f"Q{scale}", *missing])
            function = feature_function(tuple(missing), "mean", flip)
            runner = Runner(net, function, smallest=smallest, batch_size=batch_size, mesh=mesh)
            with writing(folder):
                of_layers = {layer: channels[layer] for layer in missing}
                _compute_shares(folder, of_scale, of_layers, runner, source, threads, on_error)
            there |= dict.fromkeys(missing, folder)
        found |= {(layer, scale): there[layer] for layer in layers}
    if not computed:
        log.info("features found in %s: nothing had to be computed", home)
    kept = KeptFeatures({}, np.zeros(len(source), np.int32), np.ones(len(source), bool), {})
    for (layer, scale), folder in found.items():
        arrays, problems = array_folder.read(folder)
        if any(len(array) != len(source) for array in arrays.values()):
            raise CheckpointError(f"{folder} is damaged: it is not of {len(source):,} images; remove it")
        kept.of[layer, scale], kept.labels[:] = arrays[layer], arrays["label"]
        kept.there[:] &= arrays["there"]  # what is too elongated at one scale need not be at another
        kept.problems.update(problems)
    return kept


def _found(home: Path, made_of: dict, *, whole: bool) -> dict[str, Path]:
    """The folders of a scale that are complete, by layer.

    Args:
      whole: whether folders that lack an image which could not be read do not count.
    """
    there: dict[str, Path] = {}
    for folder in sorted(home.glob(f"Q{made_of['scale']}-*")):
        layers = folder.name.split("-")[1:]
        if folder.suffix != ".partial" and array_folder.about_of(folder, made_of):
            _, problems = array_folder.read(folder)
            if not (problems and whole):
                there |= dict.fromkeys(layers, folder)
    return there


def _compute_shares(
    folder: Path, made_of: dict, channels: dict[str, int], runner: Runner, source: Source, threads: int, on_error: str
) -> None:
    """Fills a folder with the features of one scale: each process its share, which the first one joins.

    Args:
      channels: of the layers.
    """
    process, processes = jax.process_index(), jax.process_count()
    made_of |= {"arrays": {layer: ((size,), "float32") for layer, size in channels.items()}}
    made_of["arrays"] |= {"label": ((), "int32"), "there": ((), "bool")}
    made_of |= {"batches": [jax.default_backend(), *runner.batcher.size]}
    if processes == 1:
        _compute(folder, made_of, runner, source, range(len(source)), threads, on_error)
        return
    if len(source) < processes:
        raise DataError(f"{source.describe()}: fewer images than the {processes} processes")
    shares = [range(number, len(source), processes) for number in range(processes)]
    folders = [folder.with_name("shares") / f"{folder.name}-{number}of{processes}" for number in range(processes)]
    of_share = made_of | {"share": [process, processes]}
    if not array_folder.about_of(folders[process], of_share):
        _compute(folders[process], of_share, runner, source, shares[process], threads, on_error)
    multihost_utils.sync_global_devices(f"all shares of {folder.name}")
    if process == 0:
        with array_folder.writing(folder, made_of, (len(source),), f"the features of {len(source):,} images") as whole:
            for share, part in zip(shares, folders, strict=True):
                arrays, problems = array_folder.read(part)
                whole.problems.update(problems)
                for name, array in arrays.items():
                    for first in range(0, len(share), _AT_ONCE):
                        whole.arrays[name][share[first : first + _AT_ONCE]] = array[first : first + _AT_ONCE]
        for part in folders:
            shutil.rmtree(part)
        with contextlib.suppress(OSError):  # another scale's may be there, of a pass that was cut off
            folders[0].parent.rmdir()
    multihost_utils.sync_global_devices(folder.name)


def _compute(
    folder: Path, made_of: dict, runner: Runner, source: Source, indices: range, threads: int, on_error: str
) -> None:
    """Fills a folder with the features of some images; the rows that `array_folder` counts are the runner's batches."""
    count, scale = len(indices), made_of["scale"]
    layers = [name for name in made_of["arrays"] if name not in ("label", "there")]
    with array_folder.writing(folder, made_of, (count,), f"the features of {count:,} images") as unfinished:
        arrays, problems, first = unfinished.arrays, unfinished.problems, unfinished.rows
        going_on = f", from batch {first} on" if first else ""
        log.info("%s of %s images at Q = %d%s", ", ".join(layers), f"{count:,}", scale, going_on)

        def images(examples) -> Iterator[ScaledImage]:
            for example in examples:
                arrays["label"][indices.index(example.index)] = example.label
                if example.problem:
                    problems[source.name_of(example.index)] = example.problem
                else:
                    yield ScaledImage(example.index, example.images[0])

        done, progress = int(arrays["there"].sum()), Progress(f"features at Q = {scale}")
        with (
            scaled_images(source, indices, (scale,), threads=threads, on_error=on_error) as examples,
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
                progress(done, count - len(problems))
        progress.clear()
        if not done:
            name, reason = next(iter(problems.items()))
            raise DataError(f"{source.describe()}: no image could be read; the first is {name}: {reason}")
    log.info("%s images; %.1f %% of the pixels were waste", f"{done:,}", 100 * runner.batcher.waste)
