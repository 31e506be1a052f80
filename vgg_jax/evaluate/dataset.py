"""A source under a scorer: every image exactly once, whatever the batches, devices and processes (Sec. 3.2, 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from vgg_jax.data.bad_images import check_on_error, error_reason, unreadable
from vgg_jax.data.decode import decode
from vgg_jax.data.source import Source
from vgg_jax.errors import DataError
from vgg_jax.inference.scorer import EvalView, Scorer


class Answers(NamedTuple):
    """What a network makes of a source."""

    index: np.ndarray
    """int64 (n,): positions in the source, rising; images that could not be read are not among them."""
    labels: np.ndarray
    """int32 (n,)."""
    posteriors: dict[EvalView, np.ndarray]
    """float32 (n, classes) for every protocol and scale."""


class Examination:
    """A source to be scored, once or, in training, over and over.

    Args:
      source: the images.
      threads: how many read and decode, 0 for one a core.
      on_error: "raise", or "skip" to leave out what cannot be read or is too elongated.

    Attributes:
      problems: with on_error="skip", what this process could not read, and why: {where: reason}.
    """

    def __init__(self, source: Source, *, threads: int = 0, on_error: str = "raise"):
        check_on_error(on_error)
        if not len(source):
            raise DataError(f"{source.describe()}: the source is empty, there is nothing to evaluate on")
        self._source, self._threads, self._skip = source, threads, on_error == "skip"
        self.problems: dict[str, str] = {}

    def __call__(self, scorer: Scorer, progress: Callable[[int, int], None] = lambda done, of: None) -> Answers:
        """Scores every image.

        Args:
          progress: is reported how many of how many views of images are done.

        Raises:
          DataError: an image cannot be read or is too elongated, or all are.
        """
        mine = range(jax.process_index(), len(self._source), jax.process_count())
        labels = np.full(len(mine), -1, np.int32)
        rows = {view: np.zeros((len(mine), scorer.num_classes), np.float32) for view in scorer.views}

        def read(place: int) -> np.ndarray | None:
            where = self._source.name_of(mine[place])
            try:
                example = self._source[mine[place]]
                image = decode(example["image"])
                scorer.check(image)
            except (OSError, DataError) as error:
                if not self._skip:
                    raise unreadable(where, error_reason(error)) from error
                self.problems[where] = error_reason(error)
                return None
            labels[place] = example["label"]
            return image

        done, total = 0, len(mine) * len(scorer.views)
        with scorer.scaled_images(read, range(len(mine)), self._threads) as views:
            for place, view, posterior in scorer.score(views):
                rows[view][place] = posterior
                done += 1
                progress(done, total - len(self.problems) * len(scorer.views))
        answers = _gathered(np.array(mine, np.int64), labels, rows)
        if not len(answers.index):
            raise DataError(f"{self._source.describe()}: no image could be read, there is nothing to evaluate on")
        return answers


def _gathered(index: np.ndarray, labels: np.ndarray, rows: dict[EvalView, np.ndarray]) -> Answers:
    """All processes' answers in the source's order, without the places of unreadable images."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        # Shares differ by one image at most: the shorter ones are padded, and the padding is as if unreadable.
        most = int(np.max(multihost_utils.process_allgather(np.array(len(index)))))
        pad = lambda a, value: np.pad(a, [(0, most - len(a))] + [(0, 0)] * (a.ndim - 1), constant_values=value)
        join = lambda a: multihost_utils.process_allgather(a).reshape(-1, *a.shape[1:]).astype(a.dtype)
        gather = lambda a, value: join(pad(a, value))
        index, labels = gather(index, 0), gather(labels, -1)
        rows = {view: gather(values, 0) for view, values in rows.items()}
    order = np.argsort(index, kind="stable")
    order = order[labels[order] >= 0]
    return Answers(index[order], labels[order], {view: values[order] for view, values in rows.items()})
