"""Localization: what a batch says of its boxes is what its pixels show; the loss, the validation, whole runs."""

import functools
import io
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.boxed import COLORS, Rectangles
from vgg_jax import CheckpointError, DataError
from vgg_jax.checkpoint import load_network, read_arrays, read_meta
from vgg_jax.config import default_config
from vgg_jax.model.box_outputs import outputs_of
from vgg_jax.model.from_config import new_network
from vgg_jax.tasks import classification, localization, random_crops
from vgg_jax.tasks.choose import TASKS, make_task
from vgg_jax.tasks.localization import localization_loss
from vgg_jax.train import loop, metric_writer, resume

FROZEN = ("conv1", "conv2", "conv3", "conv4", "conv5")
train = functools.partial(loop.train, make_task=make_task)


@pytest.fixture
def sources(monkeypatch):
    """The sources by split; a test may replace them."""
    splits = {"train": Rectangles("train"), "validation": Rectangles("validation", 8, difficult=True)}
    for module in (classification, localization, random_crops):
        monkeypatch.setattr(module, "open_source", lambda name, split: splits[split])
    return splits


@pytest.fixture
def config(sources):
    config = default_config()
    config.task = "localization"
    config.model.net, config.model.width, config.model.hidden, config.init.scheme = "A", 0.0625, 32, "he"
    config.model.dropout, config.data.color_shift, config.data.statistics = 0.0, 0.0, "imagenet"
    config.data.crop, config.data.scale, config.data.threads = 32, (36, 40), 2
    config.train.batch_size, config.train.steps, config.train.learning_rate = 16, 4, 3e-3
    config.schedule.kind, config.log.every, config.evaluate.every, config.checkpoint.every = "fixed", 4, 4, 4
    return config


def shows(image, label, box):
    """Whether what an image (h, w, 3) shows of the color of a class has the edges of a box, to a pixel and a half."""
    color = np.array(list(COLORS.values())[label])
    rows, columns = np.nonzero(np.abs(image - color).max(-1) < 80)
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    x, y, width, height = box * len(image)
    edges = np.clip([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 0, len(image))
    return np.abs(found - edges).max() < 1.5


@pytest.mark.parametrize("cached_views", [0, 3])
def test_the_boxes_of_a_batch_are_around_what_the_crops_show(config, sources, one_device, tmp_path, cached_views):
    sources["train"] = Rectangles("train", objects=1)  # so that the color says which box is meant
    config.train.cached_views, config.train.freeze = cached_views, FROZEN * bool(cached_views)
    task = make_task(config, one_device, tmp_path)
    net = new_network(config, task.outputs, jnp.float32)
    keys, flipped = jax.random.split(jax.random.key(1), config.train.batch_size), 0
    for k, batch in enumerate(itertools.islice(task.batches(net, 0), 3)):
        assert batch.keys() >= task.batch_shapes.keys()
        if cached_views:
            shown = task.views(*task.places(k))
            np.testing.assert_allclose(batch["boxes"], shown["boxes"], atol=1e-6)  # what the steps are given
            np.testing.assert_array_equal(batch["label"], shown["label"])
        else:
            shown = task.augment(batch, keys)
            flipped += np.sum(np.abs(shown["boxes"][:, 0] - batch["boxes"][:, 0]) > 1e-6)
        for image, label, box in zip(*(np.asarray(shown[name]) for name in ("image", "label", "boxes"))):
            assert shows(image, label, box)
    assert cached_views or 10 < flipped < 38


def test_views_are_computed_again_where_an_annotation_has_changed(config, sources, one_device, tmp_path, caplog):
    config.train.cached_views, config.train.freeze = 1, FROZEN
    before, after = {}, {}
    for boxes in (before, after):
        task = make_task(config, one_device, tmp_path)
        batches = task.batches(new_network(config, 12, jnp.float32), 0)
        for k, batch in enumerate(itertools.islice(batches, 2)):
            boxes |= dict(zip(task.places(k)[0].tolist(), batch["boxes"]))
        sources["train"].objects.corners[0, 2] -= 3
    assert "view0 was made otherwise (content: " in caplog.text
    assert {index for index in after if not np.array_equal(before[index], after[index])} == {0}


def test_every_object_is_an_example_and_difficult_ones_are_none(config, sources, one_device, tmp_path):
    sources["train"] = Rectangles("train", difficult=True)
    task = make_task(config, one_device, tmp_path)
    assert len(task.source) == (~sources["train"].objects.difficult).sum() < len(sources["train"].objects.image)
    assert task.outputs == 12 and task.classes == ("red", "green", "blue")
    config.localization.per_class = False
    assert make_task(config, one_device, tmp_path).outputs == 4


@pytest.mark.parametrize("boxes", [1, 3])
def test_the_loss_is_half_the_squared_distance_of_the_box_of_the_true_class(boxes, rng):
    outputs = rng.normal(size=(6, 1, 1, 4 * boxes)).astype(np.float32)
    batch = {
        "label": np.array([0, 1, 2, 1, 0, 2], np.int32),
        "boxes": np.array(
            [
                [0.5, 0.5, 0.8, 0.6],
                [0.3, 0.6, 0.5, 0.5],
                [1.1, 0.5, 0.5, 0.5],  # 0.3 of it are in the crop
                [0.9, 0.5, 0.4, 1.0],  # 0.75
                [0.0, 0.0, 0.0, 0.0],  # there is no image
                [0.5, 0.9, 0.2, 0.6],  # 0.67
            ],
            np.float32,
        ),
        "mask": np.array([1, 1, 1, 1, 0, 1], np.float32),
    }
    expected = dict.fromkeys(("loss", "iou", "localized", "lost"), 0.0)
    for place in range(6):
        number = 4 * batch["label"][place] * (boxes > 1)
        predicted = outputs[place, 0, 0, number : number + 4].astype(np.float64)
        target = outputs_of(batch["boxes"][place, None].astype(np.float64))
        if place == 2:
            expected["lost"] += 1
        elif place != 4:
            expected["loss"] += 0.5 * sum((p - t) ** 2 for p, t in zip(predicted, target))
            (x, y, w, h), (u, v, a, b) = (0.5, 0.5, 0.7, 0.7) + predicted / 10, batch["boxes"][place].astype(float)
            common = max(0, min(x + w / 2, u + a / 2) - max(x - w / 2, u - a / 2)) * max(
                0, min(y + h / 2, v + b / 2) - max(y - h / 2, v - b / 2)
            )
            expected["iou"] += common / (w * h + a * b - common)
            expected["localized"] += common / (w * h + a * b - common) > 0.5
    loss, metrics = jax.jit(localization_loss)(outputs, batch)
    assert loss == metrics["loss"] and metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)
    gradient = jax.grad(lambda outputs: localization_loss(outputs, batch)[0])(outputs)
    assert (np.abs(gradient).sum((1, 2, 3)) > 0).tolist() == [True, True, False, True, False, True]


