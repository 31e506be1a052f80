import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vgg_jax
from tests.oracles import reference


@pytest.mark.parametrize("net", vgg_jax.SPECS)
def test_every_activation_is_the_float64_reference(net, tiny_net, rng):
    built = tiny_net(net)
    # Biases that matter: the initialization's are zero.
    state = nnx.state(built, nnx.Param)
    nnx.update(
        built, jax.tree.map(lambda a: a + 0.1 * rng.normal(size=a.shape).astype(np.float32) * (a.ndim == 1), state)
    )
    images = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    expected = reference(built, images)
    assert set(built.activations) == set(expected)
    scores, tapped = built(images, taps=built.activations)
    assert scores.shape == (2, 1, 1, 10) and scores.dtype == jnp.float32
    for name, activation in tapped.items():
        np.testing.assert_allclose(activation, expected[name], atol=1e-5 * np.abs(expected[name]).max(), err_msg=name)


def test_a_larger_image_gives_a_map_of_scores(tiny_net, rng):
    net = tiny_net("A")
    images = rng.integers(0, 256, (1, 70, 101, 3), np.uint8)
    scores = net(images)
    assert scores.shape == (1, 2, 3, 10)
    expected = reference(net, images)["fc8"]
    np.testing.assert_allclose(scores, expected, atol=1e-5 * np.abs(expected).max())


def test_the_window_of_fc6_follows_the_crop(rng):
    net = vgg_jax.VGG("A", num_classes=3, crop=64, width=0.0625, init="he", rngs=nnx.Rngs(0))
    assert net.fc6.kernel.shape == (2, 2, 32, 256)
    images = rng.integers(0, 256, (2, 64, 64, 3), np.uint8)
    expected = reference(net, images)["fc8"]
    assert expected.shape == (2, 1, 1, 3)
    np.testing.assert_allclose(net(images), expected, atol=1e-5 * np.abs(expected).max())


def test_uint8_and_float_images_score_alike(tiny_net, rng):
    net, images = tiny_net("A"), rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(net(images), net(images.astype(np.float32)))


def test_no_images_have_no_scores(tiny_net):
    for conv in ("lax", "winograd"):
        net = tiny_net("A", width=0.25, conv=conv)  # wide enough for tiles
        assert net(np.zeros((0, 32, 64, 3), np.float32)).shape == (0, 1, 2, 10)


def test_the_mean_is_subtracted_before_the_zero_padding(tiny_net):
    net = tiny_net("A", mean_rgb=(10, 20, 30))
    image = np.broadcast_to(np.float32([10, 20, 30]), (1, 32, 32, 3))
    assert not np.any(net(image))  # an image of the mean color is all zeros, to its border


def test_remat_changes_no_number(tiny_net, rng):
    images, keys = rng.integers(0, 256, (2, 32, 32, 3), np.uint8), jax.random.split(jax.random.key(0), 2)

    def gradient(net):
        graphdef, params, rest = nnx.split(net, nnx.Param, ...)
        return jax.jit(jax.grad(lambda p: (nnx.merge(graphdef, p, rest, copy=True)(images, keys=keys) ** 2).sum()))(
            params
        )

    kept, again = gradient(tiny_net("B")), gradient(tiny_net("B", remat=True))
    for (path, a), (_, b) in zip(nnx.to_flat_state(kept), nnx.to_flat_state(again), strict=True):
        np.testing.assert_allclose(a[...], b[...], rtol=1e-4, atol=1e-5 * np.abs(a[...]).max(), err_msg=str(path))


def test_bfloat16_computes_near_float32_with_float32_parameters(tiny_net, rng):
    images = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    exact, coarse = tiny_net("A"), tiny_net("A", dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(coarse))} == {jnp.dtype("float32")}
    scores, tapped = coarse(images, taps=("conv3_1",))
    assert scores.dtype == jnp.float32 and tapped["conv3_1"].dtype == jnp.bfloat16
    reference_scores = np.asarray(exact(images))
    difference = np.abs(scores - reference_scores).max() / np.abs(reference_scores).max()
    assert 1e-5 < difference < 0.05  # bfloat16 has 8 bits: it must differ, and not by much


