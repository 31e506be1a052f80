"""Class-score maps against the float64 network, and their pictures."""

import numpy as np
import pytest
from PIL import Image

import vgg_jax
from tests.oracles import reference
from tests.photographs import image_of, rescaled
from vgg_jax.inference.heat_map import save_heat_map
from vgg_jax.inference.score_map import class_score_map, map_extent


@pytest.fixture
def net(tiny_net):
    return tiny_net("A")


def test_the_map_is_the_reference_networks_at_every_place(net, rng):
    image = rng.integers(0, 256, (64, 101, 3), np.uint8)
    found = class_score_map(net, image, 64)
    scores = reference(net, image[None].astype(np.float64))["fc8"][0]
    assert found.shape == scores.shape == (2, 3, 10)
    soft = np.exp(scores - scores.max(-1, keepdims=True))
    np.testing.assert_allclose(found, soft / soft.sum(-1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("size", [(50, 77), (90, 33)])
def test_an_image_of_any_size_is_rescaled_and_padded(size, net):
    image = image_of(size, 0)
    scores = reference(net, rescaled(image, 70)[None].astype(np.float64))["fc8"][0]
    soft = np.exp(scores - scores.max(-1, keepdims=True))
    found = class_score_map(net, image, 70)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, soft / soft.sum(-1, keepdims=True), atol=1e-5)


def test_an_impossible_image_and_a_scale_without_a_place_are_refused(net):
    with pytest.raises(vgg_jax.DataError, match="of type float32: images are RGB in 0..255, uint8"):
        class_score_map(net, np.zeros((64, 64, 3), np.float32), 64)
    with pytest.raises(vgg_jax.ConfigError, match="the test scale Q = 31 is below the net's crop"):
        class_score_map(net, np.zeros((64, 64, 3), np.uint8), 31)


def test_a_place_is_drawn_in_the_middle_of_the_crop_that_it_sees(tiny_net):
    net = tiny_net("A", crop=96)
    left, right, bottom, top = map_extent(net, (3, 5, 10))
    height, width = 96 + 2 * 32, 96 + 4 * 32  # the smallest image of 3 x 5 places
    assert (right - left, bottom - top) == (5 * 32, 3 * 32)
    # Crop (0, 0) has the middle 47.5, as the pixels 0 to 95 have; the places fill the middle of the image.
    assert (left + 16, top + 16) == (47.5, 47.5)
    assert (left + right, top + bottom) == (width - 1, height - 1)


def test_a_heat_map_is_a_picture_of_the_map(net, tmp_path):
    for scale in (64, 128):
        save_heat_map(tmp_path / "map.png", net, image_of((64, 90), 0), scale, 2, of=tmp_path / "image.jpg")
        with Image.open(tmp_path / "map.png") as picture:
            assert min(picture.size) > 200
