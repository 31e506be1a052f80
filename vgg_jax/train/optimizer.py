"""Krizhevsky's momentum (Sec. 3.1)."""

from __future__ import annotations

import jax
import optax


def krizhevsky_momentum(momentum: float = 0.9, weight_decay: float = 5e-4) -> optax.GradientTransformationExtraArgs:
    r"""Stochastic gradient descent with the learning rate inside the momentum (Krizhevsky et al. 2012, Sec. 5).

    .. math:: v \leftarrow m v - \epsilon (g + \lambda w), \quad w \leftarrow w + v

    The common form keeps the rate outside (v <- m v + g, w <- w - rate v). They agree while the rate is constant; when
    it drops by 10, here the velocity gathered at the old rate runs out over the next steps, there it shrinks at once.

    Only kernels are decayed. Biases and the scales and shifts of batch normalization are not: the L2 penalty is meant
    for weights, and the released Caffe models set the biases' decay to 0.

    Args:
      momentum: m, 0.9 in the paper.
      weight_decay: lambda, 5e-4 in the paper.

    Returns:
      A transformation whose `update` takes the learning rate as `rate`, so that a controller on the host may set it.

    >>> import jax.numpy as jnp
    >>> update = krizhevsky_momentum(0.9, 0.0)
    >>> params = {"kernel": jnp.array([1.0])}
    >>> velocity = update.init(params)
    >>> step, velocity = update.update({"kernel": jnp.array([2.0])}, velocity, params, rate=0.1)
    >>> step["kernel"].item()
    -0.20000000298023224
    """

    def scale(updates, state, params=None, *, rate, **_):
        del params
        return jax.tree.map(lambda update: -rate * update, updates), state

    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=decayed),
        optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), scale),
        optax.trace(decay=momentum),
    )


def decayed(params) -> object:
    """Which parameters weight decay is for: a tree of booleans, True on kernels."""
    return jax.tree.map_with_path(lambda path, _: "kernel" in jax.tree_util.keystr(path[-2:]), params)
