"""What a network is fed: floats that are hardly RGB in 0..255 are warned of once, what is no image is refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vgg_jax
from vgg_jax.model import images as module
from vgg_jax.sharding import split_batch


@pytest.fixture(autouse=True)
def unwarned(monkeypatch):
    monkeypatch.setattr(module, "_warned", False)
    monkeypatch.setattr(module, "_looks", 2)


@pytest.fixture
def net(tiny_net):
    return tiny_net("A")


@pytest.fixture
def photographs(rng):
    return rng.integers(0, 256, (2, 32, 32, 3), np.uint8)


FED_OTHERWISE = {
    "0.00392 to 1": lambda images: (images / 255).clip(1 / 255),
    "-1 to 1": lambda images: images / 127.5 - 1,
    "-2.12 to 2.64": lambda images: (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    "-124 to 151": lambda images: images[..., ::-1] - np.array([103.939, 116.779, 123.68]),
    "0 to 6.55e+04": lambda images: images * 257.0,
}


@pytest.mark.parametrize("colors", FED_OTHERWISE)
def test_images_as_others_feed_them_are_warned_of_once(colors, net, photographs):
    photographs[0, 0, :2] = [[0, 0, 0], [255, 255, 255]]
    wrong = FED_OTHERWISE[colors](photographs).astype(np.float32)
    with pytest.warns(UserWarning, match=re.escape(f"colors from {colors}: expected RGB in 0..255")) as caught:
        net(wrong)
    assert caught[0].filename == __file__
    net(wrong)  # a second warning would be an error


@pytest.mark.parametrize(
    "call",
    [
        lambda net, images: net(jnp.asarray(images, jnp.bfloat16)),
        lambda net, images: net.activations_of(images, ["relu2_1"]),
        lambda net, images: vgg_jax.content_distance(net, images, 255 * images, "relu1_1"),
        lambda net, images: vgg_jax.content_distance(net, 255 * images, images, "relu1_1"),
        lambda net, images: vgg_jax.style_distance(net, images, images, ["relu1_1"]),
        lambda net, images: vgg_jax.lpips(net, {"relu1_1": jnp.ones(4)}, images, images),
    ],
)
def test_the_warning_names_the_users_line(call, net, photographs):
    with pytest.warns(UserWarning, match="Multiply colors in \\[0, 1\\] by 255") as caught:
        call(net, (photographs / 255).astype(np.float32))
    assert [warning.filename for warning in caught] == [__file__]


def test_colors_in_0_to_255_are_not_warned_of(net, photographs, eight_devices):
    net(photographs.astype(np.float32))
    net(photographs // 255)  # night: 0 and 1, in uint8
    net(np.zeros((1, 32, 32, 3), np.float32))
    net(jax.device_put(np.repeat(photographs, 4, 0).astype(np.float32), split_batch(eight_devices)))


def test_nothing_is_looked_at_under_a_trace_nor_arrays_of_devices_forever(net, photographs):
    unit = jnp.asarray(photographs / 255, jnp.float32)
    jax.jit(lambda net, images: net(images))(net, unit)
    jax.grad(lambda images: net(images).sum())(unit)
    for _ in range(2):
        net(unit * 255)
    net(unit)  # a look waits for the device
    with pytest.warns(UserWarning, match="colors from"):
        net(np.asarray(unit))


def test_a_constant_of_a_traced_function_is_looked_at(net, photographs):
    unit = jnp.asarray(photographs / 255, jnp.float32)
    with pytest.warns(UserWarning, match="colors from"):
        jax.jit(lambda: net(unit))()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "images of type NoneType: expected an array"),
        ([[[[1, 2, 3]]]], "images of type list"),
        ("a.jpg", "images of type str"),
        (np.zeros((1, 32, 32, 3), bool), "images of type bool"),
        (np.zeros((1, 32, 32, 3), np.complex64), "images of type complex64"),
        (np.full((1, 32, 32, 3), None), "images of type object"),
        (np.zeros((32, 32, 3)), r"images of shape \(32, 32, 3\): expected \(n, h, w, 3\)"),
        (np.zeros((1, 32, 32, 4)), r"images of shape \(1, 32, 32, 4\)"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(images, message, net):
    with pytest.raises(vgg_jax.ConfigError, match=message):
        net(images)
    with pytest.raises(vgg_jax.ConfigError, match=message):
        vgg_jax.style_distance(net, np.zeros((1, 32, 32, 3)), images)


@pytest.mark.parametrize("color", [(1, 2), (1, 2, 256), (-1, 0, 0), (0, 0, np.nan), ("a", "b", "c"), None, 7])
def test_a_mean_that_is_no_color_is_refused(color, tiny_net):
    with pytest.raises(vgg_jax.ConfigError, match="mean_rgb=.*: expected three numbers in 0..255"):
        tiny_net(mean_rgb=color)
