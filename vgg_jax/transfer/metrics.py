"""The metrics of transfer (App. B): mean average precision for VOC, mean class recall for Caltech, accuracy.

A metric is a function of a classifier's decisions, (n, classes), and of the truth; it is a fraction, and higher is
better. `METRICS` has them by the names that a config uses.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Literal

import numpy as np

from vgg_jax.errors import DataError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

log = logging.getLogger(__name__)

Interpolation = Literal["all", "11-point"]


def average_precision(
    scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], *, interpolation: Interpolation = "all"
) -> float:
    """Average precision as the PASCAL VOC challenge defines it, of a ranking by descending score.

    The precision at a recall is the best one at that recall or a higher one, so the curve never rises. scikit-learn's
    `average_precision_score` sums the precision as it is, and is never larger. Equal scores are one threshold, as in
    scikit-learn; VOC's own program takes them in the order of its files.

    Args:
      scores: higher is more confident.
      positive: whether the class is there; what VOC calls difficult is left out by the caller.
      interpolation: "all": the area under the curve (VOC since 2010); "11-point": the mean of the precisions at the
        recalls 0, 0.1, ..., 1 (VOC-2007).

    Returns:
      A fraction; not a number if nothing is positive.

    Raises:
      DataError: a score is not a finite number.

    >>> scores, positive = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, False, True])
    >>> average_precision(scores, positive), round(average_precision(scores, positive, interpolation="11-point"), 4)
    (0.75, 0.7727)
    """
    if not np.isfinite(scores).all():
        raise DataError(f"{(~np.isfinite(scores)).sum():,} of {len(scores):,} scores are not finite numbers")
    count = int(positive.sum())
    if not count:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # the last of each run of equal scores
    found = np.cumsum(positive[order])[ends]
    precision = np.maximum.accumulate((found / (ends + 1))[::-1])[::-1]
    if interpolation == "all":
        return float(np.diff(found, prepend=0) @ precision / count)
    # In integers, because 3 of 10 is not a recall of exactly 0.3 in floats.
    at = np.searchsorted(10 * found, count * np.arange(11))
    return float(precision[at].mean())


def average_precisions(
    scores: Float[np.ndarray, "n classes"],
    truth: Int[np.ndarray, "n classes"],
    *,
    interpolation: Interpolation = "all",
) -> Float[np.ndarray, " classes"]:
    """The average precision of every class; not a number for one without a positive.

    Args:
      scores: the decisions.
      truth: 1 where the class is there, 0 where it is not, -1 where the image does not count for the class (VOC's
        difficult objects).
      interpolation: as in `average_precision`.
    """
    counted = truth >= 0
    return np.array(
        [
            average_precision(scores[kept, c], truth[kept, c] == 1, interpolation=interpolation)
            for c, kept in enumerate(counted.T)
        ]
    )


def mean_average_precision(
    scores: Float[np.ndarray, "n classes"],
    truth: Int[np.ndarray, "n classes"],
    *,
    interpolation: Interpolation = "all",
) -> float:
    """The mean of the classes' average precisions (mAP); a class without a positive is left out, with a warning.

    Args, Raises: as for `average_precisions`.
    """
    each = average_precisions(scores, truth, interpolation=interpolation)
    if np.isnan(each).any():
        without = ", ".join(map(str, np.flatnonzero(np.isnan(each))))
        log.warning("no positive image of classes %s: the mean average precision is that of the others", without)
    return float(np.nanmean(each)) if not np.isnan(each).all() else float("nan")


def mean_class_recall(scores: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> float:
    """The mean over the classes of the fraction that is recognized (Caltech); classes without images do not count."""
    right = scores.argmax(1) == labels
    return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))


def accuracy(scores: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> float:
    """The fraction of all images that is recognized."""
    return float((scores.argmax(1) == labels).mean())


METRICS = {
    "mean_ap": mean_average_precision,
    "mean_ap_11": functools.partial(mean_average_precision, interpolation="11-point"),
    "mean_class_recall": mean_class_recall,
    "accuracy": accuracy,
}
"""By the names that a config uses; the first two are of a truth (n, classes), the others of labels (n,)."""
