"""From photographs in folders to a tested classifier: held against scikit-learn on the same descriptors."""

import csv
import json
import shutil

import numpy as np
import pytest
from flax import nnx
from PIL import Image
from sklearn.svm import LinearSVC

import vgg_jax
from tests.photographs import image_of
from vgg_jax.data.open import open_source
from vgg_jax.data.source import Objects
from vgg_jax.transfer import experiment
from vgg_jax.transfer.descriptors import Descriptor, of_images
from vgg_jax.transfer.experiment import fit_probe
from vgg_jax.transfer.metrics import METRICS
from vgg_jax.transfer.probe import LinearProbe
from vgg_jax.transfer.report import save_report
from vgg_jax.transfer.settings import TransferSettings

FEW = TransferSettings(("pool5",), (32,), ("stack",), splits=2, shots=4, test_per_class=3, C=(1.0,), solver="liblinear")


@pytest.fixture(scope="module")
def net():
    return vgg_jax.VGG("A", num_classes=5, crop=32, width=1 / 16, init="he", rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Three classes of reddish, greenish and bluish photographs."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(27):
        role, color = "train" if number < 21 else "test", number % 3
        image = image_of((40, 40), number) * 0.5
        image[..., color] += 60
        path = folder / role / "rgb"[color] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def fit(net, photographs, one_device, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")

    def fit(settings=FEW, nets=net, split="train", **options):
        options = {"store": store, "mesh": one_device} | options
        return fit_probe(nets, f"folder:{photographs}", settings, split=split, **options)

    return fit


def test_it_is_scikit_learns_on_the_same_descriptors(fit, net, one_device, tmp_path):
    result = fit()
    source = result.source
    of = lambda rows: of_images(
        [net], [source.name_of(row) for row in rows], Descriptor("pool5", (32,)), mesh=one_device
    )
    train = np.setdiff1d(np.arange(len(source)), result.test)
    assert len(train) == 12 and np.bincount(source.files.labels[train]).tolist() == [4, 4, 4]
    theirs = LinearSVC(C=1.0, tol=1e-6, max_iter=100_000).fit(of(train), source.files.labels[train])
    np.testing.assert_allclose(result.decisions, theirs.decision_function(of(result.test)), atol=2e-3)
    np.testing.assert_array_equal(result.truth, source.files.labels[result.test])
    recall, accuracy = (result.scores[0].values[name] for name in ("mean_class_recall", "accuracy"))
    right = result.decisions.argmax(1) == result.truth
    assert len(recall) == 2 and recall[0] == pytest.approx(right.mean()) == pytest.approx(accuracy[0])
    assert right.mean() > 0.6  # of three classes
    assert str(result).startswith("folder:") and "mean class recall" in str(result)
    result.probe.save(tmp_path / "probe.npz")
    probe = LinearProbe.load(tmp_path / "probe.npz")
    np.testing.assert_allclose(probe.decide(of(result.test), probe.about), result.decisions, atol=1e-6)
    assert probe.classes == ("b", "g", "r")


def test_several_networks_are_stacked(fit, net):
    other = vgg_jax.VGG("A", num_classes=5, crop=32, width=1 / 8, init="he", rngs=nnx.Rngs(1))
    result = fit(nets=[net, other])
    assert result.probe.weights.shape == (32 + 64, 3) and len(result.probe.about["weights"]) == 2


def test_the_best_on_held_out_images_is_chosen_in_each_split(fit, monkeypatch):
    held_out = iter([0.2, 0.9, 0.9, 0.9, 0.5, 0.1])  # of two splits: pool4's, pool5's, conv3_2's
    original, sizes = experiment.fit_svm, []

    def fit_svm(descriptors, targets, metric, *, grid, **options):
        sizes.append((len(descriptors), descriptors.shape[1], tuple(grid)))
        return original(descriptors, targets, metric, grid=grid, **options)._replace(
            validation={grid[0]: next(held_out)} if len(sizes) <= 6 else {}
        )

    monkeypatch.setattr(experiment, "fit_svm", fit_svm)
    result = fit(FEW._replace(layers=("pool4", "pool5", "conv3_2"), curve=(1, 2, 4)))
    *each, chosen = result.scores
    assert [str(score.descriptor) for score in each] == ["pool4, Q = 32", "pool5, Q = 32", "conv3_2, Q = 32"]
    assert [score.held_out for score in each] == [(0.2, 0.9), (0.9, 0.9), (0.5, 0.1)]
    assert chosen.descriptor is None and chosen.held_out == (0.9, 0.9)
    for metric, values in chosen.values.items():
        assert values == (each[1].values[metric][0], each[0].values[metric][1])
    assert result.probe.about["layer"] == "pool5"
    assert result.score is chosen
    # The learning curve, by the chosen descriptors and C; its last point is the table's.
    assert sizes[6:] == [(3, 32, (1.0,)), (3, 32, (1.0,)), (6, 32, (1.0,)), (6, 32, (1.0,))]
    assert [score.shots for score in result.curve] == [1, 2, 4] and result.curve[-1] is chosen


def test_of_several_descriptors_the_first_is_taken_where_nothing_is_held_out(fit):
    result = fit(FEW._replace(layers=("pool5", "pool4"), curve=(1,)))
    assert [str(score.descriptor) for score in result.scores] == ["pool5, Q = 32", "pool4, Q = 32"]
    assert result.score is result.scores[0] is result.curve[-1] and not result.score.held_out
    assert result.probe.about["layer"] == "pool5"


def test_the_learning_curve_has_no_point_beyond_the_images(fit, tmp_path, caplog):
    def points(**change):
        result = fit(FEW._replace(curve=(1, 6, 15), **change), split="train", test_split="test")
        save_report(tmp_path, result, "heading", "A")
        with (tmp_path / "curve.csv").open() as file:
            return [float(row["shots"]) for row in csv.DictReader(file) if row["metric"] == "accuracy"]

    assert points(shots=4) == [1, 4] and "ends at 4 images of a class: [6, 15] are left out" in caplog.text
    assert points(splits=0, shots=0) == [1, 6, 7]  # all: seven of each class


def test_without_random_splits_the_sources_own_count(fit):
    result = fit(FEW._replace(splits=0, shots=0), split="train", test_split="test")
    assert len(result.source) == 27 and {result.source.name_of(row).split("/")[-3] for row in result.test} == {"test"}
    assert len(result.test) == 6 and len(result.scores[0].values["accuracy"]) == 1


def test_images_with_several_classes(fit, photographs, monkeypatch, tmp_path):
    """Average precision over all images but those that do not count."""

    class WithObjects(type(open_source(f"folder:{photographs}", "train"))):
        @property
        def objects(self):
            """Of each image its own class; of every third a difficult one, too."""
            labels, more = self.files.labels, np.arange(0, len(self), 3)
            image, label = np.append(np.arange(len(self)), more), np.append(labels, (labels[more] + 1) % 3)
            order = np.argsort(image, kind="stable")
            difficult = np.repeat([False, True], [len(self), len(more)])
            return Objects(image[order], label[order], np.zeros((len(order), 4), np.float32), difficult[order])

    monkeypatch.setattr(experiment, "open_source", lambda name, split: WithObjects(str(photographs), split))
    result = fit(FEW._replace(splits=0, shots=0, metric="mean_ap_11"), split="train", test_split="test")
    assert result.truth.shape == (6, 3) and (result.truth == -1).sum() == 2 and (result.truth == 1).sum() == 6
    (value,) = result.score.values["mean_ap_11"]
    assert value > 0.8
    guesses = np.random.default_rng(0).normal(size=(6, 3))
    save_report(tmp_path, result._replace(decisions=guesses), "heading", "A")
    (record,) = json.loads((tmp_path / "tables.json").read_text())
    assert record["mean_ap_11"] == [value]
    with (tmp_path / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["b", "g", "r"]
    means = {name: METRICS[name](guesses, result.truth) for name in ("mean_ap", "mean_ap_11")}
    assert np.mean([float(row["average_precision"]) for row in rows]) == pytest.approx(means["mean_ap_11"], abs=1e-4)
    assert abs(means["mean_ap"] - means["mean_ap_11"]) > 0.005
    assert not (tmp_path / "confusion.csv").exists()


def test_a_box_is_described_by_its_image_and_by_itself(net, one_device, tmp_path):
    """Six images of two boxes each: in the reddish one somebody runs and reads, in the other one somebody sits."""
    lines = []
    for number in range(6):
        image = image_of((48, 80), number) * 0.5
        image[:, (0, 40)[number % 2] : (40, 80)[number % 2], 0] += 90
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"{number}.png")
        boxes = ([0, 0, 40, 48], [40, 0, 80, 48])
        red, other = boxes[number % 2], boxes[1 - number % 2]
        objects = [("reads", red), ("sits", other), ("runs", red)]
        objects = [{"class": name, "box": box} for name, box in objects]
        split = "train" if number < 4 else "test"
        lines.append(json.dumps({"image": f"{number}.png", "objects": objects, "split": split}))
    (tmp_path / "boxes.jsonl").write_text("\n".join(lines))
    settings = FEW._replace(splits=0, shots=0, metric="mean_ap", regions=("image", "box"))
    options = {"split": "train", "test_split": "test", "mesh": one_device}
    result = fit_probe(net, f"boxes:{tmp_path}/boxes.jsonl", settings, **options)
    assert result.source.classes == ("reads", "runs", "sits") and len(result.source) == 12
    assert sorted(result.truth.tolist()) == [[0, 0, 1], [0, 0, 1], [1, 1, 0], [1, 1, 0]]
    assert result.probe.weights.shape == (2 * 32, 3) and result.scores[0].values["mean_ap"] == (1.0,)
    assert result.probe.of_boxes
    # The whole image says nothing of which of its boxes is red. Who only sits is of no class, and counts as a negative.
    alone = settings._replace(regions=("image",), rest="sits")
    alone = fit_probe(net, f"boxes:{tmp_path}/boxes.jsonl", alone, **options)
    assert alone.probe.weights.shape == (32, 2) and alone.probe.classes == ("reads", "runs")
    assert sorted(alone.truth.tolist()) == [[0, 0], [0, 0], [1, 1], [1, 1]] and not alone.probe.of_boxes
    assert alone.scores[0].values["mean_ap"][0] < 0.7


@pytest.mark.parametrize("splits", [0, 2])
def test_a_class_of_which_there_is_no_image_to_train_on_is_named(net, one_device, photographs, tmp_path, splits):
    """The last one, whose number no label is: its images cannot be read."""
    shutil.copytree(photographs, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("train/r/*"):
        path.write_bytes(b"no image")
    settings = FEW._replace(splits=splits, shots=2 if splits else 0)
    options = {"split": "train", "test_split": "test", "mesh": one_device, "on_error": "skip"}
    with pytest.raises(vgg_jax.DataError, match="class r"):
        fit_probe(net, f"folder:{tmp_path}", settings, **options)


def test_mistakes_are_named(fit, photographs):
    with pytest.raises(vgg_jax.DataError, match=r"class .: 7 images, of which 7 are to be trained on"):
        fit(FEW._replace(shots=7))
    with pytest.raises(vgg_jax.ConfigError, match="Q = 16 is below"):
        fit(FEW._replace(scales=(16,)))
    with pytest.raises(vgg_jax.DataError, match="has one label for each image"):
        fit(FEW._replace(metric="mean_ap", splits=0, shots=0), test_split="test")
    with pytest.raises(vgg_jax.DataError, match="its images have no boxes"):
        fit(FEW._replace(regions=("box",)))


def test_settings_that_cannot_work_are_refused_before_any_image_is_read(fit, monkeypatch):
    monkeypatch.setattr(experiment, "open_source", None)
    with pytest.raises(vgg_jax.ConfigError, match="config.transfer.rest='other' leaves boxes without a class"):
        fit(FEW._replace(regions=("box",), rest="other"))
