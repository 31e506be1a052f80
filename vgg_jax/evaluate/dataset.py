"""A network on a source: every image exactly once, whatever the batches, devices and processes (Sec. 3.2, 4)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from vgg_jax.data.pipeline import scaled_images
from vgg_jax.data.rescaling import ScaledExample
from vgg_jax.data.source import Source
from vgg_jax.errors import DataError
from vgg_jax.files import writing
from vgg_jax.inference import array_folder
from vgg_jax.inference.runner import Runner
from vgg_jax.inference.scorer import EvalView, posterior_batches, scales_of

log = logging.getLogger(__name__)


class DatasetPredictions(NamedTuple):
    """What a network makes of a source."""

    index: np.ndarray
    """int64 (n,): positions in the source, rising; images that could not be read are not among them."""
    labels: np.ndarray
    """int32 (n,)."""
    posteriors: dict[EvalView, np.ndarray]
    """float32 (n, classes) for every view."""
    problems: dict[str, str]
    """What this process could not read, and why: {name: reason}."""


def evaluate_dataset(
    runner: Runner,
    source: Source,
    views: Sequence[EvalView],
    *,
    threads: int = 0,
    on_error: str = "raise",
    progress: Callable[[int, int], None] | None = None,
    folder: Path | None = None,
    made_of: dict | None = None,
) -> DatasetPredictions:
    """The posteriors of every image of a source. Each process computes its share, and gets all of them.

    Args:
      runner: from `posterior_runner`; with a folder a new one.
      source: the images.
      views: protocols and scales, `eval_views(protocols, scales)`.
      threads: how many read and decode, 0 for one per core.
      on_error: "raise", or "skip" to leave out what cannot be read or is too elongated.
      progress: is reported how many of how many posteriors this process has.
      folder: keeps what is computed, so that a pass that was cut off goes on, to the bit; each process has its own in
        it. It is the caller's to remove.
      made_of: JSON values that say which network and which images these are, for the folder.

    Raises:
      DataError: the source is empty; an image cannot be read or is too elongated, or all are; or one has no
        label.
    """
    if not len(source):
        raise DataError(f"{source.describe()}: the source is empty, there is nothing to evaluate on")
    indices = range(jax.process_index(), len(source), jax.process_count())
    names = {view: f"{view.protocol}-Q{view.scale}" for view in views}
    made_of = (made_of or {}) | {
        "share": [indices.start, indices.step],
        "on_error": on_error,
        "batches": [jax.default_backend(), *runner.batcher.size],
        "arrays": {"label": ((), "int32"), "read": ((), "bool")}
        | dict.fromkeys(names.values(), ((runner.net.num_classes,), "float32")),
    }
    with _rows(folder and folder / f"process{jax.process_index()}", made_of, len(indices)) as unfinished:
        rows, problems = unfinished.arrays, unfinished.problems

        def noted(examples: Iterator[ScaledExample]) -> Iterator[ScaledExample]:
            for example in examples:
                row, name = indices.index(example.index), source.name_of(example.index)
                rows["label"][row], rows["read"][row] = example.label, not example.problem
                if example.problem:
                    problems[name] = example.problem
                elif example.label < 0:  # as TFDS has it in ImageNet's test split
                    raise DataError(
                        f"{source.describe()}: {name} has no label, there is nothing to compare the network's answer "
                        "with; choose a split whose images have labels, such as --config.evaluate.split=validation"
                    )
                yield example

        done = sum(int(np.count_nonzero(rows[name].any(1))) for name in names.values())
        with (
            scaled_images(source, indices, scales_of(views), threads=threads, on_error=on_error) as examples,
            contextlib.closing(posterior_batches(runner, noted(examples), views, unfinished.rows)) as batches,
        ):
            for going_on, batch in batches:
                for index, view, posterior in batch:
                    row = indices.index(index)
                    done += not rows[names[view]][row].any()
                    rows[names[view]][row] = posterior
                    if progress:
                        progress(done, (len(indices) - len(problems)) * len(views))
                unfinished.complete(going_on)
    posteriors = {view: np.asarray(rows[name]) for view, name in names.items()}
    labels, read = np.asarray(rows["label"]), np.asarray(rows["read"])
    index, labels, posteriors = _gathered(np.array(indices, np.int64), labels, read, posteriors)
    if not len(index):
        raise DataError(f"{source.describe()}: no image could be read, there is nothing to evaluate on")
    return DatasetPredictions(index, labels, posteriors, problems)


@contextlib.contextmanager
def _rows(folder: Path | None, made_of: dict, count: int) -> Iterator[array_folder.Unfinished]:
    """The arrays to be filled; `rows` is the batch to begin with."""
    if folder is None:
        yield array_folder.in_memory(made_of, count)
        return
    if folder.is_dir():  # complete, but its results were written nowhere
        folder.replace(array_folder.aside(folder))
    with writing(folder), array_folder.writing(folder, made_of, count, "posteriors") as unfinished:
        if unfinished.rows:
            log.info("going on from batch %d of the pass that was cut off", unfinished.rows)
        yield unfinished


def _gathered(
    index: np.ndarray, labels: np.ndarray, read: np.ndarray, rows: dict[EvalView, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, dict[EvalView, np.ndarray]]:
    """All processes' results in the source's order, without the places of unreadable images."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        # Shares differ by one image at most: the shorter ones are padded, and the padding counts as unreadable.
        most = int(np.max(multihost_utils.process_allgather(np.array(len(index)))))
        pad = lambda a: np.pad(a, [(0, most - len(a))] + [(0, 0)] * (a.ndim - 1))
        join = lambda a: multihost_utils.process_allgather(pad(a)).reshape(-1, *a.shape[1:]).astype(a.dtype)
        index, labels, read, rows = jax.tree.map(join, (index, labels, read, rows))
    order = np.argsort(index, kind="stable")
    order = order[read[order]]
    return index[order], labels[order], {view: values[order] for view, values in rows.items()}
