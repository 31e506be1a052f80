import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracles import reference
from vgg_jax import CheckpointError, ConfigError
from vgg_jax.model import perceptual

STYLE = ("relu1_1", "relu2_2", "relu3_1")
LPIPS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")


@pytest.fixture
def net(tiny_net, rng):
    """Net D with biases that matter; the images below are smaller than its crop."""
    net = tiny_net("D", width=0.03)
    for name in net.spec.convolutions:
        bias = getattr(net, name).bias
        bias[...] = jnp.asarray(0.1 * rng.normal(size=bias.shape), jnp.float32)
    return net


@pytest.fixture
def images(rng):
    """Two batches of two images of 19 x 22 pixels."""
    return rng.uniform(0, 255, (2, 2, 19, 22, 3)).astype(np.float32)


@pytest.fixture
def linear(net, rng):
    weights = {layer: rng.random(getattr(net, layer.replace("relu", "conv")).out_features) for layer in LPIPS}
    return {layer: jnp.asarray(row, jnp.float32) for layer, row in weights.items()}


@pytest.fixture
def distances(net, linear):
    """Each distance beside its definition, in float64 NumPy; both take two batches of images."""

    def content(a, b):
        return np.mean((reference(net, a)["relu3_2"] - reference(net, b)["relu3_2"]) ** 2, axis=(1, 2, 3))

    def style(a, b):
        total = 0
        for layer in STYLE:
            grams = []
            for x in (reference(net, a)[layer], reference(net, b)[layer]):
                grams.append(np.einsum("nhwc,nhwk->nck", x, x) / (x.shape[1] * x.shape[2] * x.shape[3]))
            total = total + ((grams[0] - grams[1]) ** 2).sum((1, 2))
        return total

    def lpips(a, b):
        total = 0
        for layer in LPIPS:
            x, y = (reference(net, images)[layer] for images in (a, b))
            x, y = (each / (np.sqrt((each**2).sum(-1, keepdims=True)) + 1e-10) for each in (x, y))
            total = total + ((x - y) ** 2 * np.float64(linear[layer])).sum(-1).mean((1, 2))
        return total

    return {
        "content": (jax.jit(lambda a, b: perceptual.content_distance(net, a, b, "relu3_2")), content),
        "style": (jax.jit(lambda a, b: perceptual.style_distance(net, a, b, STYLE)), style),
        "lpips": (jax.jit(lambda a, b: perceptual.lpips(net, linear, a, b)), lpips),
    }


@pytest.mark.parametrize("name", ["content", "style", "lpips"])
def test_a_distance_is_its_definition(name, distances, images):
    distance, definition = distances[name]
    expected = definition(*images)
    assert expected.shape == (2,) and (expected > 1e-4).all()
    np.testing.assert_allclose(distance(*images), expected, rtol=1e-5)
    np.testing.assert_allclose(distance(*images[::-1]), expected, rtol=1e-5)  # symmetric
    np.testing.assert_allclose(distance(images[0], images[1, :1]), definition(images[0], images[1, :1]), rtol=1e-5)
    # XLA may fuse the two sides of a distance differently: zero but for rounding.
    assert (distance(images[0], images[0]) < 1e-10 * expected).all()


@pytest.mark.parametrize("name", ["content", "style", "lpips"])
def test_the_gradient_is_the_definitions_slope(name, distances, images, rng):
    distance, definition = distances[name]
    gradient = jax.grad(lambda a, b: distance(a, b).sum())
    a, b, direction = np.float64(images[0]), images[1], rng.normal(size=images[0].shape)
    slope = (definition(a + 1e-5 * direction, b) - definition(a - 1e-5 * direction, b)).sum() / 2e-5
    np.testing.assert_allclose((gradient(*images) * direction).sum(), slope, rtol=1e-3)
    assert np.abs(gradient(b, b)).max() < 1e-6 * np.abs(gradient(*images)).max()  # at the minimum, and no NaN


def test_lpips_has_a_gradient_where_activations_are_zero(tiny_net, linear, images):
    net = tiny_net("D", width=0.03)  # no biases: an image of the mean color is zero all through
    mean = np.broadcast_to(np.asarray(net.mean_rgb[...]), images[0].shape)
    gradient = jax.jit(jax.grad(lambda a, b: perceptual.lpips(net, linear, a, b).sum(), argnums=(0, 1)))
    for part in gradient(mean, images[0]):
        assert np.isfinite(part).all()
    assert np.any(gradient(mean, images[0])[1])


