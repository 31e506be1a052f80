"""Every format's file, by an independent writer, answers as its original does on what its original is fed."""

import contextlib
import json
import logging
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

import vgg_jax
from tests.test_checkpoint import CLASSES, save, state_of
from tests.weights import originals
from tests.weights.originals import BGR_MEAN, FED, HIDDEN, MEAN, STD, WRITERS, answer, original
from vgg_jax import CheckpointError, ConfigError
from vgg_jax.checkpoint import Checkpoints, new_network
from vgg_jax.commands.target import of_weights
from vgg_jax.weights import Preprocessing, load, read

CASES = [(kind, net) for kind, (_, _, nets) in WRITERS.items() for net in nets]


def agree(scores, expected):
    assert scores.shape == expected.shape
    np.testing.assert_allclose(scores, expected, atol=1e-5 * np.abs(expected).max())
    assert expected.std() > 0.01


@pytest.mark.parametrize(("kind", "net"), CASES)
def test_a_file_answers_as_its_original(kind, net, written, images):
    loaded = load(written(kind, net))
    assert (loaded.spec.name, loaded.crop, loaded.hidden, loaded.num_classes) == (net, 64, HIDDEN, 7)
    agree(loaded(images), answer(net, original(net), FED[WRITERS[kind][1]](np.float64(images))))


@pytest.mark.parametrize("kind", ["torchvision", "timm", "npz"])
def test_batch_normalization_comes_with_its_averages(kind, written, images):
    loaded = load(written(kind, "A", batch_norm=True))
    assert loaded.batch_norm
    agree(loaded(images), answer("A", original("A", True), FED["torchvision"](np.float64(images))))


def test_fully_convolutional_caffe_models_are_the_same(tmp_path, images, monkeypatch):
    """Of those who turned the head into convolutions themselves: kernels (o, i, h, w)."""
    weights = original("A")
    fields = originals.field(1, b"VGG")
    for name in [*(f"conv{n}" for n in originals.convolutions("A")), "fc6", "fc7", "fc8"]:
        blobs = [
            originals.blob(originals.oihw(weights[f"{name}/kernel"]), False),
            originals.blob(weights[f"{name}/bias"], False),
        ]
        fields += originals.field(
            100, originals.field(1, name.encode()) + b"".join(originals.field(7, b) for b in blobs)
        )
    (tmp_path / "net").write_bytes(fields)
    agree(load(tmp_path / "net")(images), answer("A", weights, FED["caffe"](np.float64(images))))


def test_conv1_1_of_a_bgr_net_is_exact_at_the_border(written, rng):
    """There the padding is zero after the mean is gone: folding the mean into the bias would show here."""
    image = rng.integers(0, 256, (1, 64, 64, 3), np.uint8)
    _, tapped = load(written("caffe v1", "D"))(image, taps=("conv1_1",))
    weights = original("D")
    kernel, bias = np.float64(weights["conv1_1/kernel"]), weights["conv1_1/bias"]
    bgr = np.float64(image[0, :, :, ::-1]) - BGR_MEAN
    for row, column in ((0, 0), (0, 30), (63, 63), (30, 0), (31, 32)):
        expected = np.float64(bias)
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                if 0 <= row + i < 64 and 0 <= column + j < 64:
                    expected = expected + bgr[row + i, column + j] @ kernel[i + 1, j + 1]
        np.testing.assert_allclose(tapped["conv1_1"][0, row, column], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, jnp.bfloat16])
def test_other_precisions_are_read(tmp_path, images, dtype):
    weights = {name: array.astype(dtype) for name, array in original("A").items()}
    originals.write_torchvision(tmp_path / "net", "A", weights)
    agree(load(tmp_path / "net")(images), answer("A", weights, FED["torchvision"](np.float64(images))))
    assert load(tmp_path / "net", dtype=jnp.bfloat16).dtype == jnp.bfloat16


def test_a_prefix_of_data_parallel_training_is_dropped(tmp_path, images):
    tensors = {f"module.{name}": array for name, array in originals.state_dict("A", original("A")).items()}
    save_file(tensors, tmp_path / "net")
    agree(load(tmp_path / "net")(images), answer("A", original("A"), FED["torchvision"](np.float64(images))))


