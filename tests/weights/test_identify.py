"""A file that does not fit is refused with the name of everything in it that does not."""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.weights import originals
from tests.weights.originals import original, state_dict
from vgg_jax import CheckpointError, ConfigError
from vgg_jax.weights import load


def refusal(path, **arguments):
    with pytest.raises(CheckpointError) as error:
        load(path, **arguments)
    assert str(path) in str(error.value)
    return str(error.value)


def test_every_missing_unexpected_and_mis_shaped_tensor_is_named_at_once(tmp_path):
    tensors = state_dict("D", original("D"))
    del tensors["features.2.bias"], tensors["classifier.6.weight"], tensors["classifier.6.bias"]
    tensors["features.99.weight"] = np.zeros(3, np.float32)
    tensors["features.7.weight"] = tensors["features.7.weight"][:, :3]
    tensors["features.10.bias"] = np.zeros(16, np.int64)
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, tmp_path / "net")
    reported = refusal(tmp_path / "net")
    assert "is nearest to net D, width 0.0625, 24 hidden units, 1000 classes, crop 64" in reported
    for fault in (
        "missing features.2.bias (conv1_2/bias), (4,)",
        "missing classifier.6.weight (fc8/kernel), (1000, 24)",
        "missing classifier.6.bias (fc8/bias), (1000,)",
        "unexpected features.99.weight, (3,)",
        "features.7.weight (conv2_2/kernel) is (8, 3, 3, 3), expected (8, 8, 3, 3)",
        "features.10.bias (conv3_1/bias) is int64, expected floating-point numbers",
    ):
        assert fault in reported
    # In part is not in bits: a layer without its bias is damaged, a layer that is not there is absent.
    reported = refusal(tmp_path / "net", partial=True)
    assert "missing features.2.bias" in reported and "classifier.6" not in reported


def test_a_net_of_another_depth_than_asked_for_is_refused(tmp_path):
    save_file(state_dict("D", original("D")), tmp_path / "net")
    reported = refusal(tmp_path / "net", net="vgg19")
    assert "nearest to net E" in reported and "missing features.34.weight (conv5_4/kernel)" in reported


def test_a_transposed_head_is_mis_shaped(written):
    def swap(weights):
        weights["fc8/kernel"] = weights["fc8/kernel"].transpose(0, 1, 3, 2)

    reported = refusal(written("torchvision", "A", swap))
    assert "classifier.6.weight (fc8/kernel) is (24, 7), expected (24, 24)" in reported


def test_another_network_is_refused(tmp_path):
    save_file({f"layer{n}.weight": np.zeros(3, np.float32) for n in range(9)}, tmp_path / "net")
    reported = refusal(tmp_path / "net")
    assert (
        "no tensor of a VGG among the 9 in it (layer0.weight, " in reported and "expected features.0.weight" in reported
    )


@pytest.mark.parametrize(
    ("kind", "net", "theirs"),
    [
        ("torchvision", "A", "features.3.bias (conv2_1/bias)"),
        ("timm", "A", "features.3.bias (conv2_1/bias)"),
        ("keras legacy", "D", "block2_conv1/bias (conv2_1/bias)"),
        ("keras 3", "D", "layers/conv2d_2/vars/1 (conv2_1/bias)"),
        ("caffe", "A", "conv2_1/bias"),
        ("matconvnet", "A", "conv2_1/bias"),
        ("npz", "A", "conv2_1/bias"),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_named(kind, net, theirs, value, written):
    def spoil(weights):
        weights["conv2_1/bias"][3] = value

    reported = refusal(written(kind, net, spoil))
    assert f"{theirs} has 1 NaN or infinite values" in reported


def test_what_float32_cannot_hold_is_named(tmp_path):
    weights = {name: np.float64(array) for name, array in original("A").items()}
    weights["conv1_1/bias"][0] = 1e300
    originals.write_torchvision(tmp_path / "net", "A", weights)
    assert "features.0.bias (conv1_1/bias) has 1 NaN or infinite" in refusal(tmp_path / "net")


def test_negative_variances_are_named(tmp_path):
    weights = original("A", batch_norm=True)
    weights["bn1_1/var"][0] = -1
    originals.write_torchvision(tmp_path / "net", "A", weights)
    assert "features.1.running_var (bn1_1/var) has negative variances" in refusal(tmp_path / "net")


def test_what_is_no_file_of_weights_is_refused_with_what_would_be(tmp_path):
    assert "no such file or folder" in refusal(tmp_path / "absent.pth")
    assert "no such file or folder" in refusal(tmp_path / ("x" * 300))
    assert "/proc/self/mem: cannot be read: Input/output error" in refusal(Path("/proc/self/mem"))
    assert "holds no complete checkpoint" in refusal(tmp_path)
    (tmp_path / "photo").write_bytes(b"\xff\xd8\xff\xe0 JFIF")
    assert "which is no format of weights known here: torchvision .pth, " in refusal(tmp_path / "photo")
    (tmp_path / "empty").write_bytes(b"")
    assert "no format of weights" in refusal(tmp_path / "empty")
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "is a zip archive of readme.txt; known are" in refusal(tmp_path / "archive")
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n")
    assert "save it again with -v7" in refusal(tmp_path / "new.mat")


@pytest.mark.parametrize("kind", [kind for kind in originals.WRITERS if kind != "keras archive"])
def test_a_file_that_is_cut_short_is_refused(kind, written):
    path = written(kind, "D")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert refusal(path)


def test_a_file_of_pytorch_needs_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with zipfile.ZipFile(tmp_path / "net", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    reported = refusal(tmp_path / "net")
    assert "is a file of PyTorch, which is not installed: pip install 'vgg_jax[torch]'" in reported


def test_an_npz_states_its_mean_with_its_deviation(tmp_path):
    def save(**more):
        with (tmp_path / "net").open("wb") as file:
            np.savez(file, **original("A"), **more)

    save(std_rgb=np.ones(3))
    assert "states std_rgb without mean_rgb" in refusal(tmp_path / "net")
    save(mean_rgb=np.zeros(3), classes=np.arange(7))
    assert "expected a vector of strings" in refusal(tmp_path / "net")
    save(mean_rgb=np.zeros(3), classes=np.array(["a", "b"]))
    assert "names 2 classes and its fc8 has 7" in refusal(tmp_path / "net")
    save(mean_rgb=np.zeros(3), classes=np.array(list("abcdefg")))
    assert load(tmp_path / "net").classes == tuple("abcdefg")


def test_average_images_that_are_no_color_and_dags_are_refused(tmp_path):
    layers = originals.matlab_layers("A", original("A"), False)
    image = np.random.default_rng(0).uniform(90, 130, (8, 8, 3))

    def save(variables):
        stream = io.BytesIO()
        originals.scipy.io.savemat(stream, variables)
        (tmp_path / "net").write_bytes(stream.getvalue())

    save({"net": {"layers": layers, "normalization": {"averageImage": image}}})
    with pytest.raises(ConfigError, match="net subtracts an image, our networks a color; the mean .* preprocessing="):
        load(tmp_path / "net")
    assert load(tmp_path / "net", preprocessing="rgb").spec.name == "A"
    save({"net": {"layers": {"name": "conv1"}, "params": {"name": "x"}, "vars": {"name": "y"}}})
    assert "a DagNN" in refusal(tmp_path / "net")
    save({"x": np.zeros(3)})
    assert "no network of MatConvNet" in refusal(tmp_path / "net")