@pytest.mark.parametrize("net", ["A-LRN", "C"])
def test_forward_mode_is_the_slope_of_the_float64_reference(net, tiny_net, rng):
    built = tiny_net(net, conv="lax")
    images, direction = rng.uniform(0, 255, (2, 32, 32, 3)).astype(np.float32), rng.normal(size=(2, 32, 32, 3))
    scores, slope = jax.jvp(built, (images,), (direction.astype(np.float32),))
    step = 1e-6 * direction
    expected = (reference(built, images + step)["fc8"] - reference(built, images - step)["fc8"]) / 2e-6
    np.testing.assert_allclose(slope, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(scores, tiny_net(net)(images), atol=1e-5 * np.abs(scores).max())


def test_convolutions_by_tiles_are_those_of_lax(tiny_net, rng):
    images = rng.integers(0, 256, (2, 32, 45, 3), np.uint8)
    by_lax, by_tiles = (tiny_net("A", width=0.25, conv=conv) for conv in ("lax", "winograd"))
    programs = [str(jax.make_jaxpr(net)(images)) for net in (by_lax, by_tiles)]
    assert ["custom_vjp" in program for program in programs] == [False, True]
    assert programs[0].count("conv_general_dilated") > programs[1].count("conv_general_dilated") > 0
    expected = np.asarray(by_lax(images))
    np.testing.assert_allclose(by_tiles(images), expected, atol=1e-5 * np.abs(expected).max())


def test_batch_normalization_uses_the_batch_in_training_and_averages_after(tiny_net, rng):
    net = tiny_net("A", batch_norm=True)
    images = rng.integers(0, 256, (8, 32, 32, 3), np.uint8)
    _, tapped = net(images, taps=("conv1_1", "bn1_1"), keys=jax.random.split(jax.random.key(0), 8))
    inputs, outputs = np.float64(tapped["conv1_1"]), np.float64(tapped["bn1_1"])
    mean, variance = inputs.mean((0, 1, 2)), inputs.var((0, 1, 2))
    np.testing.assert_allclose(outputs, (inputs - mean) / np.sqrt(variance + 1e-5), atol=1e-4)
    np.testing.assert_allclose(net.bn1_1.mean[...], 0.1 * mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(net.bn1_1.var[...], 0.9 + 0.1 * variance, rtol=1e-4)
    before = np.asarray(net.bn1_1.mean[...])
    net(images)
    np.testing.assert_array_equal(net.bn1_1.mean[...], before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop": 50}, "crop=50 is not a multiple of 32"),
        ({"crop": 0}, "crop=0 is not a multiple of 32"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"width": -1}, "width=-1"),
        ({"dropout": 1.0}, "dropout=1.0 is not a probability"),
        ({"init": "xavier"}, "no initialization 'xavier'"),
        ({"net": "F"}, "no net 'F'"),
        ({"net": 16}, "no net 16: there are A, .*; did you mean 'vgg16'"),
        ({"net": None}, "no net None: there are A"),
        ({"net": ["D"]}, "no net \\['D'\\]: there are A"),
        ({"crop": "224"}, "crop=224 is not a multiple of 32"),
        ({"num_classes": 10.5}, "num_classes=10.5"),
        ({"num_classes": 10**12}, "num_classes=1000000000000, .*: 2.6e\\+14 parameters, the most is 1e\\+10"),
        ({"width": "wide"}, "width=wide"),
        ({"width": np.inf}, "width=inf"),
        ({"width": np.nan}, "width=nan"),
        ({"dropout": None}, "dropout=None is not a probability"),
        ({"hidden": 0}, "hidden=0"),
        ({"hidden": 4.5}, "hidden=4.5"),
        ({"hidden": 9_999_999_999}, "hidden=9999999999: 1.0e\\+20 parameters"),
        ({"dtype": np.int32}, "dtype=.*int32.*: the computation is in floating-point numbers"),
        ({"conv": "winogard"}, "conv='winogard': there are auto, lax, winograd; did you mean 'winograd'"),
    ],
)
def test_impossible_networks_are_refused(arguments, message, tiny_net):
    with pytest.raises(vgg_jax.ConfigError, match=message):
        tiny_net(**arguments)


