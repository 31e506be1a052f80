"""A network on a source: every image exactly once, whatever the batches, devices and processes (Sec. 3.2, 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from vgg_jax.data.pipeline import ScaledExample, scaled_images
from vgg_jax.data.source import Source
from vgg_jax.errors import DataError
from vgg_jax.inference.runner import Runner
from vgg_jax.inference.scorer import EvalView, posteriors, scales_of


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
) -> DatasetPredictions:
    """The posteriors of every image of a source. Each process computes its share, and gets all of them.

    Args:
      runner: from `posterior_runner`.
      source: the images.
      views: protocols and scales, `eval_views(protocols, scales)`.
      threads: how many read and decode, 0 for one per core.
      on_error: "raise", or "skip" to leave out what cannot be read or is too elongated.
      progress: is reported how many of how many posteriors this process has.

    Raises:
      DataError: the source is empty; an image cannot be read or is too elongated, or all are.
    """
    if not len(source):
        raise DataError(f"{source.describe()}: the source is empty, there is nothing to evaluate on")
    indices = range(jax.process_index(), len(source), jax.process_count())
    labels = np.full(len(indices), -1, np.int32)
    rows = {view: np.zeros((len(indices), runner.net.num_classes), np.float32) for view in views}
    problems: dict[str, str] = {}

    def noted(examples: Iterator[ScaledExample]) -> Iterator[ScaledExample]:
        for example in examples:
            if example.problem:
                problems[source.name_of(example.index)] = example.problem
            else:
                labels[indices.index(example.index)] = example.label
            yield example

    with scaled_images(source, indices, scales_of(views), threads=threads, on_error=on_error) as examples:
        for done, (index, view, posterior) in enumerate(posteriors(runner, noted(examples), views), start=1):
            rows[view][indices.index(index)] = posterior
            if progress:
                progress(done, (len(indices) - len(problems)) * len(views))
    index, labels, rows = _gathered(np.array(indices, np.int64), labels, rows)
    if not len(index):
        raise DataError(f"{source.describe()}: no image could be read, there is nothing to evaluate on")
    return DatasetPredictions(index, labels, rows, problems)


def _gathered(
    index: np.ndarray, labels: np.ndarray, rows: dict[EvalView, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, dict[EvalView, np.ndarray]]:
    """All processes' results in the source's order, without the places of unreadable images."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        # Shares differ by one image at most: the shorter ones are padded, and the padding is as if unreadable.
        most = int(np.max(multihost_utils.process_allgather(np.array(len(index)))))
        pad = lambda a: np.pad(a, [(0, most - len(a))] + [(0, 0)] * (a.ndim - 1), constant_values=-1)
        join = lambda a: multihost_utils.process_allgather(pad(a)).reshape(-1, *a.shape[1:]).astype(a.dtype)
        index, labels, rows = jax.tree.map(join, (index, labels, rows))
    order = np.argsort(index, kind="stable")
    order = order[labels[order] >= 0]
    return index[order], labels[order], {view: values[order] for view, values in rows.items()}
