"""Evaluation and predictions of networks that localize: Tables 8 and 9, and boxes in pixels of the image (App. A)."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import vgg_jax
from tests.boxed import Rectangles
from vgg_jax import ConfigError, DataError
from vgg_jax.commands import evaluate as evaluation
from vgg_jax.commands import labels, localization
from vgg_jax.commands import predict as prediction
from vgg_jax.commands.box_predictions import predict
from vgg_jax.commands.labels import names_in, posteriors_of
from vgg_jax.commands.localization import evaluate
from vgg_jax.commands.target import EvalTarget
from vgg_jax.config import default_config
from vgg_jax.data.decode import decode
from vgg_jax.data.splits import select
from vgg_jax.evaluate import localization_dataset
from vgg_jax.evaluate.posteriors import Posteriors
from vgg_jax.model.box_outputs import outputs_of

BOXES = [(0.5, 0.5, 0.9, 0.8), (0.4, 0.5, 0.6, 0.9), (0.6, 0.4, 0.7, 0.7)]


def overlap(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - common)


@pytest.fixture
def source(monkeypatch):
    source = Rectangles("validation", 10, objects=2, difficult=True)
    monkeypatch.setattr("vgg_jax.tasks.localization.open_source", lambda name, split: source)
    return source


@pytest.fixture
def make_target(tiny_net):
    """A network whose boxes are the same at every place."""

    def make(boxes=BOXES, name="boxes"):
        net = tiny_net("A", num_classes=4 * len(boxes))
        net.fc8.kernel[...] = jnp.zeros_like(net.fc8.kernel[...])
        net.fc8.bias[...] = jnp.asarray(outputs_of(np.array(boxes, np.float32)))
        config = default_config()
        config.task, config.localization.per_class = "localization", len(boxes) > 1
        config.data.crop, config.data.scale, config.evaluate.scales = 32, (40, 40), (36, 40)
        return EvalTarget(name, net, (40, 40), config, None, ("red", "green", "blue"), ("conv1",))

    return make


def asked(source):
    """Every class of every image: image, label, its objects' boxes."""
    found = {}
    for image, label, corners, difficult in zip(*source.objects, strict=True):
        if not difficult:
            found.setdefault((int(image), int(label)), []).append(corners)
    return [(*key, boxes) for key, boxes in sorted(found.items())]


def pixels(source):
    return [decode(source[index]["image"]) for index in range(len(source))]


def rows_of(folder):
    (file,) = folder.rglob("tables.json")
    return json.loads(file.read_text())


def test_protocol_1_is_the_box_of_the_true_class_in_the_central_crop(make_target, source, tmp_path):
    target = make_target()
    target.config.data.flip = False
    text = evaluate([target], tmp_path)
    best = []
    for index, label, objects in asked(source):
        height, width = pixels(source)[index].shape[:2]
        rows, columns = (int(side * 40 / min(height, width) + 0.5) for side in (height, width))
        top, left = (rows - 32 + 1) // 2, (columns - 32 + 1) // 2
        x, y, w, h = np.multiply(BOXES[label], 32) + (left, top, 0, 0)
        box = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        box *= [width / columns, height / rows] * 2
        best.append(max(overlap(box, corners) for corners in objects))
    (row,) = [row for row in rows_of(tmp_path) if row["table"] == 8]
    assert row["given"] == pytest.approx(100 * np.mean(np.array(best) <= 0.5)) and 0 < row["given"] < 100
    assert row["iou"] == pytest.approx(np.mean(best), abs=1e-4) and row["count"] == len(best)
    assert row["setting"] == "PCR, all but conv1 tuned, S=40, Q=40" and row["paper"] is None
    assert "no config.localization.posteriors: the label is given" in text and f"| {row['given']:.2f} " in text
    with Image.open(next(tmp_path.rglob("localization.png"))) as picture:
        assert min(picture.size) > 200
    with Image.open(next(tmp_path.rglob("gallery.jpg"))) as picture:
        red, green, blue = np.moveaxis(np.asarray(picture).astype(int), 2, 0)
    assert (green - red - blue > 100).sum() > 200 and (red - green - blue > 100).sum() > 200  # the boxes are there


