"""The convolution against a direct one in float64 NumPy, with its gradients, and its choices by shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vgg_jax.model import convolution as module
from vgg_jax.model.convolution import add_bias, convolution, max_pool
from vgg_jax.model.layers import Conv

TOLERANCE = 1e-5  # of the largest value


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """The choices of the CPU, whatever the backend that the tests run on."""
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")


@pytest.fixture
def tiled(monkeypatch):
    """The shapes that went through Winograd's tiles, forward or as a gradient."""
    shapes = []
    original = module._input_tiles

    def record(x):
        shapes.append(x.shape)
        return original(x)

    monkeypatch.setattr(module, "_input_tiles", record)
    return shapes


def direct(x, kernel, dy, padding):
    """The convolution and the gradients of sum(y * dy), tap by tap in float64."""
    x, kernel, dy = (np.asarray(array, np.float64) for array in (x, kernel, dy))
    rows, columns = kernel.shape[:2]
    top, left = ((rows - 1) // 2, (columns - 1) // 2) if padding == "SAME" else (0, 0)
    bottom, right = (rows - 1 - top, columns - 1 - left) if padding == "SAME" else (0, 0)
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    y, dx, dkernel = np.zeros(dy.shape), np.zeros(padded.shape), np.zeros(kernel.shape)
    h, w = dy.shape[1:3]
    for i, j in np.ndindex(rows, columns):
        window = np.s_[:, i : i + h, j : j + w]
        y += padded[window] @ kernel[i, j]
        dx[window] += dy @ kernel[i, j].T
        dkernel[i, j] = np.tensordot(padded[window], dy, ((0, 1, 2), (0, 1, 2)))
    return y, dx[:, top : padded.shape[1] - bottom, left : padded.shape[2] - right], dkernel


def arrays(h, w, c, k, size, padding, n=2):
    rng = np.random.default_rng(h * 1000003 + w * 10007 + c * 101 + k * 7 + size)
    out = (h, w) if padding == "SAME" else (h - size + 1, w - size + 1)
    shapes = (n, h, w, c), (size, size, c, k), (n, *out, k)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def run(x, kernel, dy, padding, convolve=convolution, **options):
    """The convolution as `flax.nnx.Conv` calls it, and both its gradients, under jit."""

    def forward(x, kernel):
        return convolve(
            x,
            kernel,
            (1, 1),
            padding,
            lhs_dilation=(1, 1),
            rhs_dilation=(1, 1),
            dimension_numbers=lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
            feature_group_count=1,
            precision=None,
            out_sharding=None,
            **options,
        )

    def both(x, kernel, dy):
        y, pullback = jax.vjp(forward, x, kernel)
        return y, *pullback(dy)

    return jax.jit(both)(x, kernel, dy)


def assert_close(actual, expected):
    for name, a, b in zip(("y", "dx", "dkernel"), actual, expected, strict=True):
        assert a.shape == b.shape, name
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * np.abs(b).max(), err_msg=name)


@pytest.mark.parametrize("size", [1, 3, 5, 7])
@pytest.mark.parametrize("c, k", [(3, 64), (5, 3), (64, 64), (128, 128), (128, 256), (256, 128)])
@pytest.mark.parametrize("h, w", [(1, 1), (2, 2), (7, 7), (5, 8), (12, 6)])
def test_same_convolution_and_gradients_match_the_direct_ones(h, w, c, k, size):
    data = arrays(h, w, c, k, size, "SAME")
    assert_close(run(*data, "SAME"), direct(*data, "SAME"))


@pytest.mark.parametrize("c, k", [(3, 5), (64, 128)])
@pytest.mark.parametrize("h, w, size", [(7, 7, 7), (9, 8, 7), (2, 2, 2), (1, 1, 1), (4, 5, 1), (6, 5, 3)])
def test_valid_convolution_and_gradients_match_the_direct_ones(h, w, size, c, k):
    data = arrays(h, w, c, k, size, "VALID")
    assert_close(run(*data, "VALID"), direct(*data, "VALID"))


