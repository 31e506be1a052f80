"""A linear SVM on image descriptors, one class against the rest, its C chosen on held-out training images (App. B).

For each class

    minimize over w, b    1/2 (|w|^2 + b^2) + C sum_i max(0, 1 - y_i (w x_i + b))^2

The paper says "linear SVM", and no more. The squared hinge is liblinear's own default and has a gradient, so both
solvers minimize the same objective. The intercept b is that of a constant feature 1, and decays with the weights
(scikit-learn's `intercept_scaling=1`); every image has the same weight, whatever its class.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np

from vgg_jax.errors import DataError
from vgg_jax.transfer import liblinear, newton

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

log = logging.getLogger(__name__)

GRID = (0.01, 0.1, 1.0, 10.0, 100.0)
"""The values of C that are tried, for descriptors of unit length."""
HELD_OUT = 0.2
"""The fraction of the images that C is chosen on, of each class where they have labels: the paper's."""
FALLBACK = 1.0
"""C where no image can be held out to choose it, as with one shot."""

SOLVERS = {"device": newton.solve, "liblinear": liblinear.solve}
Solver = Literal["device", "liblinear"]
Targets: TypeAlias = "Int[np.ndarray, ' n'] | Int[np.ndarray, 'n classes']"
"""Labels; or, where an image may show several classes, 1 (there), 0 (not there), -1 (left out for this class)."""


class LinearSVM(NamedTuple):
    """One hyperplane for each class."""

    weights: Float[np.ndarray, "d classes"]
    intercept: Float[np.ndarray, " classes"]
    C: float
    validation: dict[float, float]
    """What each C reached on the held-out images; empty if there was only one C, or nothing to hold out."""

    def decide(self, descriptors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n classes"]:
        """The decisions: positive on the side of the class."""
        return descriptors @ self.weights + self.intercept


def fit_svm(
    descriptors: Float[np.ndarray, "n d"],
    targets: Targets,
    metric: Callable[[np.ndarray, np.ndarray], float],
    *,
    classes: Sequence[str] = (),
    grid: Sequence[float] = GRID,
    groups: Int[np.ndarray, " n"] | None = None,
    seed: int = 0,
    solver: Solver = "device",
) -> LinearSVM:
    """Chooses C by a metric on held-out images, then fits to all.

    Args:
      descriptors: float32, L2-normalized (`GRID` is for these).
      targets: labels (n,), or (n, classes) of 1, 0 and -1: see `Targets`.
      metric: of decisions and targets (`metrics.METRICS`). Among equally good values the smallest C is taken.
      classes: the classes' names; by default their numbers, up to the greatest label.
      grid: the values of C; with a single one nothing is held out.
      groups: the same number for what is held out or trained on together, such as the people in an image; by default
        every image is on its own.
      seed: for what is held out, and for liblinear's order.
      solver: "device", Newton's method in float32, for all classes at once; "liblinear", scikit-learn's, on all cores.

    Raises:
      DataError: a descriptor is not finite, their number is not that of the targets, or a class has no image.
    """
    descriptors = np.asarray(descriptors, np.float32)
    classes = classes or range(targets.max(initial=0) + 1 if targets.ndim == 1 else targets.shape[1])
    signs = _signs(targets, len(classes))
    _check(descriptors, signs, classes)
    grid = sorted(grid)
    groups = np.arange(len(targets)) if groups is None else groups
    held = _held_out(targets, signs, groups, seed) if len(grid) > 1 else np.zeros(len(targets), bool)
    if len(grid) > 1 and not held.any():
        log.info("%d images, and none can be held out to choose C: it is %g", len(targets), FALLBACK)
        grid = [FALLBACK]
    coordinates, onto = _coordinates(descriptors)
    solve = SOLVERS[solver]
    validation = {}
    if len(grid) > 1:
        path = zip(grid, *solve(coordinates[~held], signs[~held], grid, seed), strict=True)
        validation = {C: float(metric(coordinates[held] @ w + b, targets[held])) for C, w, b in path}
    C = max(grid, key=lambda C: validation.get(C, 0))
    (w,), (b,) = solve(coordinates, signs, [C], seed)
    return LinearSVM(onto(w).astype(np.float32), b.astype(np.float32), C, validation)


def _signs(targets: Targets, classes: int) -> Int[np.ndarray, "n classes"]:
    """1 for an image of the class, -1 for another, 0 for one that is left out.

    >>> _signs(np.array([0, 1]), 2).tolist(), _signs(np.array([[1, 0], [0, -1]]), 2).tolist()
    ([[1, -1], [-1, 1]], [[1, -1], [-1, 0]])
    """
    if targets.ndim == 1:
        return np.where(targets[:, None] == np.arange(classes), 1, -1)
    return np.choose(targets + 1, (0, -1, 1))


def _check(descriptors: np.ndarray, signs: np.ndarray, classes: Sequence) -> None:
    if len(descriptors) != len(signs):
        raise DataError(f"{len(descriptors):,} descriptors and targets of {len(signs):,} images")
    if not np.isfinite(descriptors).all():
        first = np.flatnonzero(~np.isfinite(descriptors).all(1))[0]
        raise DataError(f"the descriptor of image {first} has values that are not finite")
    for sign, what in ((1, "no image of class"), (-1, "no image that is not of class")):
        has_one = (signs == sign).any(0)
        if not has_one.all():
            raise DataError(f"{what} {classes[has_one.argmin()]} to learn from")


def _held_out(targets: Targets, signs: np.ndarray, groups: np.ndarray, seed: int) -> Bool[np.ndarray, " n"]:
    """Which images C is chosen on: of each label, if there are labels, one at least if it has more than one."""
    rng = np.random.default_rng(seed)
    strata = targets if targets.ndim == 1 else np.zeros(len(targets), int)
    held = np.zeros(len(targets), bool)
    for stratum in np.unique(strata):
        members = rng.permutation(np.unique(groups[strata == stratum]))
        held |= np.isin(groups, members[: max(1, round(HELD_OUT * len(members))) if len(members) > 1 else 0])
    for sign in (1, -1):  # what a class has must not all be held out
        for of_class in (signs == sign).T:
            if not (of_class & ~held).any():
                held[of_class] = False
    return held


def _coordinates(descriptors: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Shorter vectors with the same inner products, and what maps their weights to weights for the descriptors.

    n descriptors span n dimensions at most, so n numbers for each suffice: the rows of the triangular factor L of
    their inner products X X' = L L' (Cholesky), half of which are zeros. Stacked descriptors have 24,576 numbers, so a
    few shots, or the 3,060 images of Caltech-101, cost a fraction. Where there are more images than dimensions nothing
    changes.
    """
    n, d = descriptors.shape
    if n >= d:
        return descriptors, lambda weights: weights
    import scipy.linalg

    blocks = lambda: (descriptors[:, i : i + 4096].astype(np.float64) for i in range(0, d, 4096))
    products = sum(block @ block.T for block in blocks())
    # Duplicate images make it singular; adding this is as if 1 / 2C were larger by as much.
    products.flat[:: n + 1] += 1e-8 * products.max()
    triangle = scipy.linalg.cholesky(products, lower=True)

    def onto(weights: np.ndarray) -> np.ndarray:
        of_images = scipy.linalg.solve_triangular(triangle, weights, trans="T", lower=True)
        return np.concatenate([block.T @ of_images for block in blocks()])

    return triangle, onto
