"""The loop knows no task: one of boxes, with metrics and outputs of its own, trains, resumes and is plotted."""

import collections
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from vgg_jax.checkpoint import Checkpoints, load_network, read_arrays
from vgg_jax.config import default_config
from vgg_jax.data.augment import augment
from vgg_jax.train import loop, metric_writer
from vgg_jax.train.loop import train
from vgg_jax.train.watchdog import Watchdog

COLORS = {"eigenvalues": jnp.full(3, 0.1), "eigenvectors": jnp.eye(3)}


def overlap(a, b):
    """Intersection over union of boxes (n, 4): center x, center y, width, height."""
    low = jnp.maximum(a[:, :2] - a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2)
    high = jnp.minimum(a[:, :2] + a[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)
    common = jnp.maximum(high - low, 0).prod(1)
    return common / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - common)


class Rectangles:
    """Where is the white rectangle?"""

    source, classes, outputs = collections.UserList(), ("rectangle",), 4
    source.name = "rectangles"  # drawn as they are needed: none are kept
    mean_rgb, monitor = (60.0, 60.0, 60.0), "overlap"

    def __init__(self, config, mesh, workdir):
        self.problems, self.size = {}, config.train.batch_size
        self.batch_shapes = {
            "image": jax.ShapeDtypeStruct((self.size, 32, 32, 3), jnp.uint8),
            "boxes": jax.ShapeDtypeStruct((self.size, 4), jnp.float32),
            "mask": jax.ShapeDtypeStruct((self.size,), jnp.float32),
        }

    def batch(self, k):
        rng = np.random.default_rng([7, k])
        images, boxes = np.zeros((self.size, 32, 32, 3), np.uint8), np.zeros((self.size, 4), np.float32)
        for image, box in zip(images, boxes, strict=True):
            (left, top), (width, height) = rng.integers(0, 16, 2), rng.integers(8, 17, 2)
            image[top : top + height, left : left + width] = 255
            box[:] = (left + width / 2) / 32, (top + height / 2) / 32, width / 32, height / 32
        return {"image": images, "boxes": boxes, "mask": np.ones(self.size, np.float32)}

    def images(self, k):
        return [f"rectangle {row} of batch {k}" for row in range(self.size)]

    def batches(self, net, start):
        return (self.batch(k) for k in itertools.count(start))

    def loss(self, net, batch, keys):
        batch = augment(batch, keys, flip=True, color_shift=0.01, **COLORS)
        boxes = jax.nn.sigmoid(net(batch["image"], keys=keys)[:, 0, 0])
        errors = ((boxes - batch["boxes"]) ** 2).sum(1) * batch["mask"]
        return errors.sum(), {"loss": errors.sum(), "overlap": (overlap(boxes, batch["boxes"]) * batch["mask"]).sum()}

    def evaluate(self, net):
        batch = self.batch(10**6)
        boxes = nnx.jit(lambda net, images: jax.nn.sigmoid(net(images)[:, 0, 0]))(net, batch["image"])
        return {"overlap": float(overlap(boxes, batch["boxes"]).mean())}

    def preview(self, batch, keys):
        shown = augment(batch, keys, flip=True, color_shift=0.01, **COLORS)
        return np.asarray(shown["image"]), [f"{x:.1f} {y:.1f}" for x, y, *_ in shown["boxes"]]


@pytest.fixture
def config():
    config = default_config()
    config.model.net, config.model.width, config.model.hidden, config.init.scheme = "A", 0.0625, 32, "he"
    config.model.dropout = 0.0
    config.data.crop, config.data.scale = 32, (32, 32)
    config.train.batch_size, config.train.steps, config.train.learning_rate = 32, 40, 0.03
    config.schedule.kind, config.log.every, config.evaluate.every, config.checkpoint.every = "fixed", 10, 20, 20
    return config


def test_a_task_with_outputs_and_metrics_of_its_own_trains(config, tmp_path, caplog, monkeypatch):
    """Watched while it begins, which waits for other processes, until its first step, and in each step."""
    happened = []

    def noted(name, function):
        return lambda *arguments: (happened.append(name), function(*arguments))[1]

    monkeypatch.setattr(Watchdog, "__init__", noted("watched", Watchdog.__init__))
    monkeypatch.setattr(Watchdog, "progressed", noted("progressed", Watchdog.progressed))
    monkeypatch.setattr(Watchdog, "close", noted("closed", Watchdog.close))
    monkeypatch.setattr(loop, "_begun", noted("begun", loop._begun))
    config.train.steps, config.evaluate.every, config.checkpoint.every = 120, 60, 60
    with caplog.at_level("INFO", logger="vgg_jax"):
        metrics = train(config, tmp_path, Rectangles)
    # Initialized, begun, the input opened, compiled, and the steps.
    assert happened == ["watched", "progressed", "begun", *["progressed"] * (4 + 120), "closed"]
    rows = metric_writer.read(tmp_path)
    measured = [row["validation_overlap"] for row in rows if "validation_overlap" in row]
    assert len(measured) == 2 and measured[-1] == metrics["overlap"] and metrics["step"] == 120
    trained = [row["train_overlap"] for row in rows if "train_overlap" in row]
    assert len(trained) == 12 and trained[0] < 0.4 and metrics["overlap"] > 0.65
    assert f"step 120: validation overlap {metrics['overlap']:.2%}" in caplog.text
    checkpoints = Checkpoints(tmp_path, 3)
    assert checkpoints.best == (60 if measured[0] > measured[1] else 120)
    checkpoints.close()
    net, meta = load_network(tmp_path)
    assert net.num_classes == meta["outputs"] == 4 and meta["classes"] == ["rectangle"] and not net.classes
    for picture in ("batch.png", "curves.png"):
        with Image.open(tmp_path / picture) as image:
            assert min(image.size) > 200
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0]).keys() >= {
        "train_loss",
        "train_overlap",
    }


def test_its_run_goes_on_with_the_same_bits(config, tmp_path):
    train(config, tmp_path / "whole", Rectangles)
    config.train.steps = 17
    train(config, tmp_path / "cut", Rectangles)
    config.train.steps = 40
    train(config, tmp_path / "cut", Rectangles)
    whole, cut = (read_arrays(tmp_path / name / "checkpoints/40") for name in ("whole", "cut"))
    for (path, a), b in zip(jax.tree.leaves_with_path(whole), jax.tree.leaves(cut), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