def test_impossible_images_and_taps_are_refused(tiny_net):
    net = tiny_net("D")
    with pytest.raises(vgg_jax.ConfigError, match="images of 31 x 64 pixels are smaller than the net's crop, 32"):
        net(np.zeros((1, 31, 64, 3), np.uint8))
    with pytest.raises(vgg_jax.ConfigError, match=r"shape \(1, 3, 32, 32\): expected \(n, h, w, 3\)"):
        net(np.zeros((1, 3, 32, 32), np.uint8))
    with pytest.raises(vgg_jax.ConfigError, match="no activation 'conv3_4' in net D.*did you mean 'conv3_"):
        net(np.zeros((1, 32, 32, 3), np.uint8), taps=("conv3_4",))
    images = np.zeros((2, 32, 32, 3), np.uint8)
    with pytest.raises(vgg_jax.ConfigError, match=r"sizes of shape \(2,\): expected height and width .*, \(2, 2\)"):
        net(images, sizes=np.array([32, 32]))
    with pytest.raises(vgg_jax.ConfigError, match=r"sizes of shape list: expected height and width"):
        net(images, sizes=[[32, 32], [32, 32]])
    for taps in ("conv1_1", None, 5):
        with pytest.raises(vgg_jax.ConfigError, match=f"taps={taps!r}: give names of activations"):
            net(images, taps=taps)
    with pytest.raises(vgg_jax.ConfigError, match=r"keys of shape \(\): expected one per image, 2"):
        net(images, keys=jax.random.key(0))
    with pytest.raises(vgg_jax.ConfigError, match=r"pool5 of shape \(2, 1, 32\): expected \(n, h, w, 32\), 1 or more"):
        net.head(np.zeros((2, 1, 32)))
    with pytest.raises(vgg_jax.ConfigError, match="rngs=0: give flax.nnx.Rngs"):
        vgg_jax.VGG("A", rngs=0)


@pytest.mark.filterwarnings("ignore:images with colors from nan")
@pytest.mark.parametrize(
    "options, on_gpu",
    [
        ({"net": "A-LRN"}, False),
        ({"net": "C"}, True),
        ({"net": "D", "batch_norm": True}, False),
        ({"net": "B-5x5"}, True),
        ({"net": "B", "dtype": jnp.bfloat16}, True),
    ],
)
def test_images_of_several_sizes_on_one_bucket_are_each_as_if_alone(options, on_gpu, tiny_net, rng, monkeypatch):
    if on_gpu:
        form = lambda *given, default, **forms: forms.get("cuda", default)(*given)
        monkeypatch.setattr(jax.lax, "platform_dependent", form)
    net = tiny_net(**options, crop=64)
    net.mean_rgb[...] = jnp.array([100.0, 50.0, 200.0])
    state = nnx.state(net, nnx.Param)
    nnx.update(
        net, jax.tree.map(lambda a: a + 0.1 * rng.normal(size=a.shape).astype(np.float32) * (a.ndim == 1), state)
    )
    sizes = np.array([[64, 64], [65, 127], [96, 101], [100, 64], [127, 160]])
    tolerance = 1e-5 if net.dtype == jnp.float32 else 0.02
    bucket = np.full((len(sizes), 128, 160, 3), np.nan, np.float32)
    for image, (height, width) in zip(bucket, sizes, strict=True):
        image[:height, :width] = rng.integers(0, 256, (height, width, 3))
    tapping = nnx.jit(lambda net, images, sizes=None: net(images, sizes=sizes, taps=net.activations))
    scores, tapped = tapping(net, bucket, jnp.asarray(sizes))
    for row, (height, width) in enumerate(sizes):
        alone, expected = tapping(net, bucket[row : row + 1, :height, :width])
        assert net.map_sizes(sizes)[row].tolist() == list(alone.shape[1:3])
        for name, activation in (expected | {"scores": alone}).items():
            together = (tapped | {"scores": scores})[name][row]
            h, w = activation.shape[1:3]
            activation, together = np.float32(activation), np.float32(together)
            limit = tolerance * np.abs(activation).max()
            np.testing.assert_allclose(together[:h, :w], activation[0], atol=limit, err_msg=name)
            assert not together[h:].any() and not together[:, w:].any(), name
        if not net.batch_norm:
            oracle = reference(net, bucket[row : row + 1, :height, :width])["fc8"]
            np.testing.assert_allclose(alone, oracle, atol=tolerance * np.abs(oracle).max())