def test_the_preprocessing_can_be_stated(tmp_path, images, written):
    weights = original("A")
    with (tmp_path / "net").open("wb") as file:
        np.savez(file, **weights)
    with pytest.raises(ConfigError, match="does not say what its network is fed.*torchvision.*caffe, rgb"):
        load(tmp_path / "net")
    for name, fed in FED.items():
        expected = answer("A", weights, fed(np.float64(images)))
        agree(load(tmp_path / "net", preprocessing=name)(images), expected)
    own = Preprocessing((10, 20, 30), (2, 3, 4), bgr=True)
    expected = answer("A", weights, ((np.float64(images) - (10, 20, 30)) / (2, 3, 4))[..., ::-1])
    agree(load(tmp_path / "net", preprocessing=own)(images), expected)
    expected = answer("A", weights, FED["rgb"](np.float64(images)))
    agree(load(written("caffe", "A"), preprocessing="rgb")(images), expected)


def test_a_safetensors_file_may_begin_as_a_pickle_does(tmp_path):
    """It begins with the length of its header, in steps of 8 bytes."""
    for length in range(0, 256, 8):
        save_file(originals.state_dict("A", original("A")), tmp_path / "net", metadata={"remark": "x" * length})
        if (tmp_path / "net").read_bytes()[0] == 0x80:
            break
    assert (tmp_path / "net").read_bytes()[0] == 0x80 and load(tmp_path / "net").spec.name == "A"


def test_timms_config_beside_the_file_states_the_preprocessing(tmp_path, images):
    weights = original("A")
    originals.write_timm(tmp_path / "model.safetensors", "A", weights)
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.125]}}')
    expected = answer("A", weights, (images / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.5, 0.25, 0.125]))
    agree(load(tmp_path)(images), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preprocessing": "imagenet"}, "preprocessing='imagenet': there are torchvision,"),
        ({"num_classes": 10}, "num_classes=10, but .* 7 classes.*leave num_classes out"),
        ({"crop": 32}, "crop=32, but .* crop 64"),
        ({"hidden": 5}, "hidden=5, but .* 24 hidden units"),
        ({"net": "F"}, "no net 'F'"),
        ({"net": 16}, "no net 16: there are A"),
        ({"num_classes": 0}, "num_classes=0: a whole number from 1 on"),
        ({"crop": "64"}, "crop='64': a whole number"),
        ({"hidden": 24.5}, "hidden=24.5: a whole number"),
        ({"preprocessing": ["caffe"]}, r"preprocessing=\['caffe'\]: there are torchvision,"),
        ({"seed": "a"}, "seed='a': a whole number from 0 on"),
        ({"seed": 10**23}, "seed=10{23}: a whole number from 0 on"),
        ({"class_order": 7}, "class_order='7' cannot be read"),
    ],
)
def test_arguments_that_contradict_the_file_are_refused(arguments, message, written):
    with pytest.raises(ConfigError, match=message):
        load(written("torchvision", "A"), **arguments)


@pytest.mark.parametrize("source", [None, 16, ["vgg16.pth"]])
def test_what_is_no_source_is_refused(source):
    with pytest.raises(ConfigError, match="source=.*: give a file, a folder, or OWNER/NAME of a repository on the hub"):
        load(source)


@pytest.mark.parametrize("mean", [(1, 2), (1, 2, np.nan), (-124, 0, 0), (0, 0, 65535)])
def test_impossible_preprocessings_are_refused(mean, tmp_path):
    with pytest.raises(ConfigError, match="mean_rgb=.*expected three numbers in 0..255"):
        Preprocessing(mean)
    with pytest.raises(ConfigError, match="a deviation is positive"):
        Preprocessing((0, 0, 0), (1, 0, 1))
    with (tmp_path / "net").open("wb") as file:
        np.savez(file, **original() | {"mean_rgb": mean})
    with pytest.raises(CheckpointError, match="net: mean_rgb=.*expected three numbers in 0..255"):
        read(tmp_path / "net")


