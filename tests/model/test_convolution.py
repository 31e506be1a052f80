"""The convolution against a direct one in float64 NumPy, with its gradients, and its choices by shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vgg_jax import ConfigError
from vgg_jax.model import convolution as module
from vgg_jax.model import winograd
from vgg_jax.model.convolution import add_bias, convolution
from vgg_jax.model.layers import Conv
from vgg_jax.model.space_to_depth import space_to_depth_convolution

TOLERANCE = 1e-5  # of the largest value


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """The choices of the CPU, whatever the backend that the tests run on."""
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")


@pytest.fixture
def tiled(monkeypatch):
    """The shapes that went through Winograd's tiles, forward or as a gradient."""
    shapes = []
    original = winograd._input_tiles

    def record(x):
        shapes.append(x.shape)
        return original(x)

    monkeypatch.setattr(winograd, "_input_tiles", record)
    return shapes


def direct(x, kernel, bias, dy, padding):
    """The convolution and the gradients of sum(y * dy), tap by tap in float64."""
    x, kernel, bias, dy = (np.asarray(array, np.float64) for array in (x, kernel, bias, dy))
    rows, columns = kernel.shape[:2]
    top, left = ((rows - 1) // 2, (columns - 1) // 2) if padding == "SAME" else (0, 0)
    bottom, right = (rows - 1 - top, columns - 1 - left) if padding == "SAME" else (0, 0)
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    y, dx, dkernel = np.zeros(dy.shape) + bias, np.zeros(padded.shape), np.zeros(kernel.shape)
    h, w = dy.shape[1:3]
    for i, j in np.ndindex(rows, columns):
        window = np.s_[:, i : i + h, j : j + w]
        y += padded[window] @ kernel[i, j]
        dx[window] += dy @ kernel[i, j].T
        dkernel[i, j] = np.tensordot(padded[window], dy, ((0, 1, 2), (0, 1, 2)))
    dx = dx[:, top : padded.shape[1] - bottom, left : padded.shape[2] - right]
    return y, dx, dkernel, dy.sum((0, 1, 2))


def arrays(h, w, c, k, size, padding, n=2):
    """Maps, kernel, bias and the gradient of the result."""
    rng = np.random.default_rng(h * 1000003 + w * 10007 + c * 101 + k * 7 + size)
    out = (h, w) if padding == "SAME" else (h - size + 1, w - size + 1)
    shapes = (n, h, w, c), (size, size, c, k), (k,), (n, *out, k)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def forward_and_gradients(padding, conv="auto"):
    def both(x, kernel, bias, dy):
        y, pullback = jax.vjp(lambda *inputs: convolution(*inputs, padding, conv), x, kernel, bias)
        return y, *pullback(dy)

    return both


def assert_close(actual, expected, tolerance=TOLERANCE):
    for name, a, b in zip(("y", "dx", "dkernel", "dbias"), actual, expected, strict=True):
        assert a.shape == b.shape, name
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(), err_msg=name)


CHANNELS = [(3, 64), (5, 3), (64, 64), (128, 128), (128, 256), (256, 128)]
MAPS = [(1, 1), (2, 2), (7, 7), (5, 8), (12, 6)]


@pytest.mark.parametrize(
    "size, c, k, h, w",
    [(3, *channels, *sides) for channels in CHANNELS for sides in MAPS]  # of which some go by tiles
    + [(size, *channels, *sides) for size in (1, 5, 7) for channels in CHANNELS[1::2] for sides in MAPS[::3]],
)
def test_same_convolution_and_gradients_match_the_direct_ones(size, c, k, h, w):
    data = arrays(h, w, c, k, size, "SAME")
    assert_close(jax.jit(forward_and_gradients("SAME"))(*data), direct(*data, "SAME"))


@pytest.mark.parametrize("c, k", [(3, 5), (64, 128)])
@pytest.mark.parametrize("h, w, size", [(7, 7, 7), (9, 8, 7), (2, 2, 2), (1, 1, 1), (4, 5, 1), (6, 5, 3)])
def test_valid_convolution_and_gradients_match_the_direct_ones(h, w, size, c, k):
    data = arrays(h, w, c, k, size, "VALID")
    assert_close(jax.jit(forward_and_gradients("VALID"))(*data), direct(*data, "VALID"))


@pytest.mark.parametrize("conv", ["auto", "winograd"])
@pytest.mark.parametrize("c, k", [(128, 128), (128, 256), (256, 128)])
def test_3x3_float32_on_the_cpu_goes_by_tiles(tiled, c, k, conv):
    data = arrays(3, 4, c, k, 3, "SAME")
    assert_close(jax.jit(forward_and_gradients("SAME", conv))(*data), direct(*data, "SAME"))
    x, _, _, dy = data
    assert tiled == [x.shape, dy.shape, x.shape]  # forward, the input's gradient and the kernel's