@pytest.mark.parametrize("per_class", [True, False])
def test_a_validation_counts_what_the_central_crop_gives_for_the_true_class(
    config, sources, one_device, tmp_path, per_class
):
    config.localization.per_class, config.evaluate.scale, config.data.flip = per_class, 36, False
    task = make_task(config, one_device, tmp_path)
    net = new_network(config, task.outputs, jnp.float32)
    constant = np.array([[0.3, 0.5, 0.5, 0.7], [0.5, 0.5, 0.8, 0.8], [0.6, 0.5, 0.4, 0.6]])  # boxes, whatever is seen
    constant = constant if per_class else constant[:1]
    net.fc8.kernel[...], net.fc8.bias[...] = jnp.zeros_like(net.fc8.kernel[...]), jnp.asarray(outputs_of(constant))
    source, best = sources["validation"], {}
    for image, label, corners, difficult in zip(*source.objects):
        if difficult:
            continue
        with Image.open(io.BytesIO(source[image]["image"])) as file:
            width, height = file.size
        ratio = min(width, height) / 36  # the central crop, in pixels of the image
        window = [(side - 32 * ratio) / 2 for side in (height, width)]
        x, y, w, h = constant[label if per_class else 0]
        left, top = window[1] + 32 * ratio * (x - w / 2), window[0] + 32 * ratio * (y - h / 2)
        box = left, top, left + 32 * ratio * w, top + 32 * ratio * h
        common = np.prod([max(0, min(box[i + 2], corners[i + 2]) - max(box[i], corners[i])) for i in (0, 1)])
        areas = [(a[2] - a[0]) * (a[3] - a[1]) for a in (box, corners)]
        best[image, label] = max(best.get((image, label), 0), common / (sum(areas) - common))
    assert len(best) < (~source.objects.difficult).sum()  # of two objects of one class the nearer one counts
    metrics = task.evaluate(net)
    overlaps = np.array([*best.values()])
    np.testing.assert_allclose(metrics["iou"], overlaps.mean(), atol=0.01)  # windows lie on whole pixels
    assert np.abs(overlaps - 0.5).min() > 0.01 and metrics["localized"] == (overlaps > 0.5).mean()
    assert 0 < metrics["localized"] < 1 and metrics["images"] == len({image for image, _ in best}) == 7


