import jax.numpy as jnp
import numpy as np
import optax

from vgg_jax.train.optimizer import decayed, krizhevsky_momentum


def test_the_update_is_krizhevskys_when_the_rate_drops(rng):
    """v <- 0.9 v - lr (g + 5e-4 w), w <- w + v, in float64; the rate falls in the middle of the momentum."""
    optimizer = krizhevsky_momentum(0.9, 5e-4)
    w = rng.normal(size=(3, 3, 2, 4))
    b = rng.normal(size=4)
    params = {"conv1_1": {"kernel": jnp.asarray(w, jnp.float32), "bias": jnp.asarray(b, jnp.float32)}}
    state = optimizer.init(params)
    v, u = np.zeros_like(w), np.zeros_like(b)
    common_v, common_w = np.zeros_like(w), w.copy()
    for step in range(12):
        rate = 0.1 if step < 6 else 0.01
        g, h = rng.normal(size=w.shape), rng.normal(size=b.shape)
        gradients = {"conv1_1": {"kernel": jnp.asarray(g, jnp.float32), "bias": jnp.asarray(h, jnp.float32)}}
        updates, state = optimizer.update(gradients, state, params, rate=jnp.float32(rate))
        params = optax.apply_updates(params, updates)
        v = 0.9 * v - rate * (g + 5e-4 * w)
        w = w + v
        u = 0.9 * u - rate * h  # a bias is not decayed
        b = b + u
        common_v = 0.9 * common_v + g + 5e-4 * common_w
        common_w = common_w - rate * common_v
    np.testing.assert_allclose(params["conv1_1"]["kernel"], w, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(params["conv1_1"]["bias"], b, rtol=2e-5, atol=1e-6)
    assert np.abs(common_w - w).max() > 0.1  # the common form ends elsewhere


def test_kernels_are_decayed_and_nothing_else():
    params = {"conv1_1": {"kernel": 1.0, "bias": 1.0}, "bn1_1": {"scale": 1.0, "bias": 1.0}}
    assert decayed(params) == {"conv1_1": {"kernel": True, "bias": False}, "bn1_1": {"scale": False, "bias": False}}
