import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from tests.oracles import lrn_loop
from vgg_jax.model.layers import dropout, local_response_normalization, rectified_max_pool, relu


def test_lrn_is_krizhevskys_formula(rng):
    # Activations large enough that the sum matters: alpha * sum is about k.
    activations = rng.normal(0, 100, (2, 3, 3, 17))
    normalized = local_response_normalization(jnp.asarray(activations, jnp.float32))
    np.testing.assert_allclose(normalized, lrn_loop(activations), rtol=2e-6)
    assert np.abs(normalized / activations - 2**-0.75).max() > 0.1  # the sum is not negligible


def test_lrn_with_fewer_channels_than_its_window(rng):
    activations = rng.normal(0, 100, (1, 2, 2, 3))
    normalized = local_response_normalization(jnp.asarray(activations, jnp.float32))
    np.testing.assert_allclose(normalized, lrn_loop(activations), rtol=2e-6)


def pooled(x):
    """Max-pooling window by window in float64: the result, and in each window the place of its first maximum."""
    n, h, w, c = x.shape
    y, first = np.empty((n, h // 2, w // 2, c)), np.zeros(x.shape, bool)
    for image, row, column, channel in np.ndindex(y.shape):
        window = np.s_[image, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2, channel]
        y[image, row, column, channel] = x[window].max()
        first[window][np.unravel_index(x[window].argmax(), (2, 2))] = True
    return y, first


@pytest.mark.parametrize("platform", ["default", "tpu"])
@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (2, 7, 5, 3), (1, 2, 2, 1), (1, 3, 2, 1)])
@pytest.mark.parametrize("values", [2, 4, 1000], ids=["many ties", "some ties", "few ties"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rectified_max_pool_and_its_gradient_go_to_the_first_maximum_of_each_window(
    platform, shape, values, dtype, rng, monkeypatch
):
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *given, **forms: forms[platform](*given))
    x = jnp.asarray(rng.integers(-values // 2, values, shape) / 4, dtype)  # some windows have no positive pixel
    expected, first = pooled(np.maximum(np.float64(x), 0))
    winners = first & (np.float64(x) > 0)
    dy, dx = (jnp.asarray(rng.normal(size=size), dtype) for size in (expected.shape, shape))
    actual, pullback = jax.vjp(rectified_max_pool, x)
    np.testing.assert_array_equal(actual, expected)
    odd = [(0, 0), (0, shape[1] % 2), (0, shape[2] % 2), (0, 0)]
    everywhere = np.pad(np.float32(dy).repeat(2, 1).repeat(2, 2), odd)
    np.testing.assert_array_equal(np.float32(pullback(dy)[0]), np.where(winners, everywhere, 0))
    tangent = np.float32(jax.jvp(rectified_max_pool, (x,), (dx,))[1])
    np.testing.assert_array_equal(np.pad(tangent.repeat(2, 1).repeat(2, 2), odd)[winners], np.float32(dx)[winners])
    np.testing.assert_array_equal(tangent[expected == 0], 0)


def test_rectified_max_pool_is_that_of_the_relu_and_so_is_its_gradient(rng):
    x = jnp.asarray(rng.integers(-3, 3, (4, 6, 8, 5)), jnp.float32)  # windows without a positive pixel, and ties
    expected, first = pooled(np.maximum(x, 0))
    dy = rng.normal(size=expected.shape).astype(np.float32)
    actual, pullback = jax.vjp(lambda x: rectified_max_pool(relu(x)), x)
    np.testing.assert_array_equal(actual, expected)
    everywhere = np.where(first & (np.asarray(x) > 0), dy.repeat(2, 1).repeat(2, 2), 0)
    np.testing.assert_array_equal(pullback(dy)[0], everywhere)


def test_rectified_max_pool_keeps_nan():
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 1, 2, 0] = np.nan
    np.testing.assert_array_equal(np.isnan(rectified_max_pool(x))[0, :, :, 0], [[False, True], [False, False]])


def test_rectified_max_pool_and_its_gradient_take_symbolic_sizes(rng):
    shape = jax.ShapeDtypeStruct(export.symbolic_shape("n, h, w, 3"), jnp.float32)
    exported = export.deserialize(export.export(jax.jit(rectified_max_pool))(shape).serialize(vjp_order=1))
    x = rng.integers(0, 3, (2, 7, 6, 3)).astype(np.float32)
    np.testing.assert_array_equal(exported.call(x), rectified_max_pool(x))
    gradient = lambda pool: jax.grad(lambda x: (pool(x) ** 2).sum())(x)
    np.testing.assert_array_equal(gradient(exported.call), gradient(rectified_max_pool))


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
