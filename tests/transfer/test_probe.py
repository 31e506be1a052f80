"""The classifier in a file: there and back, what it refuses to answer for, what it refuses to read."""

import dataclasses
import json
from typing import NamedTuple

import numpy as np
import pytest

import vgg_jax
from vgg_jax.errors import ConfigError, DataError
from vgg_jax.transfer.metrics import METRICS
from vgg_jax.transfer.probe import LinearProbe, provenance
from vgg_jax.transfer.svm import fit_svm


class Kind(NamedTuple):
    layer: str = "pool5"
    scales: tuple = (256, 384)
    combine: str = "stack"


ABOUT = {"layer": "pool5", "scales": [256, 384], "combine": "stack", "flip": True, "normalization": "l2"}
ABOUT |= {"weights": ["0a1b2c3d"], "networks": ["D"], "regions": ["image"]}


@pytest.fixture
def probe(rng):
    return LinearProbe(rng.normal(size=(6, 3)).astype("f4"), rng.normal(size=3).astype("f4"), ("a", "b\n", "ü"), ABOUT)


def test_there_and_back(probe, rng, tmp_path):
    path = tmp_path / "made" / "probe.npz"
    probe.save(path)
    again = vgg_jax.LinearProbe.load(str(path))
    descriptors = rng.normal(size=(5, 6)).astype("f4")
    np.testing.assert_array_equal(again.decide(descriptors, ABOUT), probe.decide(descriptors, ABOUT))
    np.testing.assert_allclose(
        again.decide(descriptors, ABOUT)[2, 1],
        sum(descriptors[2] * probe.weights[:, 1]) + probe.intercept[1],
        rtol=1e-5,
    )
    assert (again.classes, again.about) == (probe.classes, ABOUT)
    older = dataclasses.replace(probe, about={key: fact for key, fact in ABOUT.items() if key != "regions"})
    older.save(path)  # in the place of its like
    assert vgg_jax.LinearProbe.load(path).about == ABOUT  # files that do not say it are of whole images
    with np.load(path, allow_pickle=False) as file:
        assert set(file.files) == {"weights", "intercept", "classes", "about"}


def test_of_a_fitted_svm_and_networks(tiny_net, rng):
    rows, labels = rng.normal(size=(20, 8)).astype("f4"), np.arange(20) % 2
    svm = fit_svm(rows, labels, METRICS["accuracy"], grid=[1], solver="liblinear")
    nets = [tiny_net(), tiny_net(init="glorot")]
    probe = LinearProbe(svm.weights, svm.intercept, ("a", "b"), provenance(Kind(), nets, True))
    assert probe.about["networks"] == ["A", "A"] and len(set(probe.about["weights"])) == 2
    np.testing.assert_array_equal(probe.decide(rows, provenance(Kind(), nets, True)), svm.decide(rows))
    for other in (
        provenance(Kind(), nets[::-1], True),
        provenance(Kind(), [nets[0], nets[0]], True),
        provenance(Kind(), nets, False),
        provenance(Kind(scales=(384, 256)), nets, True),
        provenance(Kind(combine="max"), nets, True),
        provenance(Kind(layer="relu5_3"), nets, True),
        provenance(Kind(), nets, True, ("box",)),
    ):
        with pytest.raises(DataError, match="was trained on descriptors of"):
            probe.decide(rows, other)


def test_descriptors_of_another_width_are_refused(probe):
    with pytest.raises(DataError, match=r"takes descriptors \(n, 6\); these are \(2, 7\)"):
        probe.decide(np.zeros((2, 7), "f4"), ABOUT)
    with pytest.raises(DataError, match=r"these are \(6,\)"):
        probe.decide(np.zeros(6, "f4"), ABOUT)


def test_another_file_is_not_replaced(probe, tmp_path):
    path = tmp_path / "probe.npz"
    np.savez(path, weights=np.zeros((2, 2)))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="would be replaced"):
        probe.save(path)
    assert path.read_bytes() == before
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        probe.save(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intercept": np.zeros(4, "f4")}, r"weights \(6, 3\), intercept \(4,\), 3 classes"),
        ({"weights": np.zeros((6, 3), int)}, "weights are not all finite numbers"),
        ({"intercept": np.array([0, np.inf, 0], "f4")}, "intercept are not all finite numbers"),
        ({"classes": np.array(["a"])}, "1 classes"),
        ({"classes": np.arange(3)}, "classes are not all names"),
        ({"about": np.array("{}")}, "`about` does not say networks, layer, scales"),
        ({"about": np.array(json.dumps(ABOUT | {"scales": [256, "384"]}))}, "`about` does not say scales"),
        ({"about": np.array(json.dumps(ABOUT | {"weights": []}))}, "`about` does not say weights"),
        ({"about": np.array(json.dumps(ABOUT | {"flip": "yes"}))}, "`about` does not say flip"),
        ({"about": np.array("[1]")}, "not a linear classifier"),
        ({"weights": np.array([{}], object)}, "weights cannot be read"),
    ],
)
def test_files_that_contradict_themselves(probe, tmp_path, change, message):
    path = tmp_path / "probe.npz"
    probe.save(path)
    with np.load(path) as file:
        np.savez(path, **{**file, **change})
    with pytest.raises(DataError, match=message) as raised:
        LinearProbe.load(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_damaged_and_foreign_files(probe, rng, tmp_path):
    """Cut anywhere, or with bytes changed: refused in an error that names the file, or what was saved."""
    path = tmp_path / "probe.npz"
    probe.save(path)
    whole = path.read_bytes()
    refused = 0
    for case in range(200):
        data = bytearray(whole[: rng.integers(len(whole))] if case % 2 else whole)
        for place in rng.integers(len(data), size=3) if case % 2 == 0 else ():
            data[place] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        try:
            again = LinearProbe.load(path)
        except DataError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            np.testing.assert_array_equal(again.weights, probe.weights)
    assert refused > 150
    path.write_text("no zip")
    with pytest.raises(DataError, match="not a linear classifier"):
        LinearProbe.load(path)
    with pytest.raises(DataError, match="is not there"):
        LinearProbe.load(tmp_path / "none.npz")


def test_of_text_no_pickle_is_spoken(tmp_path):
    (tmp_path / "notes.txt").write_text("class, recall\n")
    with pytest.raises(DataError, match=r"not a linear classifier of descriptors: .*notes.txt is no .npz$"):
        LinearProbe.load(tmp_path / "notes.txt")