@pytest.mark.parametrize("c, k", [(128, 128), (128, 256), (256, 128)])
@pytest.mark.parametrize("padding", ["SAME", ((1, 1), (1, 1))])
def test_3x3_float32_on_the_cpu_goes_by_tiles(tiled, c, k, padding):
    x, kernel, dy = arrays(3, 4, c, k, 3, "SAME")
    assert_close(run(x, kernel, dy, padding), direct(x, kernel, dy, "SAME"))
    assert tiled == [x.shape, dy.shape, x.shape]  # forward, the input's gradient and the kernel's


@pytest.mark.parametrize(
    "change",
    [
        {"c": 3},
        {"k": 127},
        {"size": 5},
        {"padding": "VALID"},
        {"padding": ((1, 1), (0, 0))},
        {"padding": ((0, 2), (1, 1))},
        {"dtype": jnp.bfloat16},
        {"backend": "gpu"},
        {"strides": (2, 2)},
        {"rhs_dilation": (2, 2)},
        {"padding": ((1, 1), (1, 1)), "lhs_dilation": (2, 1)},
        {"c": 256, "feature_group_count": 2},
        {"dtype": jnp.float16, "preferred_element_type": jnp.float32},
        {"dimension_numbers": ("NHWC", "OHWI", "NHWC")},
    ],
    ids=str,
)
def test_all_else_is_left_to_lax(tiled, monkeypatch, change):
    change = dict(change)
    backend, dtype = change.pop("backend", "cpu"), change.pop("dtype", None)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    size, c, k = change.pop("size", 3), change.pop("c", 128), change.pop("k", 128)
    strides, padding = change.pop("strides", (1, 1)), change.pop("padding", "SAME")
    x, kernel, _ = arrays(6, 6, c, k, size, "SAME")
    kernel = kernel[:, :, : c // change.get("feature_group_count", 1)]
    if "dimension_numbers" in change:
        kernel = kernel.transpose(3, 0, 1, 2)
    x, kernel = jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)
    options = {"dimension_numbers": module.NHWC, **change}
    actual = convolution(x, kernel, strides, padding, **options)
    expected = lax.conv_general_dilated(x, kernel, strides, padding, **options)
    assert not tiled and actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("h, w, size", [(7, 7, 7), (6, 4, 1)])
def test_covering_and_1x1_kernels_are_matrix_products(h, w, size):
    x, kernel, _ = arrays(h, w, 16, 8, size, "VALID")
    convolve = lambda x, kernel: convolution(x, kernel, (1, 1), "VALID", dimension_numbers=module.NHWC)
    program = str(jax.make_jaxpr(convolve)(x, kernel))
    assert "dot_general" in program and "conv_general_dilated" not in program


def test_one_image_of_a_batch_is_computed_as_alone():
    x, kernel, _ = arrays(6, 6, 128, 128, 3, "SAME", n=4)
    together = convolution(x, kernel, (1, 1), "SAME", dimension_numbers=module.NHWC)
    alone = convolution(x[2:3], kernel, (1, 1), "SAME", dimension_numbers=module.NHWC)
    np.testing.assert_allclose(together[2:3], alone, rtol=0, atol=TOLERANCE * np.abs(alone).max())


def test_second_derivatives_are_those_of_lax():
    x, kernel, dy = arrays(5, 4, 128, 128, 3, "SAME")

    def second(convolve):
        def energy(x, kernel):
            y = convolve(x, kernel, (1, 1), "SAME", dimension_numbers=module.NHWC)
            return jnp.sum(dy * y * y)

        return jax.grad(lambda x, kernel: jnp.sum(jax.grad(energy)(x, kernel) ** 2), argnums=(0, 1))(x, kernel)

    for actual, expected in zip(second(convolution), second(lax.conv_general_dilated)):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def test_a_batch_over_devices_moves_no_activations():
    devices = jax.devices()
    assert len(devices) == 8  # tests/conftest.py
    mesh = Mesh(np.array(devices), ("batch",))
    x, kernel, dy = arrays(4, 5, 128, 128, 3, "SAME", n=2 * len(devices))
    spread, everywhere = (NamedSharding(mesh, spec) for spec in (PartitionSpec("batch"), PartitionSpec()))

    def both(x, kernel, dy):
        convolve = lambda x, w: convolution(x, w, (1, 1), "SAME", dimension_numbers=module.NHWC)
        y, pullback = jax.vjp(convolve, x, kernel)
        return y, *pullback(dy)

    compiled = (
        jax.jit(both, in_shardings=(spread, everywhere, spread), out_shardings=(spread, spread, everywhere))
        .lower(x, kernel, dy)
        .compile()
    )
    program = compiled.as_text()
    assert "all-reduce" in program  # of the kernel's gradient
    assert not any(word in program for word in ("all-gather", "all-to-all", "collective-permute"))
    data = [jax.device_put(array, place) for array, place in zip((x, kernel, dy), (spread, everywhere, spread))]
    assert_close(compiled(*data), direct(x, kernel, dy, "SAME"))


