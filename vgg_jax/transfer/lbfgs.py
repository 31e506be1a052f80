"""The SVM's objective minimized on the device, for all classes and all C at once (App. B)."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from vgg_jax import compiler

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Where it stops: the length of the gradient."""
STEPS = 1000
"""At most."""


def solve(
    descriptors: Float[np.ndarray, "n d"], signs: Int[np.ndarray, "n classes"], grid: Sequence[float], seed: int = 0
) -> tuple[Float[np.ndarray, "C d classes"], Float[np.ndarray, "C classes"]]:
    C, classes = np.meshgrid(np.asarray(grid, np.float32), np.arange(signs.shape[1]), indexing="ij")
    w, length, steps = _program()(
        jnp.asarray(descriptors, jnp.float32), jnp.asarray(signs.T[classes.ravel()], jnp.float32), C.ravel()
    )
    length = np.asarray(length).reshape(C.shape)
    print(length.max(1), np.asarray(steps).reshape(C.shape).max(1))
    w = np.asarray(w).reshape(*C.shape, -1)
    return w[..., :-1].swapaxes(1, 2), w[..., -1]


@functools.cache
def _program():
    return compiler.jit(jax.vmap(_minimize, (None, 0, 0)))


def _minimize(x, signs, C):
    solver = optax.lbfgs()

    def objective(w):
        decisions = jnp.matmul(x, w[:-1], precision="highest") + w[-1]
        slack = jnp.abs(signs) * jnp.maximum(0, 1 - signs * decisions)
        return 0.5 * w @ w + C * slack @ slack

    value_and_grad = optax.value_and_grad_from_state(objective)

    def step(carry):
        w, state, _, k = carry
        value, grad = value_and_grad(w, state=state)
        updates, state = solver.update(grad, state, w, value=value, grad=grad, value_fn=objective)
        w = optax.apply_updates(w, updates)
        return w, state, jnp.linalg.norm(optax.tree_utils.tree_get(state, "grad")), k + 1

    w = jnp.zeros(x.shape[1] + 1)
    start = w, solver.init(w), jnp.inf, 0
    w, _, length, k = jax.lax.while_loop(lambda carry: (carry[2] > TOLERANCE) & (carry[3] < STEPS), step, start)
    return w, length, k