def test_a_deviation_that_makes_weights_infinite_is_refused(tmp_path):
    with (tmp_path / "net").open("wb") as file:
        np.savez(file, mean_rgb=(0, 0, 0), std_rgb=(1, 1, 1e-45), **original())
    with pytest.raises(CheckpointError, match=r"net: conv1_1 divided by std_rgb=\(1.0, 1.0, 1e-45\) is infinite"):
        read(tmp_path / "net")


def test_a_mean_in_unit_range_is_said(tmp_path, caplog):
    with (tmp_path / "net").open("wb") as file:
        np.savez(file, mean_rgb=MEAN, **original())
    read(tmp_path / "net")
    assert "mean_rgb=(0.485, 0.456, 0.406) is almost black; if [0, 1] is meant, multiply it by 255" in caplog.text


def only_convolutions(weights):
    for name in [name for name in weights if name.startswith("fc")]:
        del weights[name]


@pytest.mark.parametrize("kind", ["keras legacy", "keras 3", "npz"])
def test_convolutions_alone_are_loaded_and_the_head_is_random(kind, written, images, caplog):
    path = written(kind, "D", only_convolutions)
    with pytest.raises(
        CheckpointError, match=r"missing .*predictions/bias|dense|fc8.*partial=True initializes .* fc6, fc7, fc8"
    ):
        load(path)
    weights = read(path, partial=True, num_classes=5, hidden=12, crop=32)
    assert weights.absent == ("fc6", "fc7", "fc8")
    assert list(weights.layers) == [f"conv{name}" for name in originals.convolutions("D")]
    with caplog.at_level(logging.INFO, "vgg_jax.weights"):
        net = load(path, partial=True, num_classes=5, hidden=12, crop=32, seed=1)
    assert "loaded conv1_1," in caplog.text and "randomly initialized: fc6, fc7, fc8" in caplog.text
    assert net.fc6.kernel.shape == (1, 1, 32, 12) and net(images).shape == (2, 2, 3, 5)
    same, other = weights.network(seed=1), weights.network(seed=2)
    np.testing.assert_array_equal(net.fc6.kernel[...], same.fc6.kernel[...])
    assert np.any(net.fc6.kernel[...] != other.fc6.kernel[...])
    np.testing.assert_array_equal(net.conv1_2.kernel[...], original("D")["conv1_2/kernel"])
    assert np.std(net.fc6.kernel[...]) == pytest.approx(np.sqrt(2 / 32) / 256 ** (1 / 16), rel=0.2)  # He et al.
    default = read(path, partial=True)
    assert (default.num_classes, default.hidden, default.crop) == (1000, 256, 224)


def test_torchvisions_features_only_file_is_known_by_its_nan_classifier(tmp_path, images):
    weights = original("D")
    for name in weights:
        if name.startswith("fc"):
            weights[name] = np.full_like(weights[name], np.nan)
    originals.write_torchvision(tmp_path / "net", "D", weights)
    with pytest.raises(CheckpointError, match=r"missing classifier.0.weight \(fc6/kernel\).*partial=True"):
        load(tmp_path / "net")
    net = load(tmp_path / "net", partial=True, crop=64)
    np.testing.assert_allclose(net.mean_rgb[...], [123, 117, 104], atol=1e-2)
    fed = (np.float64(images) / 255 - (0.48235, 0.45882, 0.40784)) * 255
    complete = original("D")
    for layer in ("fc6", "fc7", "fc8"):
        complete |= {
            f"{layer}/{name}": np.asarray(getattr(getattr(net, layer), name)[...]) for name in ("kernel", "bias")
        }
    agree(net(images), answer("D", complete, fed))


def test_the_net_is_asked_for_where_the_file_cannot_tell(tmp_path):
    weights = {name: array for name, array in original("D").items() if name.startswith(("conv1", "conv2"))}
    with (tmp_path / "net").open("wb") as file:
        np.savez(file, mean_rgb=np.zeros(3), **weights)
    with pytest.raises(CheckpointError, match="could be of net .*D or E; say which: net="):
        load(tmp_path / "net", partial=True)
    net = load(tmp_path / "net", partial=True, net="vgg19", num_classes=2, hidden=4, crop=32)
    assert net.spec.name == "E"
    np.testing.assert_array_equal(net.conv2_2.kernel[...], weights["conv2_2/kernel"])


