"""Errors (Sec. 4): top-1 and top-5, and the loss beside them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import jax
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

log = logging.getLogger(__name__)


def hits(scores: Float[Array, "n classes"], labels: Int[Array, " n"], mask: Float[Array, " n"]) -> dict[str, jax.Array]:
    """How many labels are the best-scored class (`top1`) or among the best five (`top5`).

    Args:
      scores: class scores.
      labels: class numbers.
      mask: 1 for an image, 0 for an empty place.
    """
    rank = ranks(scores, labels)
    return {"top1": ((rank < 1) * mask).sum(), "top5": ((rank < 5) * mask).sum()}


def ranks(scores: Float[Array, "n classes"], labels: Int[Array, " n"]) -> Int[Array, " n"]:
    """How many classes are ahead of the label.

    Of equal scores the lower class number comes first; a score that is not a number counts against the label.

    Args:
      scores: class scores or posteriors.
      labels: class numbers.

    >>> ranks(np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]]), np.array([2, 1])).tolist()
    [1, 1]
    """
    xp = scores.__array_namespace__()
    own = xp.take_along_axis(scores, labels[:, None], axis=1)
    classes = xp.arange(scores.shape[1])
    ahead = ~(scores <= own) | ((scores == own) & (classes < labels[:, None]))
    return ahead.sum(1)


def summary(posteriors: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> dict[str, float]:
    """`top1` and `top5` accuracy as fractions, the mean cross-entropy `loss` in nats, and `images`, their number.

    A posterior that float32 holds as zero counts as the least positive number, so a loss is at most 103.
    """
    rank = ranks(posteriors, labels)
    own = np.take_along_axis(posteriors, labels[:, None], axis=1)
    loss = -np.log(np.maximum(own.astype(np.float64), np.finfo(np.float32).smallest_subnormal)).mean()
    return {
        "loss": float(loss),
        "top1": float((rank < 1).mean()),
        "top5": float((rank < 5).mean()),
        "images": float(len(labels)),
    }


def warn_of_few_classes(count: int) -> None:
    """Warns where every label is among the best five."""
    if count <= 5:
        log.warning("%d classes: the top-5 error is 0 whatever the network answers; look at the top-1 error", count)