def test_hidden_units_and_class_names():
    net = vgg_jax.VGG("A", num_classes=2, crop=32, width=0.0625, hidden=24, classes=("a", "b"), rngs=nnx.Rngs(0))
    assert net.fc6.kernel.shape == (1, 1, 32, 24) and net.fc7.kernel.shape == (1, 1, 24, 24)
    assert net.classes == ("a", "b")
    with pytest.raises(vgg_jax.ConfigError, match="classes has 1 names for num_classes=2"):
        vgg_jax.VGG("A", num_classes=2, crop=32, classes=("a",), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("options", [{"net": "A-LRN"}, {"net": "D", "batch_norm": True}, {"net": "B", "remat": True}])
def test_some_activations_are_those_of_the_whole_net(options, tiny_net, rng):
    net, images = tiny_net(**options), rng.integers(0, 256, (2, 41, 64, 3), np.uint8)
    sizes = jnp.array([[32, 64], [41, 50]])
    _, expected = net(images, taps=net.activations, sizes=sizes)
    for taps in (["relu1_1"], ["relu3_1", "pool2", "conv4_1"], ["pool5"], ["conv1_1", "fc6"], net.activations):
        tapped = net.activations_of(images, taps, sizes=sizes)
        assert set(tapped) == set(taps)
        for name, activation in tapped.items():
            np.testing.assert_array_equal(activation, expected[name], err_msg=name)


def test_nothing_is_computed_beyond_the_last_activation(tiny_net):
    net = tiny_net("D")
    for layer in ("conv3_2", "conv3_3", "conv4_1", "fc6"):
        setattr(net, layer, None)  # would fail if it were called
    tapped = net.activations_of(np.zeros((1, 9, 7, 3), np.uint8), ["relu1_1", "conv3_1"])
    assert {name: activation.shape[1:3] for name, activation in tapped.items()} == {
        "relu1_1": (9, 7),
        "conv3_1": (2, 1),
    }


def test_impossible_activations_are_refused(tiny_net):
    net = tiny_net("A")
    with pytest.raises(
        vgg_jax.ConfigError, match="images of 15 x 90 pixels are smaller than the least for relu5_1, 16"
    ):
        net.activations_of(np.zeros((1, 15, 90, 3)), ["conv1_1", "relu5_1"])
    assert net.activations_of(np.zeros((1, 16, 90, 3)), ["relu5_1"])["relu5_1"].shape == (1, 1, 5, 32)
    with pytest.raises(vgg_jax.ConfigError, match="images of 31 x 90 pixels are smaller than the net's crop, 32"):
        net.activations_of(np.zeros((1, 31, 90, 3)), ["fc6"])
    with pytest.raises(vgg_jax.ConfigError, match="no activation 'relu9_1'"):
        net.activations_of(np.zeros((1, 32, 32, 3)), ["relu9_1"])
    with pytest.raises(vgg_jax.ConfigError, match="taps is empty"):
        net.activations_of(np.zeros((1, 32, 32, 3)), [])
