"""The SVM's objective minimized on the device, by Newton's method for all classes at once (App. B).

The objective is quadratic except where an image crosses the margin, so a few steps of Newton's method reach the minimum
(Keerthi and DeCoste, 2005). Each is computed by conjugate gradients, which take only products with the descriptors, and
may be cut off anywhere: it still descends. L-BFGS, which must learn the curvature from gradients, takes many times the
steps and at least twice the processor time (docs/speed.md).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg

from vgg_jax import compiler

if TYPE_CHECKING:
    from jaxtyping import Float, Int

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Where it ends: the length of the gradient. The objective curves at least like |w|^2 / 2, so the weights are then no
farther than this from the minimum, and its value no farther than half its square, up to float rounding."""
STEPS = 50
"""Newton steps at most, for each C."""
EXACT = 1e-3
"""What a Newton step may leave of its quadratic model's gradient: less exact steps mean more steps, and more time."""
PRODUCTS = 200
"""Products of conjugate gradients at most, for each step."""


def solve(
    descriptors: Float[np.ndarray, "n d"], signs: Int[np.ndarray, "n classes"], grid: Sequence[float], seed: int = 0
) -> tuple[Float[np.ndarray, "C d classes"], Float[np.ndarray, "C classes"]]:
    """Weights and intercepts of all classes for every C, in float32: like `liblinear.solve`, but nothing is random.

    Each C starts from the minimum of the one before; solved together, all would take as many steps as the largest.

    Memory: the descriptors, and some ten numbers for every weight and for every decision.
    """
    del seed
    x = jnp.pad(jnp.asarray(descriptors, jnp.float32), ((0, 0), (0, 1)), constant_values=1)
    columns = jnp.asarray(signs.T, jnp.float32)
    w, path = jnp.zeros((len(columns), x.shape[1])), []
    for C in grid:
        w, length = _program()(w, x, columns, float(C), STEPS)
        path.append(np.asarray(w))
        if (length > TOLERANCE).any():
            log.warning(
                "C = %g: %d classes have not converged in %d steps: gradients up to %.1e, expected %.0e",
                *(C, (length > TOLERANCE).sum(), STEPS, length.max(), TOLERANCE),
            )
    return np.stack([w.T[:-1] for w in path]), np.stack([w.T[-1] for w in path])


@functools.cache
def _program():
    return compiler.jit(_minimize)


@jax.default_matmul_precision("highest")  # a GPU would round the factors to 10 bits
def _minimize(w, x, signs, C, most):
    """The weights of each class (a row of `signs`), and the lengths of their gradients."""

    def gradient(w, decisions, signs):
        return w - 2 * C * (signs * jnp.maximum(0, 1 - signs * decisions)) @ x

    def newton(w, decisions, grad, signs):
        """A step of one class."""
        within = (signs * decisions < 1) * jnp.abs(signs)  # the images that count, those within the margin
        hessian = lambda v: v + 2 * C * (within * (x @ v)) @ x
        ended = jnp.linalg.norm(grad) <= TOLERANCE
        direction, _ = cg(hessian, jnp.where(ended, 0, -grad), tol=EXACT, maxiter=PRODUCTS)
        change = x @ direction
        rate = jnp.where(ended, 0, _line_search(w, direction, decisions, change, signs, C))
        w, decisions = w + rate * direction, decisions + rate * change
        return w, decisions, gradient(w, decisions, signs)

    def step(carry):
        *of_classes, k = carry
        return *jax.vmap(newton)(*of_classes, signs), k + 1

    def goes_on(carry):
        return (jnp.linalg.norm(carry[2], axis=1) > TOLERANCE).any() & (carry[-1] < most)

    decisions = w @ x.T
    w, _, grad, _ = jax.lax.while_loop(goes_on, step, (w, decisions, gradient(w, decisions, signs), 0))
    return w, jnp.linalg.norm(grad, axis=1)


def _line_search(w, direction, decisions, change, signs, C):
    """The step to the minimum along a direction, by Newton's method within a bracket.

    Decisions change linearly with it, so it takes no product with the descriptors.
    """

    def newton(_, carry):
        t, low, high = carry
        slack = jnp.maximum(0, 1 - signs * (decisions + t * change))
        slope = direction @ (w + t * direction) - 2 * C * (signs * change) @ slack
        curvature = direction @ direction + 2 * C * ((signs * change) ** 2) @ (slack > 0)
        low, high = jnp.where(slope < 0, t, low), jnp.where(slope < 0, high, t)
        t = t - slope / curvature
        return jnp.where((low <= t) & (t <= high), t, (low + jnp.minimum(high, 2 * low + 1)) / 2), low, high

    return jax.lax.fori_loop(0, 10, newton, (1.0, 0.0, jnp.inf))[0]