def test_a_classifier_alone_is_of_the_papers_width(tmp_path):
    with (tmp_path / "net").open("wb") as file:
        np.savez(file, mean_rgb=np.zeros(3), **{"fc8/kernel": np.ones((1, 1, 8, 5)), "fc8/bias": np.ones(5)})
    weights = read(tmp_path / "net", partial=True, net="D", crop=32)
    assert (weights.width, weights.hidden, weights.num_classes, list(weights.layers)) == (1.0, 8, 5, ["fc8"])


def test_a_net_of_the_same_tensors_is_loaded_when_it_is_asked_for(written):
    assert load(written("torchvision", "A"), net="A-LRN").spec.lrn


@pytest.mark.parametrize("net", ["C", "B-5x5"])
def test_the_kernels_tell_the_nets_nobody_published(net, tmp_path, tiny_net):
    own = tiny_net(net)
    arrays = {f"{layer}/{name}": array for layer, name, array in flattened(own)}
    with (tmp_path / "net").open("wb") as file:
        np.savez(file, mean_rgb=own.mean_rgb[...], **arrays)
    assert load(tmp_path / "net").spec.name == net


def flattened(net):
    for path, variable in nnx.to_flat_state(nnx.state(net)):
        if len(path) == 2:
            yield (*path, np.asarray(variable[...]))


@pytest.mark.parametrize("width", [0.003, 0.03, 0.1, 0.3, 0.55])
def test_any_width_is_found_from_the_shapes(width, tmp_path):
    own = vgg_jax.VGG("A", num_classes=3, crop=32, width=width, hidden=8, rngs=nnx.Rngs(0))
    with (tmp_path / "net").open("wb") as file:
        np.savez(
            file, mean_rgb=own.mean_rgb[...], **{f"{layer}/{name}": array for layer, name, array in flattened(own)}
        )
    net = load(tmp_path / "net")
    assert net.conv5_2.kernel.shape == own.conv5_2.kernel.shape


def test_a_run_of_ours_is_loaded_with_its_classes(tmp_path, images):
    config = vgg_jax.config.default_config()
    config.model.net, config.model.width, config.data.crop, config.model.dropout = "A", 0.0625, 32, 0.25
    state = state_of(config)
    save(tmp_path, config, state, step=3)
    net = load(tmp_path)
    assert net.classes == tuple(CLASSES) and net.dropout == 0.25
    own = vgg_jax.checkpoint.load_network(tmp_path)[0]
    np.testing.assert_array_equal(net(images), own(images))


def test_the_box_of_a_run_that_localizes_is_not_taken_for_its_classes(tmp_path, images):
    """One box for all of four classes: it has as many edges as there are classes."""
    config = vgg_jax.config.default_config()
    config.task, config.model.net, config.model.width, config.data.crop = "localization", "A", 0.0625, 32
    own = new_network(config, 4, jnp.float32)
    meta = {"config": json.loads(config.to_json()), "classes": [*"abcd"], "outputs": 4, "source": "x"}
    with contextlib.closing(Checkpoints(tmp_path, 1)) as checkpoints:
        checkpoints.save(1, {"net": nnx.to_pure_dict(nnx.state(own))}, meta)
    net = load(tmp_path)
    assert net.num_classes == 4 and net.classes == ()
    np.testing.assert_array_equal(net(images), own(images))
    with pytest.raises(ConfigError, match=f"not trained to classify: give it as --checkpoint={tmp_path}"):
        of_weights(str(tmp_path))


def test_a_keras_archive_may_be_deflated(tmp_path, written, images):
    with (
        zipfile.ZipFile(written("keras archive", "D")) as plain,
        zipfile.ZipFile(tmp_path / "deflated", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    agree(load(tmp_path / "deflated")(images), answer("D", original("D"), FED["caffe"](np.float64(images))))


def test_the_documented_constants_are_torchvisions_and_caffes():
    fed = vgg_jax.weights.PREPROCESSING
    np.testing.assert_allclose(fed["torchvision"].mean_rgb, 255 * MEAN)
    np.testing.assert_allclose(fed["torchvision"].std_rgb, 255 * STD)
    assert fed["caffe"].bgr and fed["caffe"].mean_rgb == tuple(BGR_MEAN[::-1])
