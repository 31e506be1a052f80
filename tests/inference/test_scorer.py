from fractions import Fraction
from math import floor
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

import vgg_jax
from tests.oracles import reference
from tests.photographs import image_of, rescaled, with_spread_scores
from vgg_jax.evaluate.metrics import ranks
from vgg_jax.inference.arrays import scaled_arrays
from vgg_jax.inference.scorer import (
    EvalView,
    Scorer,
    eval_views,
    grid_crops,
    posterior_batches,
    posterior_runner,
    posteriors,
    scales_of,
)
from vgg_jax.model import convolution

SIZES = [(40, 40), (33, 57), (75, 41), (64, 256), (131, 33), (20, 31), (9, 12), (57, 33), (48, 90), (50, 90)]
"""Odd, portrait, landscape, 1:4, smaller than Q, and some that share a bucket."""


@pytest.fixture(scope="module")
def net():
    return with_spread_scores(vgg_jax.VGG("A", num_classes=10, crop=32, width=1 / 16, init="he", rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def images():
    return [image_of(size, seed) for seed, size in enumerate(SIZES)]


def score(net, images, *arguments, **options):
    """On one device, which compiles faster than eight."""
    return Scorer(net, *arguments, mesh=jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",)), **options)(images)


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def expected_dense(net, image, scale, flip=True):
    alone = rescaled(image, scale)[None]
    views = [alone, alone[:, :, ::-1]] if flip else [alone]
    return np.mean([softmax(reference(net, view)["fc8"].mean((1, 2)))[0] for view in views], 0)


def expected_crops(net, image, scale, flip=True):
    whole = rescaled(image, scale)
    tops, lefts = (
        [floor(Fraction(i * (side - net.crop), 4) + Fraction(1, 2)) for i in range(5)] for side in whole.shape[:2]
    )
    crops = [whole[top : top + net.crop, left : left + net.crop] for top in tops for left in lefts]
    crops += [crop[:, ::-1] for crop in crops] if flip else []
    assert len(crops) == (50 if flip else 25)
    return softmax(reference(net, np.stack(crops))["fc8"][:, 0, 0]).mean(0)


def expected_center(net, image, scale):
    whole = rescaled(image, scale)
    top, left = (floor(Fraction(side - net.crop, 2) + Fraction(1, 2)) for side in whole.shape[:2])
    return softmax(reference(net, whole[None, top : top + net.crop, left : left + net.crop])["fc8"][:, 0, 0])[0]


def assert_alike(posteriors, expected):
    expected = np.array(expected)
    assert posteriors.shape == expected.shape and posteriors.dtype == np.float32
    np.testing.assert_allclose(posteriors, expected, atol=1e-5, rtol=0)
    assert (expected.max(1) < 0.999).all() and np.ptp(expected, 0).max() > 0.1  # they tell something


@pytest.mark.parametrize("flip", [True, False])
def test_dense_is_the_reference_on_each_image_alone(flip, net, images):
    posteriors = score(net, images, (48,), flip=flip)
    assert_alike(posteriors, [expected_dense(net, image, 48, flip) for image in images])
    assert np.abs(posteriors - [expected_dense(net, image, 48, not flip) for image in images]).max() > 1e-3


def test_dense_at_several_scales_is_their_mean(net, images):
    images, scales = images[:3], (40, 48, 64)
    expected = [np.mean([expected_dense(net, image, scale) for scale in scales], 0) for image in images]
    assert_alike(score(net, images, scales), expected)


def test_dense_at_the_crops_size_is_the_net_on_the_crop(net):
    crops = np.stack([image_of((32, 32), seed) for seed in range(5)])
    expected = jax.nn.softmax(jax.jit(net)(crops)[:, 0, 0])
    np.testing.assert_allclose(score(net, list(crops), (32,), flip=False), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("flip", [True, False])
def test_crops_are_the_references(flip, net, images):
    posteriors = score(net, images, (49,), "crops", flip)
    assert_alike(posteriors, [expected_crops(net, image, 49, flip) for image in images])


def test_a_hundred_and_fifty_crops_and_both_are_the_references(net, images):
    images, scales = images[:3], (32, 40, 51)
    crops = np.mean([[expected_crops(net, image, scale) for image in images] for scale in scales], 0)
    dense = np.mean([[expected_dense(net, image, scale) for image in images] for scale in scales], 0)
    assert_alike(score(net, images, scales, "crops"), crops)
    assert_alike(score(net, images, scales, "both"), (crops + dense) / 2)
    assert np.abs(crops - dense).max() > 1e-3


def test_the_center_crop_is_the_references(net, images):
    assert_alike(score(net, images, (49,), "center"), [expected_center(net, image, 49) for image in images])


def test_batches_devices_and_order_change_nothing(net, images, one_device, eight_devices, rng):
    labels = rng.integers(0, 10, len(images))
    expected = score(net, images, (48,), "both", batch_size=1)
    order = rng.permutation(len(images))
    for mesh, batch_size in ((one_device, None), (one_device, 7), (eight_devices, None)):
        scorer = Scorer(net, (48,), "both", mesh=mesh, batch_size=batch_size)
        for which in (np.arange(len(images)), order):
            posteriors = scorer([images[position] for position in which])
            np.testing.assert_allclose(posteriors, expected[which], atol=1e-5, rtol=0)
            np.testing.assert_array_equal(ranks(posteriors, labels[which]), ranks(expected, labels)[which])


def test_several_views_in_one_pass_are_each_alone(net, images, one_device):
    views = [EvalView("dense", 40), EvalView("center", 40), EvalView("crops", 48), EvalView("dense", 48)]
    runner, found = posterior_runner(net, mesh=one_device), {}
    thin = np.zeros((2, 4000, 3), np.uint8)
    images = [*images[:3], thin, images[4]]
    with scaled_arrays(images, scales_of(views), on_error="skip") as examples:
        for index, view, posterior in posteriors(runner, examples, views):
            assert (index, view) not in found
            found[index, view] = posterior
    assert set(found) == {(index, view) for index in (0, 1, 2, 4) for view in views}
    for (index, view), posterior in found.items():
        alone = score(net, images[index : index + 1], (view.scale,), view.protocol)[0]
        np.testing.assert_allclose(posterior, alone, atol=1e-5, rtol=0)


def test_a_view_that_two_protocols_share_is_taken_once():
    views = eval_views(["both", "dense", "center"], (40, 48, 40))
    assert len(views) == len(set(views)) == 6 and scales_of(views) == (40, 48)


def test_other_parameters_take_effect(net, images, one_device):
    images, scorer = images[:2], Scorer(net, (48,), mesh=one_device)
    before = scorer(images)
    other = nnx.clone(net)
    other.fc8.kernel[...] = other.fc8.kernel[...][..., ::-1]
    scorer.runner.use(nnx.state(other))
    np.testing.assert_allclose(scorer(images), score(other, images, (48,)), atol=1e-6)
    assert np.abs(scorer(images) - before).max() > 1e-2


def test_the_grid_touches_the_borders_and_is_rounded_half_up():
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(64)[:, None], np.arange(64)
    crops = np.array(grid_crops(image[:38], 32)).reshape(5, 5, 32, 32, 3)
    assert crops[:, 0, 0, 0, 0].tolist() == [0, 2, 3, 5, 6]  # 1.5 and 4.5 are rounded up
    assert crops[0, :, 0, 0, 1].tolist() == [0, 8, 16, 24, 32]
    crops = np.array(grid_crops(image[:32, :33], 32)).reshape(5, 5, 32, 32, 3)
    assert crops[:, 0, 0, 0, 0].tolist() == [0] * 5
    assert crops[0, :, 0, 0, 1].tolist() == [0, 0, 1, 1, 1]


def test_crops_of_images_of_all_shapes_take_two_programs(net, images, one_device):
    scorer = Scorer(net, (48,), "crops", mesh=one_device)
    scorer(images)
    assert scorer.runner.batcher.shapes <= 2 and scorer.runner.batcher.waste < 0.2


def test_a_wide_net_goes_by_tiles(monkeypatch, one_device):
    net = with_spread_scores(vgg_jax.VGG("A", num_classes=10, crop=32, width=0.5, init="he", rngs=nnx.Rngs(0)))
    traced, tiles = [], convolution.convolution_3x3
    monkeypatch.setattr(convolution, "convolution_3x3", lambda x, kernel: traced.append(len(x)) or tiles(x, kernel))
    images = [image_of((33, 40 + number), number) for number in range(3)]
    posteriors = Scorer(net, (32,), batch_size=1, mesh=one_device)(images)
    assert traced
    assert_alike(posteriors, [expected_dense(net, image, 32) for image in images])


def test_a_huge_image_is_scored(net):
    image = np.broadcast_to(image_of((1, 8000), 0), (6000, 8000, 3))
    np.testing.assert_allclose(score(net, [image], (48,))[0], expected_dense(net, image, 48), atol=1e-5)


def test_no_images_give_no_posteriors(net):
    posteriors = score(net, [], (32,))
    assert posteriors.shape == (0, 10) and posteriors.dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": (31,)}, "test scale Q = 31 is below the net's crop, which the class-score map needs, 32 pixels"),
        ({"scales": (64, 16)}, "test scale Q = 16 is below the net's crop"),
        ({"scales": ()}, "one or more test scales"),
        ({"scales": (64.5,)}, "in whole pixels"),
        ({"protocol": "densely"}, "protocol='densely': there are dense, crops, both, center; did you mean 'dense'"),
        ({"scales": 36}, r"scales=36: one or more test scales Q in whole pixels, such as \(256,\)"),
        ({"scales": "36"}, "scales=36: one or more test scales Q"),
        ({"scales": None}, "scales=None: one or more test scales Q"),
        ({"protocol": 3}, "protocol=3: there are dense, crops, both, center"),
        ({"protocol": ["dense"]}, r"protocol=\['dense'\]: there are dense"),
        ({"batch_size": 0}, "batch_size=0: a number of images, or None"),
        ({"batch_size": -3}, "batch_size=-3"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
    ],
)
def test_impossible_scorers_are_refused(options, message, net):
    with pytest.raises(vgg_jax.ConfigError, match=message):
        Scorer(net, **{"scales": (32,)} | options)


def test_what_is_no_network_is_refused(images):
    for call in (
        Scorer,
        lambda net: vgg_jax.features(net, images),
        lambda net: vgg_jax.class_score_map(net, images[0], 32),
        lambda net: vgg_jax.localize(net, images),
        lambda net: vgg_jax.fit_probe([net], "folder:photographs"),
        lambda net: vgg_jax.export_scorer(net, "scorer.npz"),
    ):
        with pytest.raises(vgg_jax.ConfigError, match="net is of type str: give a vgg_jax.VGG"):
            call("vgg16.npz")
    with pytest.raises(vgg_jax.ConfigError, match=r"nets=\[\]: give a network, or several"):
        vgg_jax.localize([], images)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((40, 40, 3), np.float32), "image 1 is of type float32: images are RGB in 0..255, uint8"),
        ([[1, 2], [3, 4]], "image 1 is of type list"),
        (np.zeros((40, 40), np.uint8), r"image 1 is of shape \(40, 40\): expected \(height, width, 3\), RGB"),
        (np.zeros((40, 40, 4), np.uint8), r"image 1 is of shape \(40, 40, 4\)"),
        (np.zeros((0, 40, 3), np.uint8), r"image 1 is of shape \(0, 40, 3\)"),
        (np.zeros((2, 4000, 3), np.uint8), "image 1: 2 x 4000 pixels are too elongated"),
    ],
)
def test_impossible_images_are_refused(image, message, net, images):
    with pytest.raises(vgg_jax.DataError, match=message):
        score(net, [images[0], image], (48,))


def test_a_pass_that_went_on_can_be_cut_off_again():
    """Six images of 25 crops in batches of seven: a resumed pass knows as well as a whole one where to go on."""

    class Runner:
        net = SimpleNamespace(crop=32)

        def batches(self, images, first):
            crops = [(image.key, {"posterior": np.float32(image.key[0])}) for image in images]
            return (crops[begin : begin + 7] for begin in range(7 * first, len(crops), 7))

    examples = [SimpleNamespace(index=index, images=(np.zeros((40, 40, 3), np.uint8),)) for index in range(6)]
    passes = lambda first=0: list(posterior_batches(Runner(), examples, eval_views(["crops"], [40]), first))
    whole = passes()
    done = [index for _, batch in whole for index, _, _ in batch]
    assert done == [*range(6)] and [going_on for going_on, _ in whole][-1] == len(whole)
    for number, (first, _) in enumerate(whole[:-1], start=1):
        known = {index for _, batch in whole[:number] for index, _, _ in batch}
        resumed = passes(first)
        assert {index for _, batch in resumed for index, _, _ in batch} | known == {*range(6)}
        assert [going_on for going_on, _ in resumed] == [going_on for going_on, _ in whole[first:]]