def test_protocol_2_is_that_of_the_library_call(make_target, source, about, tiny_net, tmp_path, rng, monkeypatch):
    names = tuple(f"{index}" for index in range(len(source)))
    rows = rng.dirichlet(np.ones(3), len(source)).astype(np.float32)
    shuffled, order = rng.permutation(len(source)), [2, 0, 1]  # another order of images and classes
    of_classes = tuple(source.classes[label] for label in order)
    file = Posteriors(
        rows[shuffled][:, order][None], (40,), np.zeros(len(source), np.int32), tuple(names[i] for i in shuffled),
        of_classes, about,
    )  # fmt: skip
    file.save(tmp_path / "dense.npz")
    theirs, classifier = (tiny_net("A", num_classes=3, classes=names) for names in (of_classes, source.classes))
    classifier.fc8.kernel[...] = theirs.fc8.kernel[...][..., np.argsort(order)]
    monkeypatch.setattr("vgg_jax.commands.labels.load", {"runs/net": theirs}.get)
    targets = [make_target(), make_target([(0.5, 0.5, 0.6, 0.9)], "shared")]
    for target in targets:
        target.config.localization.posteriors = str(tmp_path / "dense.npz")
        target.config.localization.classifier = "runs/net"
        target.config.localization.threshold = 0.3
    evaluate(targets, tmp_path / "out")
    lines = [row for row in rows_of(tmp_path / "out") if row["table"] == 9]
    assert [line["setting"].count("+") for line in lines] == [0, 0, 0, 0, 1] and len(lines) == 5
    for line, net, scales in ((lines[0], targets[0].net, (40,)), (lines[3], targets[1].net, (36, 40))):
        options = {"classifier": classifier, "scales": scales, "threshold": 0.3}
        found = vgg_jax.localize(net, pixels(source), rows, **options)
        right = {1: 0, 5: 0}
        for index, label, objects in asked(source):
            guesses = [
                number == label and max(overlap(box, corners) for corners in objects) > 0.5
                for box, number in zip(found[index].corners, found[index].classes, strict=True)
            ]
            right = {top: count + any(guesses[:top]) for top, count in right.items()}
        errors = {top: 100 * (1 - count / len(asked(source))) for top, count in right.items()}
        assert line["top5"] == pytest.approx(errors[5]) and line["top1"] == pytest.approx(errors[1])
        assert line["top1"] > line["top5"] == line["given"] < 100  # three classes: all are among the best five
    assert 0 < lines[4]["iou"] != lines[1]["iou"] > 0


def test_networks_of_two_tasks_are_not_fused(make_target, source, tmp_path, monkeypatch):
    other = make_target(name="other")
    other.config.task = "classification"
    with pytest.raises(ConfigError, match="other is a network of classification: it cannot be fused with one of local"):
        evaluate([make_target(), other], tmp_path)
    monkeypatch.setattr(evaluation, "find_targets", lambda **given: iter([make_target()]))
    assert evaluation.run([], workdir=str(tmp_path), checkpoint=[]) == 0  # the first one's task decides
    assert rows_of(tmp_path)[0]["table"] == 8


def test_networks_that_are_merged_are_evaluated_alike(make_target, source):
    for key, value in {"posteriors": "a.npz", "classifier": "runs/D", "match": "overfeat", "threshold": 0.3}.items():
        other = make_target()
        other.config.localization[key] = value
        with pytest.raises(ConfigError, match=f"config.localization.{key}: name one for all networks"):
            localization._check_alike(other, source, make_target(), source)


@pytest.fixture
def about():
    """What a file of posteriors says of itself."""
    return {"protocol": "dense", "network": "A", "S": [40, 40], "source": "rectangles", "split": "validation"}


def test_several_processes_share_the_images(make_target, source, tmp_path, monkeypatch):
    evaluate([make_target()], tmp_path / "alone")
    shares = []
    for rank, gather in (  # one after the other; the first one, which writes, is given what the second one found
        (1, lambda found: shares.append(found) or found[None]),
        (0, lambda found: np.stack([found, shares.pop(0)])),
    ):
        process = SimpleNamespace(process_index=lambda rank=rank: rank, process_count=lambda: 2)
        monkeypatch.setattr(localization, "jax", process)
        monkeypatch.setattr(localization_dataset, "jax", process)
        monkeypatch.setattr(localization_dataset, "multihost_utils", SimpleNamespace(process_allgather=gather))
        text = evaluate([make_target()], tmp_path / "shared")
        assert all(0 < (found[:, 0] < 0).sum() < len(found) for found in shares) and len(shares) == 3 * rank
    assert rows_of(tmp_path / "shared") == rows_of(tmp_path / "alone") and "could not be read" not in text


