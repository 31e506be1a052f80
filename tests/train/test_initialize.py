"""A run that begins from published weights: what is copied, what stays random, what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vgg_jax import CheckpointError, ConfigError
from vgg_jax.config import default_config
from vgg_jax.model.from_config import new_network
from vgg_jax.train.initialize import initialize
from vgg_jax.weights import PREPROCESSING

MEAN = (1.0, 2.0, 3.0)
CONVOLUTIONS = ["conv1_1", "conv2_1", "conv3_1", "conv3_2", "conv4_1", "conv4_2", "conv5_1", "conv5_2"]


@pytest.fixture
def config():
    config = default_config()
    config.model.net, config.model.width, config.model.hidden, config.data.crop = "A", 0.0625, 24, 32
    config.init.preprocessing = "rgb"
    return config


@pytest.fixture
def published(tmp_path, config):
    """A function that writes a net of a config, all or some of its layers, as an .npz; returns path and layers."""

    def write(keep=lambda layer: True, classes=10, name="published.npz", **model):
        changed = config.copy_and_resolve_references()
        changed.seed = 5
        for key, value in model.items():
            section = "data" if key == "crop" else "model"
            changed[section][key] = value
        layers = nnx.to_pure_dict(nnx.state(new_network(changed, classes, jnp.float32)))
        del layers["mean_rgb"]
        layers = {layer: arrays for layer, arrays in layers.items() if keep(layer)}
        path = tmp_path / name
        np.savez(path, **{f"{layer}/{array}": v for layer, arrays in layers.items() for array, v in arrays.items()})
        return path, layers

    return write


def begun(config, source, classes=10):
    config.init.weights = str(source)
    net = initialize(config, classes, MEAN, jnp.float32)
    config.init.weights, preprocessing = "", config.init.preprocessing
    config.init.preprocessing = ""
    fresh = initialize(config, classes, MEAN, jnp.float32)
    config.init.preprocessing = preprocessing
    return net, *(nnx.to_pure_dict(nnx.state(n)) for n in (net, fresh))


def equal(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("changes", "classes", "random"),
    [
        ({}, 10, []),
        ({}, 4, ["fc8"]),
        ({"crop": 64}, 10, ["fc6", "fc7", "fc8"]),
        ({"hidden": 16}, 10, ["fc6", "fc7", "fc8"]),
        ({"keep": lambda layer: layer.startswith("conv")}, 10, ["fc6", "fc7", "fc8"]),
        ({"keep": lambda layer: layer != "fc7"}, 10, ["fc7", "fc8"]),
    ],
)
def test_layers_are_the_files_up_to_the_first_that_does_not_fit(config, published, caplog, changes, classes, random):
    path, there = published(**changes)
    with caplog.at_level("INFO", logger="vgg_jax"):
        net, here, fresh = begun(config, path, classes)
    copied = [layer for layer in [*CONVOLUTIONS, "fc6", "fc7", "fc8"] if layer not in random]
    for layer in copied:
        assert equal(here[layer], there[layer]), layer
        assert not equal(here[layer], fresh[layer]), layer
    for layer in random:
        assert equal(here[layer], fresh[layer]), layer
    assert f"copied {', '.join(copied)}; randomly initialized (glorot) {', '.join(random) or 'none'}" in caplog.text
    np.testing.assert_array_equal(here["mean_rgb"], np.float32(PREPROCESSING["rgb"].mean_rgb))
    assert net.num_classes == classes


def test_batch_normalization_comes_along(config, published):
    config.model.batch_norm = True
    path, there = published()
    _, here, _ = begun(config, path)
    assert set(there["bn3_2"]) == {"scale", "bias", "mean", "var"} and equal(here["bn3_2"], there["bn3_2"])


def test_the_stated_preprocessing_is_folded_in(config, published):
    path, there = published()
    config.init.preprocessing = "torchvision"
    _, here, _ = begun(config, path)
    deviation = 255 * np.array([0.229, 0.224, 0.225]).reshape(3, 1)
    np.testing.assert_allclose(here["conv1_1"]["kernel"], there["conv1_1"]["kernel"] / deviation, rtol=1e-6)
    assert equal(here["conv2_1"], there["conv2_1"])
    np.testing.assert_allclose(here["mean_rgb"], [123.675, 116.28, 103.53])


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"net": "B"}, ConfigError, r"(?s)'B', batch_norm=False, width=0.0625\).*set config.model.net='A'$"),
        ({"width": 0.125}, ConfigError, r"another network than config.model .*: set config.model.width=0.06"),
        ({"batch_norm": True}, ConfigError, r"set config.model.batch_norm=False$"),
        ({"preprocessing": ""}, ConfigError, r"published.npz.*In a config: config.init.preprocessing, "),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_out(config, published, changes, kind, message):
    path, _ = published()
    for key, value in changes.items():
        config["init" if key == "preprocessing" else "model"][key] = value
    config.init.weights = str(path)
    with pytest.raises(kind, match=message) as caught:
        initialize(config, 10, MEAN, jnp.float32)
    assert f"config.init.weights='{path}'" in str(caught.value)


def test_a_file_that_is_none_or_lacks_convolutions_is_refused(config, published, tmp_path):
    config.init.weights = str(tmp_path / "nowhere.npz")
    with pytest.raises(CheckpointError, match=r"config.init.weights='.*nowhere.npz': .*no such file"):
        initialize(config, 10, MEAN, jnp.float32)
    for keep in (lambda layer: layer != "conv5_2", lambda layer: layer == "conv1_1"):
        path, _ = published(keep=keep)
        config.init.weights = str(path)
        with pytest.raises(CheckpointError, match=r"config.init.weights='.*published.npz'.* lacks conv"):
            initialize(config, 10, MEAN, jnp.float32)


def test_frozen_layers_that_are_random_are_warned_of(config, published, caplog):
    config.train.freeze = ("conv1", "fc6")
    path, _ = published(keep=lambda layer: layer.startswith("conv"))
    config.init.weights = str(path)
    initialize(config, 10, MEAN, jnp.float32)
    assert "frozen as they were randomly initialized: fc6;" in caplog.text


def test_a_last_layer_of_another_task_is_not_copied_though_its_shape_fits(config, published, caplog):
    """Boxes for each of 5 classes are 20 outputs, as of 20 classes."""
    config.task = "localization"
    path, there = published(classes=20)
    with caplog.at_level("INFO", logger="vgg_jax"):
        _, here, fresh = begun(config, path, 20)
    assert equal(here["fc7"], there["fc7"]) and equal(here["fc8"], fresh["fc8"])
    assert not equal(here["fc8"], there["fc8"]) and "randomly initialized (glorot) fc8;" in caplog.text
