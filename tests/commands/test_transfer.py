"""The transfer mode: weights and photographs in folders to a table, pictures and a classifier that predicts."""

import csv
import json
import logging

import numpy as np
import pytest
from PIL import Image

from tests.photographs import image_of
from vgg_jax import CheckpointError, ConfigError, DataError, LinearProbe, load, save_torchvision
from vgg_jax.commands import predict, transfer
from vgg_jax.commands.workdir import MARK, claim
from vgg_jax.config import default_config
from vgg_jax.transfer.descriptors import Descriptor, of_images
from vgg_jax.transfer.probe import provenance


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Reddish, greenish and bluish photographs; one cannot be read."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(24):
        image = image_of((40, 40), number) * 0.5
        image[..., number % 3] += 90
        path = folder / "train" / "rgb"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(path)
    (folder / "train/r/broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def weights(tiny_net, tmp_path):
    save_torchvision(tiny_net("A"), tmp_path / "net.safetensors")
    return str(tmp_path / "net.safetensors")


@pytest.fixture
def run(weights, photographs, tmp_path):
    config = default_config()
    config.data.source, config.data.on_error = f"folder:{photographs}", "skip"
    config.evaluate.scales = (32, 40)
    config.transfer.layers, config.transfer.combine = ("pool5",), ("single", "stack")
    config.transfer.solver = "liblinear"  # compiles nothing
    config.transfer.shots, config.transfer.curve, config.transfer.splits = 5, (1,), 2

    def run(workdir=tmp_path / "run", overrides=None, weights=(weights,), checkpoint=()):
        given = {"config": config, "overrides": overrides or {}}
        return transfer.run([], workdir=str(workdir), weights=[*weights], checkpoint=[*checkpoint], **given)

    return run


def network(*weights):
    return {"config": None, "overrides": {}, "workdir": None, "checkpoint": [], "weights": [*weights]}


def test_from_photographs_to_predictions(run, weights, photographs, tmp_path, capsys, caplog, monkeypatch):
    assert run() == 0
    printed = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed if line.startswith("| A ")]
    assert [row[1:4] for row in rows] == [
        ["pool5", "32", ""], ["pool5", "40", ""], ["pool5", "32,40", "stack"], ["the best on held-out images", "", ""]
    ]  # fmt: skip
    assert f"  {photographs}/train/r/broken.png: not an image in a known format" in printed
    folder = tmp_path / "run"
    records = json.loads((folder / "tables.json").read_text())
    for row, record in zip(rows, records, strict=True):
        mean, deviation = 100 * np.mean(record["mean_class_recall"]), 100 * np.std(record["mean_class_recall"], ddof=1)
        assert row[6] == f"{mean:.2f} ± {deviation:.2f}" and mean > 60
    assert "\n".join(printed[2:8]) in (folder / "tables.md").read_text()
    made = {path.name for path in folder.iterdir()}
    pictures = {"confusion.png", "curve.png"}
    assert made >= pictures | {"tables.csv", "per_class.csv", "confusion.csv", "curve.csv", "mistakes.csv", "probe.npz"}
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    with (folder / "confusion.csv").open() as file:
        counts = np.array([row[1:] for row in csv.reader(file)][1:], int)
    recall = (np.diag(counts) / counts.sum(1)).mean()
    assert recall == pytest.approx(records[-1]["mean_class_recall"][0]) and counts.sum() == 9  # of the first split
    # Again: nothing is computed, and the table is the same.
    with caplog.at_level(logging.INFO, "vgg_jax"):
        run()
    assert capsys.readouterr().out.splitlines() == printed and "features found in" in caplog.text
    # The classifier predicts, by the command; what it is unsure of is the table's.
    assert predict.run(
        [str(photographs)], protocol="dense", json=True, heat_maps=None, boxes=None, all_boxes=False, probe=None,
        **network(weights) | {"workdir": str(folder)},
    ) == 1  # fmt: skip
    answers = {record["image"]: record for record in map(json.loads, capsys.readouterr().out.splitlines())}
    assert answers.pop(f"{photographs}/train/r/broken.png")["problem"] == "not an image in a known format"
    right = [path.split("/")[-2] == answer["classes"][0]["name"] for path, answer in answers.items()]
    assert len(right) == 24 and np.mean(right) > 0.8
    decisions = [entry["decision"] for entry in next(iter(answers.values()))["classes"]]
    assert decisions == sorted(decisions, reverse=True) and len(decisions) == 3