def test_what_the_classification_run_could_not_read_is_left_out(make_target, source, about, tmp_path):
    names = tuple(f"{index}" for index in range(len(source)))
    values = np.full((1, len(source) - 1, 3), 1 / 3, np.float32)
    labels = np.zeros(len(source) - 1, np.int32)
    file = Posteriors(values, (40,), labels, names[1:], source.classes, about, {"0": "not an image"})
    file.save(tmp_path / "dense.npz")
    target = make_target()
    target.config.localization.posteriors = str(tmp_path / "dense.npz")
    text = evaluate([target], tmp_path / "out")
    assert {row["count"] for row in rows_of(tmp_path / "out")} == {sum(index > 0 for index, *_ in asked(source))}
    assert "1 images could not be read and are not counted:\n  validation/0: it has no posteriors: not an image" in text


def test_posteriors_of_other_images_are_refused(make_target, source, about, tmp_path):
    target = make_target()
    target.config.localization.posteriors = str(tmp_path / "dense.npz")
    for images, classes, message in (
        (("a",), source.classes, "it has no image 0; evaluate a classification run over the same images"),
        (("0",), ("red", "green", "pink"), "its 3 classes are not the 3 of rectangles"),
    ):
        Posteriors(np.ones((1, 1, 3), np.float32), (40,), np.zeros(1, np.int32), images, classes, about).save(
            tmp_path / "dense.npz"
        )
        with pytest.raises(DataError, match=message):
            evaluate([target], tmp_path / "out")


def test_posteriors_of_another_source_are_refused_whatever_its_images_are_called(make_target, source, about, tmp_path):
    config = make_target().config
    config.localization.posteriors = str(tmp_path / "dense.npz")
    names = tuple(f"{index}" for index in range(len(source)))
    values, zeros = np.full((1, len(source), 3), 1 / 3, np.float32), np.zeros(len(source), np.int32)

    def taken(**of):
        Posteriors(values, (40,), zeros, names, source.classes, about | of).save(tmp_path / "dense.npz")
        return posteriors_of(config, source)[0]

    for of in ({"source": "folder:A"}, {"split": "train"}):
        with pytest.raises(DataError, match="--config.data.source=rectangles --config.evaluate.split=validation"):
            taken(**of)
    np.testing.assert_array_equal(taken(source="/moved/rectangles", content=source.fingerprint()), values[0])


def test_an_image_has_the_posteriors_of_the_longest_end_of_its_path(about):
    images, rows = ("1.jpg", "cat/1.jpg"), np.eye(2, dtype=np.float32)
    file = Posteriors(rows[None], (40,), np.zeros(2, np.int32), images, ("cat", "dog"), about, {"2.jpg": "damaged"})
    paths = [Path(name) for name in ("/a/cat/1.jpg", "/a/1.jpg", "/a/cat/2.jpg")]
    names = names_in(file, "dense.npz", paths)
    assert names == ["cat/1.jpg", "1.jpg", "2.jpg"]
    assert names_in(file, "dense.npz", paths[:1]) == names[:1]  # also where it is the only one
    rows, _ = labels.rows_of(file, "dense.npz", names, file.classes, "boxes")
    np.testing.assert_array_equal(rows, [[0, 1], [1, 0], [0, 0]])
    with pytest.raises(DataError, match="its image 1.jpg could be /a/1.jpg or /b/1.jpg; predict one of them at a time"):
        names_in(file, "dense.npz", [Path("/a/1.jpg"), Path("/b/1.jpg")])


@pytest.fixture
def photographs(tmp_path, rng):
    for name, shape in (("a.png", (90, 64, 3)), ("b.png", (40, 70, 3))):
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(tmp_path / name)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    return [tmp_path / name for name in ("a.png", "b.png", "broken.jpg")]


def test_predictions_are_boxes_in_pixels_of_the_image(make_target, photographs, tmp_path, capsys):
    target = make_target(BOXES[:1])
    assert predict(target, photographs, as_json=True, boxes=tmp_path / "boxes", all_boxes=True) == 1
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    images = [np.asarray(Image.open(path)) for path in photographs[:2]]
    for record, found in zip(records, vgg_jax.localize(target.net, images, scales=(36, 40)), strict=False):
        ((entry,), (corners,)) = record["boxes"], found.corners
        assert [entry[edge] for edge in ("left", "top", "right", "bottom")] == pytest.approx(corners, abs=0.02)
        assert entry["name"] is None and entry["score"] == pytest.approx(found.scores[0])
    assert records[2]["problem"] == "not an image in a known format"
    for name in "ab":
        with Image.open(tmp_path / f"boxes/{name}.png") as picture:
            assert picture.width > 2 * 500
    assert predict(target, photographs[:1], as_json=False, boxes=tmp_path / "boxes") == 0  # its own is replaced
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("a.png") and " to " in lines[1] and len(lines) == 2
    before = photographs[0].read_bytes()
    with pytest.raises(ConfigError, match="a.png: is there already and would be replaced"):
        predict(target, photographs[:1], as_json=False, boxes=tmp_path)
    assert photographs[0].read_bytes() == before


