"""The SVM's objective minimized by scikit-learn's liblinear, on all cores (App. B)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vgg_jax.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

STEPS = 10_000
"""Passes over the images at most; scikit-learn warns if they were too few."""
MOST = 2**31 - 1
"""Numbers that are not zero in the descriptors of all images."""
ALONE = 2e8
"""Numbers in the descriptors times fits, up to which one process is faster: starting others takes seconds."""


def solve(
    descriptors: Float[np.ndarray, "n d"], signs: Int[np.ndarray, "n classes"], grid: Sequence[float], seed: int = 0
) -> tuple[Float[np.ndarray, "C d classes"], Float[np.ndarray, "C classes"]]:
    """Weights and intercepts of all classes for every C.

    Processes, not threads: liblinear releases Python's lock, but its threads would share one stream of random numbers,
    and the weights would differ from run to run within `tol`.

    Args:
      descriptors: of the training images.
      signs: 1 for an image of the class, -1 for another, 0 for one that is left out.
      grid: the values of C.
      seed: of the order in which the images are visited.

    Memory: 12 bytes for every number that is not zero, and in every process 16 more.

    Raises:
      ConfigError: there are more numbers than liblinear can count.
    """
    import joblib
    import scipy.sparse

    count = np.count_nonzero(descriptors)
    if count > MOST:
        raise ConfigError(
            f"{len(descriptors):,} descriptors have {count:,} numbers that are not zero, liblinear takes {MOST:,}: the "
            "solver 'device' takes more"
        )
    rows = scipy.sparse.csr_array(descriptors.astype(np.float64))  # liblinear's own form: it copies it for every fit
    tasks = [(C, column) for C in grid for column in signs.T]
    workers = -1 if count * len(tasks) > ALONE else 1
    fits = joblib.Parallel(workers)(joblib.delayed(_fit)(rows, column, C, seed) for C, column in tasks)
    w = np.reshape(np.stack(fits), (len(grid), signs.shape[1], -1))
    return w[..., :-1].swapaxes(1, 2), w[..., -1]


def _fit(rows, signs: np.ndarray, C: float, seed: int) -> np.ndarray:
    """The weights of one class and, last, its intercept."""
    from sklearn.svm import LinearSVC

    kept = signs != 0
    if not kept.all():
        rows, signs = rows[kept], signs[kept]
    # Of the two ways to this minimum the dual one is the quicker by half where images are as many as dimensions.
    fit = LinearSVC(C=C, loss="squared_hinge", dual=True, max_iter=STEPS, random_state=seed).fit(rows, signs)
    return np.append(fit.coef_[0], fit.intercept_)
