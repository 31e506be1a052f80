"""Files of PyTorch that were made to harm, or mutated at random: loaded or refused, and nothing in them is run."""

import os
import random

import numpy as np
import pytest
import torch

from tests.weights.originals import FED, Payload, answer, mutated, original, state_dict
from vgg_jax import CheckpointError, UserError
from vgg_jax.weights import load, read

FORMATS = pytest.mark.parametrize("zipped", [True, False])


def tensors(**changes):
    state = {name: torch.tensor(array) for name, array in state_dict("A", original("A")).items()}
    return state | changes


def save(path, content, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@FORMATS
def test_a_small_file_answers_as_its_original(tmp_path, zipped):
    images = np.random.default_rng(0).integers(0, 256, (2, 70, 101, 3), np.uint8)
    expected = answer("A", original("A"), FED["torchvision"](np.float64(images)))
    for content in (tensors(), {"model": tensors(), "epoch": 3}, {"state_dict": tensors()}):
        net = load(save(tmp_path / "net", content, zipped))
        np.testing.assert_allclose(net(images), expected, atol=1e-5 * np.abs(expected).max())


@FORMATS
def test_code_in_a_file_is_not_run(tmp_path, zipped):
    save(tmp_path / "net", {"features.0.weight": Payload(tmp_path / "run")}, zipped)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(tmp_path / "net")
    assert not os.path.exists(tmp_path / "run")


@FORMATS
def test_a_module_is_not_unpickled(tmp_path, zipped):
    save(tmp_path / "net", torch.nn.Linear(2, 2), zipped)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(tmp_path / "net")


@FORMATS
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        # A few bytes that say they are 4e18: one element, repeated by a stride of zero.
        ("classifier.0.weight", torch.zeros(1).expand(2**31, 2**29), "declares .* bytes; no VGG has over"),
        ("features.0.weight", torch.zeros(4, 3, 3, 3).to_sparse(), "is no plain tensor"),
        ("features.0.weight", [1, 2, 3], "is no plain tensor"),
        ("features.3.bias", torch.full((8,), torch.nan), r"features.3.bias \(conv2_1/bias\) has 8 NaN"),
        ("features.0.bias", torch.zeros(4, dtype=torch.int32), "is int32, expected floating-point"),
        ("features.0.weight", torch.zeros(4, 3, 3, 3, device="meta"), "is no plain tensor|cannot be read"),
    ],
)
def test_tensors_that_are_none_are_refused(tmp_path, zipped, name, value, message):
    save(tmp_path / "net", tensors(**{name: value}), zipped)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "net")


def test_bfloat16_is_read(tmp_path):
    half = {name: tensor.bfloat16() for name, tensor in tensors().items()}
    weights = read(save(tmp_path / "net", half))
    np.testing.assert_array_equal(weights.layers["fc8"]["bias"], half["classifier.6.bias"].float().numpy())


@FORMATS
def test_a_mutated_file_is_loaded_or_refused(tmp_path, zipped):
    path = save(tmp_path / "net", tensors(), zipped)
    data, chance, refused = path.read_bytes(), random.Random(int(zipped)), 0
    for _ in range(100):
        path.write_bytes(mutated(data, chance))
        try:
            weights = read(path)
            assert all(np.isfinite(array).all() for layer in weights.layers.values() for array in layer.values())
        except UserError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 25
