"""Posteriors that are computed once: kept in files, and found again for the same weights and images (Sec. 4.3, 4.4).

A folder is of one network on one source: `dense.npz`, `crops.npz` and `center.npz`, what the protocols average; and
`unfinished/`, what a pass that was cut off leaves to the next.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from vgg_jax import processes
from vgg_jax.data.source import Source, digest
from vgg_jax.errors import DataError
from vgg_jax.evaluate.classes import EvalClasses
from vgg_jax.evaluate.dataset import DatasetPredictions
from vgg_jax.evaluate.posteriors import Posteriors, image_names, read
from vgg_jax.inference.scorer import EvalView
from vgg_jax.locks import locked

log = logging.getLogger(__name__)


def kept_posteriors(
    folder: Path,
    about: dict,
    source: Source,
    classes: EvalClasses,
    views: Sequence[EvalView],
    compute: Callable[[Sequence[EvalView], Path, dict], DatasetPredictions],
    *,
    complete: bool,
) -> dict[str, Posteriors]:
    """Posteriors by what the protocols average (dense, crops, center), of the same images all.

    Found in the folder's files where these are of the same network and images; the rest is computed, and kept there.

    Args:
      folder: where the files are.
      about: the network: see `Posteriors.about`. But for `checkpoint`, a file's must be equal.
      source: the images: their names, sizes and times of modification must be those of the file.
      classes: which classes the posteriors are of.
      views: protocols and scales that are needed.
      compute: predictions for some of them; a folder for what a pass that is cut off leaves to the next, and JSON
        values that it depends on.
      complete: whether files that lack an image that could not be read do not count.

    Raises:
      ConfigError: another process computes in the folder, or a file cannot be written.
      UserError: what `compute` raises.
    """
    names = image_names(source)
    about = about | {"source": source.name, "split": source.split, "content": source.fingerprint()}
    made_of = {key: about[key] for key in about if key != "checkpoint"} | {"names": digest(names)}
    unfinished = folder / "unfinished"
    computed = lambda views: _posteriors(compute(views, unfinished, made_of), source, names, classes, about)
    with contextlib.ExitStack() as hold:
        processes.by_first(lambda: hold.enter_context(locked(folder)))
        parts: dict[str, Posteriors] = {}

        def find() -> list[str]:
            for part in dict.fromkeys(view.protocol for view in views):
                if found := _found(folder / f"{part}.npz", about | {"protocol": part}, names, classes.names, complete):
                    parts[part] = found
            return [*parts]

        for part in processes.by_first(find):
            if part not in parts:
                parts[part] = read(folder / f"{part}.npz")
        missing = [
            view for view in views if view.protocol not in parts or view.scale not in parts[view.protocol].scales
        ]
        new = computed(missing) if missing else {}
        if len({posteriors.images for posteriors in (*parts.values(), *new.values())}) > 1:
            log.info("not the same images could be read as when %s was written: all is computed again", folder)
            parts, new = {}, computed(views)
        for part, posteriors in new.items():
            parts[part] = parts[part].joined(posteriors) if part in parts else posteriors
            if jax.process_index() == 0:
                parts[part].save(folder / f"{part}.npz")
        if jax.process_index() == 0:
            shutil.rmtree(unfinished, ignore_errors=True)
        if not new:
            log.info("posteriors found in %s: nothing had to be computed", folder)
        return parts


def _posteriors(
    predictions: DatasetPredictions, source: Source, names: tuple[str, ...], classes: EvalClasses, about: dict
) -> dict[str, Posteriors]:
    """Predictions by what the protocols average."""
    scored, parts = set(predictions.index.tolist()), {}
    # Why another process could not read an image of its share is known to that one.
    why = lambda index: predictions.problems.get(source.name_of(index), "could not be read")
    unreadable = {name: why(index) for index, name in enumerate(names) if index not in scored}
    images = tuple(names[index] for index in predictions.index)
    labels = classes.of_source[predictions.labels].astype(np.int32)
    for part in dict.fromkeys(view.protocol for view in predictions.posteriors):
        scales = tuple(view.scale for view in predictions.posteriors if view.protocol == part)
        values = np.stack([classes.restricted(predictions.posteriors[EvalView(part, scale)]) for scale in scales])
        parts[part] = Posteriors(values, scales, labels, images, classes.names, about | {"protocol": part}, unreadable)
    return parts


def _found(
    path: Path, about: dict, names: tuple[str, ...], classes: tuple[str, ...], complete: bool
) -> Posteriors | None:
    """The posteriors in a file, if they are those of this network, of these images and classes."""
    if not path.exists():
        return None
    try:
        found = read(path)
    except DataError as error:
        log.warning("%s: computed again", error)
        return None
    of_network = found.about | {"checkpoint": about["checkpoint"]} == about and found.classes == classes
    if not of_network or {*found.images, *found.unreadable} != {*names}:
        log.info("%s is not known to be of these weights, images and classes: computed again", path)
        return None
    if found.unreadable and complete:
        log.info("%s lacks images that could not be read: computed again", path)
        return None
    return found