def test_tiles_can_be_asked_for_on_any_backend_and_in_any_dtype(tiled, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    data = [jnp.asarray(array, jnp.bfloat16) for array in arrays(3, 4, 128, 128, 3, "SAME")]
    actual = jax.jit(forward_and_gradients("SAME", "winograd"))(*data)
    assert len(tiled) == 3 and {array.dtype for array in actual} == {jnp.dtype(jnp.bfloat16)}
    assert_close([np.float64(array) for array in actual], direct(*data, "SAME"), tolerance=0.01)


@pytest.mark.parametrize(
    "change",
    [
        {"c": 3},
        {"k": 127},
        {"size": 5},
        {"padding": "VALID"},
        {"dtype": jnp.bfloat16},
        {"backend": "gpu"},
        {"conv": "lax"},
    ],
    ids=str,
)
def test_all_else_is_left_to_lax(tiled, monkeypatch, change):
    monkeypatch.setattr(jax, "default_backend", lambda: change.get("backend", "cpu"))
    padding = change.get("padding", "SAME")
    x, kernel, bias, _ = arrays(6, 6, change.get("c", 128), change.get("k", 128), change.get("size", 3), padding)
    x, kernel, bias = (jnp.asarray(array, change.get("dtype")) for array in (x, kernel, bias))
    actual = convolution(x, kernel, bias, padding, change.get("conv", "auto"))
    expected = lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias
    assert not tiled and actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("conv", ["auto", "lax"])
@pytest.mark.parametrize("h, w, size", [(7, 7, 7), (6, 4, 1)])
def test_covering_and_1x1_kernels_are_matrix_products(h, w, size, conv):
    inputs = arrays(h, w, 16, 8, size, "VALID")[:3]
    program = str(jax.make_jaxpr(lambda *inputs: convolution(*inputs, "VALID", conv))(*inputs))
    assert "dot_general" in program and "conv_general_dilated" not in program


@pytest.mark.parametrize("change", [{"backend": "gpu"}, {"dtype": jnp.bfloat16}, {"conv": "lax"}], ids=str)
@pytest.mark.parametrize("size", [1, 3])
def test_elsewhere_all_gradients_are_jaxs(monkeypatch, change, size):
    monkeypatch.setattr(jax, "default_backend", lambda: change.get("backend", "cpu"))
    inputs = [jnp.asarray(a, change.get("dtype")) for a in arrays(3, 3, 128, 128, size, "SAME")[:3]]
    convolve = lambda *inputs: convolution(*inputs, "SAME", change.get("conv", "auto"))
    assert "custom_vjp" not in str(jax.make_jaxpr(convolve)(*inputs))


@pytest.mark.parametrize("size, padding", [(3, "SAME"), (1, "SAME"), (4, "VALID")])
def test_forward_mode_passes_by_lax(size, padding):
    """The tangent of the product rule, each term a direct convolution in float64."""
    data = arrays(4, 4, 128, 128, size, padding)
    primals, tangents = data[:3], [np.roll(array, 1) for array in data[:3]]
    convolve = jax.jit(lambda *inputs: convolution(*inputs, padding, "lax"))
    y, tangent = jax.jvp(convolve, primals, tangents)
    (x, kernel, bias), (dx, dkernel, dbias) = primals, tangents
    of = lambda x, kernel, bias: direct(x, kernel, bias, data[3], padding)[0]
    np.testing.assert_allclose(y, of(x, kernel, bias), rtol=0, atol=TOLERANCE * np.abs(y).max())
    expected = of(dx, kernel, 0 * bias) + of(x, dkernel, dbias)
    np.testing.assert_allclose(tangent, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("c, k", [(3, 5), (3, 64), (1, 2)])
@pytest.mark.parametrize("h, w", [(1, 8), (2, 16), (5, 24)])
def test_space_to_depth_and_gradients_match_the_direct_ones(h, w, c, k):
    def both(x, kernel, bias, dy):
        y, pullback = jax.vjp(space_to_depth_convolution, x, kernel, bias)
        return y, *pullback(dy)

    data = arrays(h, w, c, k, 3, "SAME")
    assert_close(jax.jit(both)(*data), direct(*data, "SAME"))


def test_forward_mode_passes_by_space_to_depth():
    data = arrays(3, 16, 3, 4, 3, "SAME")
    primals, tangents = data[:3], [np.roll(array, 1) for array in data[:3]]
    tangent = jax.jvp(jax.jit(space_to_depth_convolution), primals, tangents)[1]
    (x, kernel, bias), (dx, dkernel, dbias) = primals, tangents
    of = lambda x, kernel, bias: direct(x, kernel, bias, data[3], "SAME")[0]
    expected = of(dx, kernel, 0 * bias) + of(x, dkernel, dbias)
    np.testing.assert_allclose(tangent, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize(
    "change, grouped",
    [
        ({}, True),
        ({"platform": "cpu"}, False),
        ({"platform": "tpu"}, False),
        ({"dtype": jnp.float32}, False),
        ({"w": 20}, False),
        ({"c": 16}, False),
        ({"padding": "VALID"}, False),
    ],
    ids=str,
)
def test_a_gpus_first_convolution_in_bfloat16_is_after_space_to_depth(monkeypatch, change, grouped):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    padding = change.get("padding", "SAME")
    data = arrays(4, change.get("w", 16), change.get("c", 3), 64, 3, padding)[:3]
    inputs = [jax.ShapeDtypeStruct(array.shape, change.get("dtype", jnp.bfloat16)) for array in data]
    convolve = jax.jit(lambda *inputs: convolution(*inputs, padding, "auto"))
    program = export.export(convolve, platforms=[change.get("platform", "cuda")])(*inputs).mlir_module()
    assert program.count("stablehlo.convolution") == 1
    assert ("3x3x24x512xbf16" in program) == grouped


def test_symbolic_sizes_are_left_to_lax(tiled):
    kernel, bias = (jnp.asarray(array) for array in arrays(6, 6, 128, 128, 3, "SAME")[1:3])
    shape = jax.ShapeDtypeStruct(export.symbolic_shape("n, h, w, 128"), jnp.float32)
    program = lambda conv: export.export(jax.jit(lambda x: convolution(x, kernel, bias, "SAME", conv)))(shape)
    assert "custom_vjp" not in program("auto").mlir_module() and not tiled
    with pytest.raises(ConfigError, match="conv='winograd' needs sizes that are numbers.*net.conv = 'lax'"):
        program("winograd")


def test_one_image_of_a_batch_is_computed_as_alone():
    x, *others, _ = arrays(6, 6, 128, 128, 3, "SAME", n=4)
    by_tiles = jax.jit(lambda images: convolution(images, *others, "SAME", "winograd"))
    together, alone = by_tiles(x), by_tiles(x[2:3])
    np.testing.assert_allclose(together[2:3], alone, rtol=0, atol=TOLERANCE * np.abs(alone).max())


@pytest.mark.parametrize("size", [1, 3])
def test_second_derivatives_are_those_of_lax(size):
    *inputs, dy = arrays(5, 4, 128, 128, size, "SAME")

    def second(conv):
        energy = lambda *inputs: jnp.sum(dy * convolution(*inputs, "SAME", conv) ** 2)
        slope = lambda *inputs: sum(jnp.sum(g**2) for g in jax.grad(energy, argnums=(0, 1, 2))(*inputs))
        return jax.jit(jax.grad(slope, argnums=(0, 1, 2)))(*inputs)

    for actual, expected in zip(second("winograd"), second("lax"), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def test_a_batch_over_devices_moves_no_activations():
    devices = jax.devices()
    assert len(devices) == 8  # tests/conftest.py
    mesh = Mesh(np.array(devices), ("batch",))
    data = arrays(4, 5, 128, 128, 3, "SAME", n=2 * len(devices))
    spread, everywhere = (NamedSharding(mesh, spec) for spec in (PartitionSpec("batch"), PartitionSpec()))
    places = spread, everywhere, everywhere, spread
    compiled = (
        jax.jit(
            forward_and_gradients("SAME", "winograd"),
            in_shardings=places,
            out_shardings=(spread, spread, everywhere, everywhere),
        )
        .lower(*data)
        .compile()
    )
    program = compiled.as_text()
    assert "all-reduce" in program  # of the kernel's gradient
    assert not any(word in program for word in ("all-gather", "all-to-all", "collective-permute"))
    assert_close(compiled(*map(jax.device_put, data, places)), direct(*data, "SAME"))


@pytest.mark.parametrize("shape", [(2, 7, 7, 5), (3, 6, 4, 130)])
def test_the_bias_and_its_gradient(shape):
    rng = np.random.default_rng(sum(shape))
    y, bias, dy = (rng.standard_normal(size).astype(np.float32) for size in (shape, shape[-1:], shape))
    actual, pullback = jax.vjp(jax.jit(add_bias), y, bias)
    np.testing.assert_array_equal(actual, y + bias)
    dy_back, dbias = pullback(dy)
    np.testing.assert_array_equal(dy_back, dy)
    np.testing.assert_allclose(dbias, np.asarray(dy, np.float64).sum((0, 1, 2)), rtol=0, atol=1e-4)


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