def test_predictions_are_rated_by_a_classifier(
    make_target, tiny_net, photographs, about, tmp_path, capsys, monkeypatch
):
    target, classifier = make_target(), tiny_net("A", num_classes=3, classes=("red", "green", "blue"))
    monkeypatch.setattr("vgg_jax.commands.labels.load", {"runs/net": classifier}.get)
    target.config.localization.classifier = "runs/net"
    with pytest.raises(
        ConfigError, match="classifier rates the boxes of classes: --config.localization.posteriors=FILE"
    ):
        predict(make_target(BOXES[:1])._replace(config=target.config), photographs, as_json=True)
    rows = np.array([[0.5, 0.3, 0.2]], np.float32)
    unreadable = {"b.png": "not an image", "broken.jpg": "not an image"}
    file = Posteriors(rows[None], (40,), np.zeros(1, np.int32), ("a.png",), target.classes, about, unreadable)
    file.save(tmp_path / "dense.npz")
    target.config.localization.posteriors = str(tmp_path / "dense.npz")
    assert predict(target, photographs, as_json=True) == 2
    first, second, _ = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    image = np.asarray(Image.open(photographs[0]))
    (found,) = vgg_jax.localize(target.net, [image], rows, classifier=classifier, scales=(36, 40))
    assert [entry["name"] for entry in first["boxes"]] == ["red", "green", "blue"]
    assert [entry["score"] for entry in first["boxes"]] == pytest.approx(found.scores, abs=1e-4)
    assert [entry["left"] for entry in first["boxes"]] == pytest.approx(found.corners[:, 0], abs=0.02)
    assert second["problem"] == "it has no posteriors: not an image"


def test_flags_of_the_other_task_and_missing_posteriors_are_named(make_target, photographs, monkeypatch):
    flags = {"protocol": "dense", "json": False, "heat_maps": None, "boxes": None, "all_boxes": False, "probe": None}
    flags["workdir"] = None
    target = make_target()
    monkeypatch.setattr(prediction, "find_target", lambda **network: target)
    with pytest.raises(ConfigError, match="--config.localization.posteriors=FILE gives a classification run's"):
        prediction.run([str(photographs[0])], **flags)
    with pytest.raises(ConfigError, match="there are no --heat_maps, and its --protocol is dense"):
        prediction.run([str(photographs[0])], **flags | {"protocol": "center"})
    with pytest.raises(ConfigError, match="--all_boxes are drawn into the pictures of --boxes=FOLDER"):
        prediction.run([str(photographs[0])], **flags | {"all_boxes": True})
    target.config.task = "classification"
    with pytest.raises(ConfigError, match="--boxes and --all_boxes are for a network that localizes"):
        prediction.run([str(photographs[0])], **flags | {"boxes": "x"})


def test_in_five_folds_every_image_is_found_once_by_a_net_that_does_not_know_it(tmp_path):
    record = tmp_path / "record"
    (tmp_path / "python").write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" end >> {record}\n")
    (tmp_path / "python").chmod(0o755)
    command = ["bash", "launch/folds.sh", "voc:photographs", "runs", "--config.seed=3"]
    subprocess.run(command, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)
    *runs, _ = [lines.splitlines() for lines in record.read_text().split("end\n")[:-1]]
    assert len(runs) == 10 and all("--config.seed=3" in run for run in runs)
    roles, found = {"train": range(229), "validation": range(229, 286)}, []
    for training, evaluated in zip(runs[::2], runs[1::2], strict=True):
        given = dict(argument.removeprefix("--config.").split("=", 1) for argument in training[2:])
        assert "--mode=evaluate" in evaluated and f"--workdir={given['--workdir']}" in evaluated
        new = select(given["data.validation_split"], roles.get)
        assert given["evaluate.split"] == given["data.validation_split"] and 55 < len(new) < 59
        assert sorted([*select(given["data.train_split"], roles.get), *new]) == list(range(286))
        found += new
    assert sorted(found) == list(range(286))
