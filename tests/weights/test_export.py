"""What is saved for torchvision, read by its names, answers alike."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.weights.originals import BGR_MEAN, MEAN, STD, answer, original, state_dict
from vgg_jax import ConfigError
from vgg_jax.weights import load, save_torchvision


@pytest.mark.parametrize(("net", "batch_norm"), [("A", False), ("D", True), ("E", False)])
def test_torchvisions_weights_go_back_as_they_came(net, batch_norm, tmp_path, images):
    weights = original(net, batch_norm)
    from tests.weights.originals import write_torchvision

    write_torchvision(tmp_path / "came", net, weights)
    loaded = load(tmp_path / "came")
    fed = save_torchvision(loaded, tmp_path / "went")
    np.testing.assert_allclose(fed["mean"], MEAN, rtol=1e-6)
    np.testing.assert_allclose(fed["std"], STD, rtol=1e-6)
    went, came = load_file(tmp_path / "went"), state_dict(net, weights)
    assert set(went) == {name for name in came if not name.endswith("num_batches_tracked")}
    for name, tensor in went.items():
        np.testing.assert_allclose(tensor, came[name], rtol=1e-6, err_msg=name)
    again = load(tmp_path / "went")
    np.testing.assert_allclose(again(images), loaded(images), atol=1e-5)


def test_another_mean_is_stated_not_folded(tmp_path, written, images):
    loaded = load(written("matconvnet", "D"))
    fed = save_torchvision(loaded, tmp_path / "went")
    np.testing.assert_allclose(np.array(fed["mean"]) * 255, BGR_MEAN[::-1], rtol=1e-6)
    with safe_open(tmp_path / "went", "numpy") as file:
        stated = json.loads(file.metadata()["vgg_jax"])
    assert stated["mean"] == list(fed["mean"]) and stated["classes"] == list(loaded.classes) and stated["net"] == "D"
    # The saved tensors, as torchvision would use them: fed (x / 255 - mean) / std.
    tensors = load_file(tmp_path / "went")
    weights = original("D")
    weights["conv1_1/kernel"] = tensors["features.0.weight"].transpose(2, 3, 1, 0)
    expected = answer("D", weights, (images / 255 - np.array(fed["mean"])) / np.array(fed["std"]))
    np.testing.assert_allclose(loaded(images), expected, atol=1e-5 * np.abs(expected).max())
    again = load(tmp_path / "went")
    assert again.classes == loaded.classes
    np.testing.assert_allclose(again(images), loaded(images), atol=1e-5)


def test_nets_that_torchvision_lacks_are_refused(tmp_path, tiny_net):
    with pytest.raises(ConfigError, match=r"net C has no counterpart in torchvision, which has A \(vgg11\)"):
        save_torchvision(tiny_net("C"), tmp_path / "net")


def test_only_what_was_saved_so_is_replaced(tmp_path, tiny_net):
    net = tiny_net("A")
    (tmp_path / "text").write_text("theirs")
    save_file({"features.0.weight": np.zeros(3)}, tmp_path / "theirs")
    for name in ("text", "theirs"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(ConfigError, match=f"{tmp_path / name}: is there already and would be replaced"):
            save_torchvision(net, tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    for mean in (100.0, 200.0):
        net.mean_rgb[...] = mean
        save_torchvision(net, tmp_path / "ours")
    assert load(tmp_path / "ours").mean_rgb[...].tolist() == [200.0] * 3
