"""Top-1 and top-5 (Sec. 4)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def hits(scores: Float[Array, "n classes"], labels: Int[Array, " n"], mask: Float[Array, " n"]) -> dict[str, jax.Array]:
    """How many labels are the best-scored class (`top1`) or among the best five (`top5`).

    Of equal scores the lower class number comes first; a score that is not a number counts against the label.

    Args:
      scores: class scores.
      labels: class numbers.
      mask: 1 for an image, 0 for an empty place.
    """
    own = jnp.take_along_axis(scores, labels[:, None], axis=1)
    classes = jnp.arange(scores.shape[1])
    ahead = ~(scores <= own) | ((scores == own) & (classes < labels[:, None]))
    rank = ahead.sum(1)
    return {"top1": ((rank < 1) * mask).sum(), "top5": ((rank < 5) * mask).sum()}
