import jax
import numpy as np
import pytest
from flax import nnx

import vgg_jax
from vgg_jax.model.init import grow_from, initializer


def kernels(net):
    return {path[0]: leaf for path, leaf in nnx.to_flat_state(nnx.state(net, nnx.Param)) if path[-1] == "kernel"}


@pytest.mark.parametrize(("scheme", "deviation"), [("paper", 0.1), ("gaussian", 0.01)])
def test_the_gaussians_have_their_deviation(scheme, deviation, tiny_net):
    net = tiny_net("D", init=scheme, width=0.25)
    for name, kernel in kernels(net).items():
        kernel = np.asarray(kernel[...])
        assert abs(kernel.mean()) < 5 * deviation / np.sqrt(kernel.size), name
        assert abs(kernel.std() / deviation - 1) < 5 / np.sqrt(2 * kernel.size), name


def test_glorot_is_uniform_within_its_bound(tiny_net):
    for name, kernel in kernels(tiny_net("D", init="glorot")).items():
        kernel = np.asarray(kernel[...])
        window = np.prod(kernel.shape[:2])
        bound = np.sqrt(6 / (window * (kernel.shape[2] + kernel.shape[3])))
        assert 0.9 * bound < np.abs(kernel).max() <= bound, name


def test_he_keeps_the_scale_but_for_pixels_and_pools(tiny_net):
    for name, kernel in kernels(tiny_net("D", init="he", width=0.5)).items():
        kernel = np.asarray(kernel[...])
        expected = np.sqrt(2 / np.prod(kernel.shape[:3])) / 256 ** (1 / 16)
        assert abs(kernel.std() / expected - 1) < 5 / np.sqrt(2 * kernel.size), name


@pytest.mark.parametrize("scheme", ["paper", "gaussian", "glorot", "he"])
def test_biases_begin_at_zero(scheme, tiny_net):
    for path, leaf in nnx.to_flat_state(nnx.state(tiny_net("A", init=scheme), nnx.Param)):
        if path[-1] == "bias":
            assert not np.any(leaf[...]), path


def test_an_unknown_scheme_is_refused():
    with pytest.raises(vgg_jax.ConfigError, match="no initialization 'kaiming'.*paper, gaussian, glorot, he"):
        initializer("kaiming", 16)


def layers(net):
    return nnx.to_pure_dict(nnx.state(net, nnx.Param))


@pytest.mark.parametrize("deep", ["B", "C", "D", "E"])
def test_growing_from_a_copies_its_first_four_convolutions_and_the_head(deep, tiny_net):
    shallow = layers(tiny_net("A"))
    fresh = layers(vgg_jax.VGG(deep, num_classes=10, crop=32, width=0.0625, rngs=nnx.Rngs(1)))
    params, random = grow_from(fresh, shallow)
    copied = ["conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8"]
    assert list(params) == list(fresh) and random == [layer for layer in fresh if layer not in copied]
    for name in params:
        source = shallow if name in copied else fresh
        np.testing.assert_array_equal(params[name]["kernel"], source[name]["kernel"])
        np.testing.assert_array_equal(params[name]["bias"], source[name]["bias"])
    assert not np.array_equal(fresh["conv1_1"]["kernel"], shallow["conv1_1"]["kernel"])


def test_growing_refuses_another_width_and_a_layer_without_counterpart(tiny_net):
    with pytest.raises(vgg_jax.ConfigError, match="cannot grow .*; conv1_1/kernel is .*, here .* of the same width"):
        grow_from(layers(tiny_net("D", width=0.125)), layers(tiny_net("A")))
    with pytest.raises(vgg_jax.ConfigError, match="cannot grow from this net: unexpected conv1_2/bias.* B to E from A"):
        grow_from(layers(tiny_net("A")), layers(tiny_net("D")))


def test_the_seed_decides_the_net():
    first, again, other = (
        vgg_jax.VGG("A", num_classes=2, crop=32, width=0.0625, rngs=nnx.Rngs(params=seed)) for seed in (3, 3, 4)
    )
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), nnx.state(first), nnx.state(again)))
    assert not np.array_equal(first.fc8.kernel[...], other.fc8.kernel[...])