def test_a_classifier_of_boxes_decides_on_those_of_a_source(weights, photographs, rng, tmp_path, capsys):
    net, kind = load(weights), Descriptor("pool5", (32,))
    made = rng.normal(size=(64, 2)).astype("f4"), rng.normal(size=2).astype("f4")
    about = provenance(kind, [net], True, ("image", "box"))
    LinearProbe(*made, ("runs", "sits"), about).save(tmp_path / "probe.npz")
    image = sorted(photographs.glob("train/b/*.png"))[0]
    boxes = [[0, 4, 16, 40], [8, 0, 40, 24]]
    line = {"image": str(image), "objects": [{"class": "?", "box": box} for box in boxes], "split": "test"}
    (tmp_path / "boxes.jsonl").write_text(json.dumps(line))
    given = {"protocol": "dense", "json": True, "heat_maps": None, "boxes": None, "all_boxes": False}
    given |= {"probe": str(tmp_path / "probe.npz")} | network(weights) | {"overrides": {"evaluate.split": "test"}}
    assert predict.run([f"boxes:{tmp_path}/boxes.jsonl"], **given) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    pixels = np.asarray(Image.open(image))
    for record, (left, top, right, bottom) in zip(records, boxes, strict=True):
        assert record["image"] == str(image) and record["box"] == [left, top, right, bottom]
        whole, part = of_images([net], [pixels, pixels[top:bottom, left:right]], kind)
        wanted = np.concatenate([whole, part]) @ made[0] + made[1]
        found = {entry["name"]: entry["decision"] for entry in record["classes"]}
        np.testing.assert_allclose([found["runs"], found["sits"]], wanted, atol=1e-4)
    with pytest.raises(ConfigError, match="decides on boxes: give, in place of images, one source that has them"):
        predict.run([str(image)], **given)


def test_nothing_is_left_of_an_earlier_result(run, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    claim(folder)
    (folder / "curve.csv").touch()
    (folder / "notes.txt").touch()
    monkeypatch.setattr(transfer, "save_report", lambda folder, *_: (folder / "tables.md").touch())
    run(overrides={"transfer.combine": ("stack",), "evaluate.scales": (32,), "transfer.curve": ()})
    assert {path.name for path in folder.iterdir()} == {MARK, "notes.txt", "features", "probe.npz", "tables.md"}


def test_mistakes_are_named(run, weights, photographs, tiny_net, tmp_path, capsys):
    with pytest.raises(ConfigError, match="--mode=transfer needs --workdir=DIR"):
        run(weights=())
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/probe.npz").touch()
    with pytest.raises(ConfigError, match="probe.npz is there already, not written by this program"):
        run(tmp_path / "theirs")
    assert list((tmp_path / "theirs").iterdir()) == [tmp_path / "theirs/probe.npz"]
    with pytest.raises(DataError, match="train/r/broken.png: not an image"):
        run(overrides={"data.on_error": "raise"})
    with pytest.raises(ConfigError, match="no activation 'pool6' in net A"):
        run(overrides={"transfer.layers": ("pool6",)})
    for layers in ((), (5,)):
        with pytest.raises(ConfigError, match=r"config.transfer.layers=\(.*\): names of activations"):
            run(overrides={"transfer.layers": layers})
    with pytest.raises(DataError, match=r"class .: 8 images, of which 8 are to be trained on"):
        run(overrides={"transfer.shots": 8})
    run(overrides={"transfer.combine": ("stack",)})
    ask = lambda path, *given, **more: predict.run(
        [str(photographs / "train/b")],
        **{"protocol": "dense", "json": False, "heat_maps": None, "boxes": None, "all_boxes": False, "probe": str(path)}
        | network(*given)
        | more,
    )
    probe = tmp_path / "run/probe.npz"
    with pytest.raises(ConfigError, match="which network. The classifier is of A: give --weights=SOURCE"):
        ask(probe)
    with pytest.raises(ConfigError, match="a linear classifier has neither --heat_maps nor --boxes nor --protocol"):
        ask(probe, weights, protocol="crops")
    net = tiny_net("A")
    net.conv1_1.bias[...] += 1
    save_torchvision(net, tmp_path / "other.safetensors")
    capsys.readouterr()
    with pytest.raises(DataError, match="trained on descriptors of weights .*; these are of"):
        ask(probe, str(tmp_path / "other.safetensors"))
    with pytest.raises(DataError, match="not a linear classifier of descriptors"):
        ask(photographs / "train/r/broken.png", weights)
    assert not capsys.readouterr().out and LinearProbe.load(probe).classes == ("b", "g", "r")


def test_descriptors_of_layers_that_the_weights_lack_are_refused(run, weights, tmp_path):
    from safetensors.numpy import load_file, save_file

    convolutions = {name: array for name, array in load_file(weights).items() if name.startswith("features.")}
    save_file(convolutions, tmp_path / "convolutions.safetensors")
    with pytest.raises(CheckpointError, match=r"missing .*fc6/kernel(.|\n)*--config.transfer.layers=pool5"):
        run(weights=[str(tmp_path / "convolutions.safetensors")], overrides={"transfer.layers": ("relu7",)})