def test_training_finds_the_objects(config, sources, tmp_path, caplog):
    sources["train"] = sources["validation"] = Rectangles("train", objects=1)  # does it learn at all?
    config.train.steps = config.evaluate.every = config.checkpoint.every = 60
    config.train.learning_rate = 0.01
    with caplog.at_level("INFO", logger="vgg_jax"):
        metrics = train(config, tmp_path)
    rows = [row for row in metric_writer.read(tmp_path) if "train_loss" in row]
    assert {"train_loss", "train_iou", "train_localized", "train_lost"} <= rows[0].keys()
    assert rows[-1]["train_loss"] < 0.6 * rows[0]["train_loss"] and metrics["localized"] > 0.6
    assert "training on rectangles, split train: 12 images of 3 classes, 12 objects" in caplog.text
    assert f"step 60: validation localized {metrics['localized']:.2%}" in caplog.text
    net, meta = load_network(tmp_path)
    assert net.num_classes == meta["outputs"] == 12 and meta["config"]["task"] == "localization" and not net.classes
    for picture in ("batch.png", "curves.png"):
        with Image.open(tmp_path / picture) as image:
            assert min(image.size) > 200


@pytest.mark.parametrize("frozen", ["nothing", "cached convolutions"])
def test_a_run_goes_on_with_the_same_bits(config, one_device, tmp_path, frozen):
    config.train.freeze = () if frozen == "nothing" else FROZEN
    config.train.cached_views, config.data.color_shift, config.model.dropout = 2 * ("cached" in frozen), 0.1, 0.5
    train(config, tmp_path / "whole")
    config.train.steps = 2
    train(config, tmp_path / "cut")
    config.train.steps = 4
    train(config, tmp_path / "cut")
    whole, cut, begun = (
        read_arrays(tmp_path / name) for name in ("whole/checkpoints/4", "cut/checkpoints/4", "cut/checkpoints/2")
    )
    for (path, a), b in zip(jax.tree.leaves_with_path(whole), jax.tree.leaves(cut), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
    moved = {layer for layer in whole if not np.array_equal(*(jax.tree.leaves(a[layer])[0] for a in (whole, begun)))}
    assert {"fc6", "fc7", "fc8"} <= moved and ("conv1_1" in moved) == (frozen == "nothing")
    config.task = "classification"
    with pytest.raises(CheckpointError, match="config.task: localization -> classification"):
        resume.check(config, make_task(config, one_device, tmp_path), read_meta(tmp_path / "cut/checkpoints/4"))


def test_sources_without_boxes_are_refused(config, sources, one_device, tmp_path):
    sources["validation"].objects = None
    with pytest.raises(DataError, match="config.data.source='.*' has no boxes, and config.task='localization' needs"):
        make_task(config, one_device, tmp_path)
    sources["validation"] = Rectangles("validation", 8)
    sources["validation"].objects.difficult[:] = True
    with pytest.raises(DataError, match="rectangles, split validation: .*: there is no object, or none that is not"):
        make_task(config, one_device, tmp_path)


def test_a_bad_box_is_named_or_left_out(config, sources, one_device, tmp_path):
    sources["train"].objects.corners[1] = 10, 10, 5, 20
    with pytest.raises(DataError, match=r"train/1, object 1 \(.*\): its corners are swapped"):
        make_task(config, one_device, tmp_path)
    config.data.on_error = "skip"
    task = make_task(config, one_device, tmp_path)
    assert len(task.source) == len(sources["train"].objects.label) - 1
    assert "objects left out because of their boxes: 1" in task.source.describe()


def test_a_bad_image_counts_for_nothing(config, sources, one_device, tmp_path):
    config.data.on_error = "skip"
    task = make_task(config, one_device, tmp_path)
    for source in sources.values():  # after their sizes were looked at
        source._images[1] = b"no image"
    net = new_network(config, task.outputs, jnp.float32)
    keys = jax.random.split(jax.random.key(0), config.train.batch_size)
    batches = list(itertools.islice(task.batches(net, 0), 3))
    assert sum(batch["mask"].sum() for batch in batches) == 48 - 2 * 2  # two objects, of two epochs
    loss, _ = jax.jit(lambda batch: task.loss(net, batch, keys))(
        {name: np.concatenate([batch[name] for batch in batches])[:16] for name in task.batch_shapes}
    )
    assert np.isfinite(loss)
    assert task.evaluate(net)["images"] == 6 and task.problems.keys() == {"train/1", "validation/1"}


def test_the_tasks_of_a_config_are_these():
    from vgg_jax import config

    assert tuple(TASKS) == config.TASKS