@pytest.mark.parametrize("shape", [(2, 7, 7, 5), (3, 6, 4, 130)])
def test_the_bias_and_its_gradient(shape):
    rng = np.random.default_rng(sum(shape))
    y, bias, dy = (rng.standard_normal(size).astype(np.float32) for size in (shape, shape[-1:], shape))
    actual, pullback = jax.vjp(jax.jit(add_bias), y, bias)
    np.testing.assert_array_equal(actual, y + bias)
    dy_back, dbias = pullback(dy)
    np.testing.assert_array_equal(dy_back, dy)
    np.testing.assert_allclose(dbias, np.asarray(dy, np.float64).sum((0, 1, 2)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("change", [{"backend": "gpu"}, {"dtype": jnp.bfloat16}], ids=str)
def test_elsewhere_bias_and_product_are_those_of_jax(monkeypatch, change):
    monkeypatch.setattr(jax, "default_backend", lambda: change.get("backend", "cpu"))
    x, kernel, _ = (jnp.asarray(a, change.get("dtype")) for a in arrays(3, 3, 8, 8, 1, "VALID"))
    convolve = lambda x, kernel: convolution(x, kernel, (1, 1), "VALID", dimension_numbers=module.NHWC)
    assert "custom_vjp" not in str(
        jax.make_jaxpr(lambda x, kernel: add_bias(convolve(x, kernel), x[0, 0, 0]))(x, kernel)
    )


def test_second_derivatives_of_the_product_are_those_of_jax():
    rng = np.random.default_rng(0)
    x, kernel, dy = (rng.standard_normal(size).astype(np.float32) for size in ((3, 1, 2, 20), (20, 7), (3, 1, 2, 7)))

    def second(multiply):
        energy = lambda x, kernel: jnp.sum(dy * multiply(x, kernel) ** 2)
        return jax.grad(lambda x, kernel: jnp.sum(jax.grad(energy)(x, kernel) ** 2), argnums=(0, 1))(x, kernel)

    for actual, expected in zip(second(module.product), second(jnp.matmul), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_the_layer_is_flaxes(tiled, padding):
    """Its maps, and the gradients of kernel, bias and maps."""
    ours, plain = (layer(128, 128, (3, 3), padding=padding, rngs=nnx.Rngs(0)) for layer in (Conv, nnx.Conv))
    x = np.random.default_rng(0).standard_normal((2, 6, 5, 128)).astype(np.float32)
    loss = lambda layer, x: jnp.sum(jnp.sin(layer(x)))
    np.testing.assert_allclose(ours(x), plain(x), rtol=0, atol=TOLERANCE * 5)
    gradients = [jax.tree.leaves(nnx.grad(loss, argnums=(0, 1))(layer, x)) for layer in (ours, plain)]
    assert len(gradients[0]) == 3
    for actual, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
    assert bool(tiled) == (padding == "SAME")


@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (2, 7, 5, 3), (1, 2, 2, 1), (1, 3, 2, 1)])
def test_max_pool_is_the_greatest_of_each_window(shape):
    x = np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
    reduce = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    actual, pullback = jax.vjp(max_pool, x)
    expected, pullback_expected = jax.vjp(reduce, x)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(*(pull(expected)[0] for pull in (pullback, pullback_expected)))


def test_max_pool_keeps_nan():
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 1, 2, 0] = np.nan
    np.testing.assert_array_equal(np.isnan(max_pool(x))[0, :, :, 0], [[False, True], [False, False]])