def test_style_compares_images_of_several_sizes(net, distances, images, rng):
    _, definition = distances["style"]
    other = rng.integers(0, 256, (1, 13, 16, 3), np.uint8)
    found = perceptual.style_distance(net, images[0], other, STYLE)
    np.testing.assert_allclose(found, definition(images[0], other), rtol=1e-5)


def test_descent_on_style_reduces_it(net, images):
    total = lambda a, net, b: perceptual.style_distance(net, a, b, STYLE).sum()
    loss_and_gradient = jax.jit(jax.value_and_grad(total))
    image, losses = images[0], []
    for _ in range(5):
        loss, gradient = loss_and_gradient(image, net, images[1])
        image = image - 2 * gradient / jnp.abs(gradient).max()
        losses.append(float(loss))
    assert (np.diff(losses) < 0).all() and losses[-1] < 0.7 * losses[0], losses


def test_gram_is_the_float64_sum(rng):
    x = rng.normal(size=(2, 5, 7, 3)).astype(np.float32)
    expected = np.einsum("nhwc,nhwk->nck", np.float64(x), np.float64(x)) / (5 * 7 * 3)
    np.testing.assert_allclose(perceptual.gram(x), expected, atol=1e-6)
    assert perceptual.gram(x.astype(jnp.bfloat16)).dtype == jnp.float32


def test_what_cannot_be_compared_is_refused(net, linear, images):
    three = np.zeros((3, 19, 22, 3))
    with pytest.raises(ConfigError, match="2 images cannot be paired with 3"):
        perceptual.style_distance(net, images[0], three)
    with pytest.raises(ConfigError, match="compares images of one size"):
        perceptual.content_distance(net, images[0], images[1, :, :18])
    with pytest.raises(ConfigError, match="no activation 'relu3_4' in net D"):
        perceptual.content_distance(net, *images, "relu3_4")
    with pytest.raises(ConfigError, match=r"linear weights for relu4_3 of shape \(3,\): it has 15 channels"):
        perceptual.lpips(net, linear | {"relu4_3": jnp.ones(3)}, *images)
    with pytest.raises(ConfigError, match=r"an activation of shape \(2, 3\): expected \(n, h, w, channels\)"):
        perceptual.gram(np.zeros((2, 3)))


def test_lpips_weights_are_read_from_npz(linear, tmp_path):
    np.savez(tmp_path / "lpips.npz", **linear)
    read = perceptual.read_lpips_linear(tmp_path / "lpips.npz")
    assert list(read) == list(linear)
    for layer, weights in linear.items():
        np.testing.assert_array_equal(read[layer], weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relu6_1": np.ones(3, np.float32)}, "expected LPIPS weights for relu1_2, .*; found .*relu6_1"),
        ({"relu2_2": np.float32([1, -1e-3])}, "the weights for relu2_2 are not one finite number >= 0"),
        ({"relu2_2": np.float32([1, np.nan])}, "the weights for relu2_2 are not"),
        ({"relu2_2": np.ones((2, 2), np.float32)}, "the weights for relu2_2 are not"),
        ({"relu2_2": np.array(["a"])}, "the weights for relu2_2 are not"),
        ({"relu2_2": np.array([print], object)}, "not a readable file of LPIPS weights: .*allow_pickle=False"),
    ],
)
def test_bad_lpips_weights_are_refused(change, message, linear, tmp_path):
    np.savez(tmp_path / "lpips.npz", **(linear | change))
    with pytest.raises(CheckpointError, match=f"lpips.npz: {message}"):
        perceptual.read_lpips_linear(tmp_path / "lpips.npz")


def test_a_file_that_is_none_is_refused(linear, tmp_path):
    with pytest.raises(CheckpointError, match="absent.npz: not a readable file"):
        perceptual.read_lpips_linear(tmp_path / "absent.npz")
    np.savez(tmp_path / "whole.npz", **linear)
    whole = (tmp_path / "whole.npz").read_bytes()
    np.save(tmp_path / "array.npy", np.ones(3))
    for content in (b"", b"noise", whole[:300], whole[:-30], (tmp_path / "array.npy").read_bytes()):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(CheckpointError, match="bad.npz: not a readable file"):
            perceptual.read_lpips_linear(tmp_path / "bad.npz")
