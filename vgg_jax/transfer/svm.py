"""A linear SVM on image descriptors, one class against the rest, its C chosen on held-out training images (App. B).

For each class

    minimize over w, b    1/2 (|w|^2 + b^2) + C sum_i max(0, 1 - y_i (w x_i + b))^2

The paper says "linear SVM", and no more. The squared hinge is liblinear's own default and has a gradient, so that both
solvers minimize the same. The intercept b is that of a constant feature 1, and decays with the weights (scikit-learn's
`intercept_scaling=1`); every image counts alike, without weights of classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vgg_jax.errors import DataError

log = logging.getLogger(__name__)

GRID = (0.01, 0.1, 1.0, 10.0, 100.0)
"""The values of C that are tried, for descriptors of unit length."""

Solver = Literal["liblinear", "device"]
Targets = Int[np.ndarray, " n"] | Int[np.ndarray, "n classes"]
"""Labels; or, where an image may show several classes, 1 (there), 0 (not there), -1 (left out for this class)."""


class LinearSVM(NamedTuple):
    """One hyperplane for each class."""

    weights: Float[np.ndarray, "d classes"]
    intercept: Float[np.ndarray, " classes"]
    C: float
    validation: dict[float, float]
    """What each C reached on the held-out images; empty if there was nothing to choose, or nothing to hold out."""

    def decide(self, descriptors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n classes"]:
        """The decisions: positive on the side of the class."""
        return descriptors @ self.weights + self.intercept


def fit_svm(
    descriptors: Float[np.ndarray, "n d"],
    targets: Targets,
    metric: Callable[[np.ndarray, np.ndarray], float],
    *,
    grid: Sequence[float] = GRID,
    held_out: float = 0.2,
    seed: int = 0,
    solver: Solver = "liblinear",
) -> LinearSVM:
    """Chooses C by a metric on held-out images, then fits to all.

    Args:
      descriptors: float32, L2-normalized (`GRID` is for these).
      targets: labels (n,), or (n, classes) of 1, 0 and -1: see `Targets`.
      metric: of decisions and targets (`metrics.METRICS`). Of equal ones the smallest C is taken.
      grid: the values of C; of a single one nothing is held out.
      held_out: the fraction of the images that C is chosen on, of each class where they have labels: the paper's 20 %.
      seed: for which ones, and for liblinear's order.
      solver: "liblinear", scikit-learn's, on all cores; "device", L-BFGS in float32 for all classes and C at once.

    Raises:
      DataError: a descriptor is not finite, their number is not that of the targets, or a class has no image.
    """
    raise NotImplementedError
