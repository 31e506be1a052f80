import jax
import jax.numpy as jnp
import numpy as np

from vgg_jax.model.convolution import max_pool
from vgg_jax.model.layers import dropout, local_response_normalisation


def lrn_loop(a, size=5, k=2.0, alpha=1e-4, beta=0.75):
    """Krizhevsky et al. 2012, Sec. 3.3, literally, in float64."""
    b, channels = np.empty(a.shape), a.shape[-1]
    for index in np.ndindex(a.shape[:-1]):
        for i in range(channels):
            total = sum(a[index][j] ** 2 for j in range(max(0, i - size // 2), min(channels - 1, i + size // 2) + 1))
            b[index][i] = a[index][i] / (k + alpha * total) ** beta
    return b


def test_lrn_is_krizhevskys_formula(rng):
    # Activations large enough that the sum matters: alpha * sum is about k.
    activations = rng.normal(0, 100, (2, 3, 3, 17))
    normalised = local_response_normalisation(jnp.asarray(activations, jnp.float32))
    np.testing.assert_allclose(normalised, lrn_loop(activations), rtol=2e-6)
    assert np.abs(normalised / activations - 2**-0.75).max() > 0.1  # the sum is not negligible


def test_lrn_with_fewer_channels_than_its_window(rng):
    activations = rng.normal(0, 100, (1, 2, 2, 3))
    normalised = local_response_normalisation(jnp.asarray(activations, jnp.float32))
    np.testing.assert_allclose(normalised, lrn_loop(activations), rtol=2e-6)


def test_max_pool_drops_an_odd_last_row_and_column(rng):
    x = rng.normal(size=(2, 7, 6, 3)).astype(np.float32)
    expected = np.stack([[x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2)) for j in range(3)] for i in range(3)])
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), np.moveaxis(expected, 2, 0))


def test_max_pool_gradient_goes_to_the_largest(rng):
    x = rng.permutation(2 * 6 * 6 * 2).reshape(2, 6, 6, 2).astype(np.float32)
    gradient = jax.grad(lambda x: (max_pool(x) * jnp.arange(1.0, 3.0)).sum())(jnp.asarray(x))
    expected = np.zeros_like(x)
    for n, i, j, c in np.ndindex(2, 3, 3, 2):
        window = x[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        di, dj = np.unravel_index(window.argmax(), (2, 2))
        expected[n, 2 * i + di, 2 * j + dj, c] = c + 1
    np.testing.assert_array_equal(gradient, expected)


def test_dropout_drops_half_and_doubles_the_rest():
    dropped = np.asarray(dropout(jnp.ones((64, 1, 1, 4096)), jax.random.split(jax.random.key(0), 64), 0.5))
    assert set(np.unique(dropped)) == {0.0, 2.0}
    # 262,144 fair coins: five deviations are 0.5 %.
    assert abs((dropped > 0).mean() - 0.5) < 5 * 0.5 / np.sqrt(dropped.size)


def test_dropout_of_an_image_does_not_depend_on_its_batch():
    keys = jax.random.split(jax.random.key(1), 8)
    x = jnp.arange(8 * 32.0).reshape(8, 1, 1, 32) + 1
    whole = dropout(x, keys, 0.5)
    np.testing.assert_array_equal(whole[3:5], dropout(x[3:5], keys[3:5], 0.5))
    assert (np.asarray(whole[0] > 0) != np.asarray(whole[1] > 0)).any()
