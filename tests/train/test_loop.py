"""The run as a whole, on small generated photographs: learning, resuming, diverging, bad images."""

import contextlib
import functools
import importlib
import json
import math
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vgg_jax import CheckpointError, ConfigError, DataError, sharding
from vgg_jax.checkpoint import Checkpoints, load_network, read_arrays, read_meta
from vgg_jax.commands.evaluate import evaluate
from vgg_jax.commands.target import of_run
from vgg_jax.commands.workdir import RUN
from vgg_jax.config import default_config
from vgg_jax.data.sampler import Sampler
from vgg_jax.stopping import Stopped
from vgg_jax.tasks.choose import make_task
from vgg_jax.tasks.classification import Classification
from vgg_jax.train import loop, metric_writer
from vgg_jax.train.loop import Diverged
from vgg_jax.train.loop import train as train_task
from vgg_jax.train.schedule import Schedule

train = functools.partial(train_task, make_task=make_task)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Three classes of noisy images that differ in their stripes: across, down, none; 40 x 48 JPEGs."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 8)):
        for label, name in enumerate(("across", "down", "plain")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                rows, columns = np.mgrid[:40, :48]
                stripes = 60 * np.sin((rows, columns, 0 * rows)[label] * 0.9 + rng.uniform(0, 6))
                pixels = 128 + stripes[..., None] + rng.normal(0, 25, (40, 48, 3))
                image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                image.save(folder / split / name / f"{number:02}.jpg", quality=95)
    return folder


@pytest.fixture
def config(photographs):
    config = default_config()
    config.model.net, config.model.width, config.init.scheme = "A", 0.0625, "he"
    config.data.source, config.data.crop, config.data.scale = f"folder:{photographs}", 32, (32, 40)
    config.data.flip, config.data.threads = True, 2
    config.train.batch_size, config.train.steps, config.train.learning_rate = 16, 12, 0.005
    config.schedule.kind = "fixed"
    config.evaluate.every = 6
    config.log.every, config.checkpoint.every = 3, 6
    return config


def arrays(workdir: Path) -> dict:
    latest = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    return read_arrays(latest)


def same(a: dict, b: dict) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), a, b))


def test_a_run_learns_and_leaves_what_it_should(config, tmp_path):
    config.train.steps, config.evaluate.every, config.checkpoint.every = 120, 40, 40
    config.train.learning_rate = 0.01  # at half of it a pixel's rounding decides whether this net learns in 120 steps
    metrics = train(config, tmp_path)
    # Golden end: chance is 1/3. If a change of the network, the data or the draws moves this on purpose, write the new
    # figures here; a change that only should make things faster must not move them.
    assert metrics["top1"] >= 0.9, metrics
    rows = metric_writer.read(tmp_path)
    losses = [row["train_loss"] for row in rows if "train_loss" in row]
    assert losses[0] == pytest.approx(1.168, abs=0.02)
    assert losses[-1] < 0.5
    assert {
        "train_top1",
        "train_top5",
        "train_learning_rate",
        "train_gradient_norm",
        "train_images_per_second",
        "train_input_wait",
    } <= set(rows[0])
    assert [row["step"] for row in rows if "validation_top1" in row] == [40, 80, 120]
    for picture in ("batch.png", "curves.png"):
        with Image.open(tmp_path / picture) as image:
            assert min(image.size) > 300
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert json.loads((tmp_path / "colors.json").read_text())["mean"] == pytest.approx([128, 128, 128], abs=4)
    net, meta = load_network(tmp_path)
    assert meta["step"] == 120 and meta["classes"] == ["across", "down", "plain"] and net.crop == 32
    table = evaluate([of_run(tmp_path)], tmp_path)
    assert f"| center crop | 24     | {100 * (1 - metrics['top1']):.2f}" in table


def test_a_run_goes_on_over_another_mesh_and_is_evaluated_on_one_device(config, tmp_path):
    config.train.learning_rate = 1e-3  # what follows is rounding, as long as nothing multiplies it
    train(config, tmp_path / "data")
    config.mesh.model, config.mesh.zero, config.train.steps = 2, True, 6
    train(config, tmp_path / "both")
    config.mesh.model, config.train.steps = 4, 12
    train(config, tmp_path / "both")
    over_data, over_both = arrays(tmp_path / "data"), arrays(tmp_path / "both")
    for one, other in zip(jax.tree.leaves(over_data), jax.tree.leaves(over_both), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(one).max())
    (one, other) = (evaluate([of_run(tmp_path / name)], tmp_path / name) for name in ("data", "both"))
    assert one.splitlines()[2:6] == other.splitlines()[2:6]


def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(config, tmp_path, monkeypatch):
    train(config, tmp_path / "whole")
    # SIGTERM in the fourth step, in the middle of the epoch and between two checkpoints.
    rate_at = Schedule.rate_at

    def with_request(schedule, step):
        if step == 3:
            signal.raise_signal(signal.SIGTERM)
        return rate_at(schedule, step)

    with monkeypatch.context() as patched:
        patched.setattr(Schedule, "rate_at", with_request)
        with pytest.raises(Stopped):
            train(config, tmp_path / "cut")
    stopped = max(int(path.name) for path in (tmp_path / "cut/checkpoints").iterdir())
    assert stopped == 4

    def waiting(task, net):
        assert (tmp_path / "cut/checkpoints/6").exists()
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the validation was not interrupted")

    with monkeypatch.context() as patched:
        patched.setattr(Classification, "evaluate", waiting)
        with pytest.raises(Stopped):
            train(config, tmp_path / "cut")
    train(config, tmp_path / "cut")
    assert same(arrays(tmp_path / "whole"), arrays(tmp_path / "cut"))
    whole, cut = (
        [{k: v for k, v in row.items() if k.startswith("validation")} for row in metric_writer.read(tmp_path / name)]
        for name in ("whole", "cut")
    )
    assert [row for row in whole if row] == [row for row in cut if row]


def test_a_validation_that_fails_costs_no_work_and_comes_first_when_the_run_goes_on(config, tmp_path, monkeypatch):
    config.schedule.kind, config.evaluate.every, config.checkpoint.every = "plateau", 3, 6
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(config, whole)
    evaluate, calls = Classification.evaluate, []

    def failing(task, net):
        calls.append(None)
        if len(calls) == 2:
            raise DataError("no such image")
        return evaluate(task, net)

    with monkeypatch.context() as patched:
        patched.setattr(Classification, "evaluate", failing)
        with pytest.raises(DataError, match="no such image"):
            train(config, cut)
    saved = read_meta(cut / "checkpoints/6")
    assert saved["step"] == 6 and saved["validation"]["step"] == 3 and saved["schedule"]["best_step"] == 3
    train(config, cut)
    for step in sorted(path.name for path in (whole / "checkpoints").iterdir()):
        assert same(*(read_arrays(folder / "checkpoints" / step) for folder in (whole, cut)))
        one, other = (read_meta(folder / "checkpoints" / step) for folder in (whole, cut))
        assert one == other and one["validation"]["step"] == one["step"]
    rows = [[row for row in metric_writer.read(folder) if "validation_loss" in row] for folder in (whole, cut)]
    assert rows[0] == rows[1] and [row["step"] for row in rows[0]] == [3, 6, 9, 12]


def test_a_run_that_is_stopped_at_its_last_step_is_validated_when_it_goes_on(config, tmp_path, monkeypatch, caplog):
    rate_at = Schedule.rate_at

    def with_request(schedule, step):
        if step == 11:
            signal.raise_signal(signal.SIGTERM)
        return rate_at(schedule, step)

    with monkeypatch.context() as patched:
        patched.setattr(Schedule, "rate_at", with_request)
        with pytest.raises(Stopped):
            train(config, tmp_path)
    assert load_network(tmp_path)[1]["validation"]["step"] == 6
    metrics = train(config, tmp_path)
    assert [row["step"] for row in metric_writer.read(tmp_path) if "validation_loss" in row] == [6, 12]
    with caplog.at_level("INFO", logger="vgg_jax"):
        assert train(config, tmp_path) == metrics and metrics["step"] == 12
    assert "already finished at step 12" in caplog.text


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(config, tmp_path, caplog):
    train(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut/checkpoints/12/net/manifest.ocdbt").write_bytes(b"junk")
    with caplog.at_level("INFO", logger="vgg_jax"):
        train(config, tmp_path / "cut")
    assert "checkpoints/12/net is damaged: " in caplog.text and "resumed at step 6" in caplog.text
    names = sorted(path.name for path in (tmp_path / "cut/checkpoints").iterdir())
    assert names == ["12", "12.damaged1", "6"]
    assert same(*(read_arrays(tmp_path / name / "checkpoints/12") for name in ("whole", "cut")))


def test_a_run_does_not_go_on_with_renamed_classes(config, tmp_path, photographs):
    shutil.copytree(photographs, tmp_path / "photographs")
    config.data.source, config.train.steps = f"folder:{tmp_path / 'photographs'}", 2
    train(config, tmp_path / "run")
    for split in ("train", "validation"):
        (tmp_path / "photographs" / split / "across").rename(tmp_path / "photographs" / split / "up")
    config.train.steps = 4
    with pytest.raises(CheckpointError, match="without 'across', with 'up'"):
        train(config, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["2"]


@pytest.fixture
def few(tmp_path):
    """A folder of two classes, two images each to train on and one each to validate; and a function that ruins some."""
    for split, count in (("train", 2), ("validation", 1)):
        for label, name in enumerate("ab"):
            (tmp_path / "few" / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (40, 40), (90 * label, 50, 40 * number))
                image.save(tmp_path / "few" / split / name / f"{number}.png")
    return tmp_path / "few"


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_run_on_nothing_ends_before_its_first_checkpoint(config, tmp_path, few, split, on_error):
    config.data.source, config.data.statistics, config.data.on_error = f"folder:{few}", "imagenet", on_error
    config.evaluate.every = config.checkpoint.every = 1
    for path in (few / split).rglob("*.png"):
        path.write_bytes(b"no image")
    images = {"train": 4, "validation": 2}[split]
    said = f"split {split}: {images} .*: none of {images} images can be read; the last of them is .*png: not an image"
    with pytest.raises(DataError, match=said if on_error == "skip" else f"few/{split}/./..png: not an image"):
        train(config, tmp_path / "run")
    assert not list((tmp_path / "run").glob("checkpoints/*")) and not metric_writer.read(tmp_path / "run")


def test_one_class_is_refused_and_images_that_are_trained_and_validated_on_are_warned_of(
    config, tmp_path, few, one_device, caplog
):
    config.data.source, config.data.statistics = f"folder:{few}", "imagenet"
    Classification(config, one_device, tmp_path)
    assert "trained on as well" not in caplog.text
    config.data.train_split, config.data.validation_split = "train[:75%]", "train[50%:]"
    Classification(config, one_device, tmp_path)
    assert "1 of the 2 images to validate on are trained on as well (splits train[:75%] and train[50%:])" in caplog.text
    for split in ("train", "validation"):
        shutil.rmtree(few / split / "a")
    with pytest.raises(
        DataError, match="2 images of 1 classes: there is nothing to tell 'b' from; the classes of a folder"
    ):
        Classification(config, one_device, tmp_path)


def test_a_finished_run_says_so_and_stays(config, tmp_path, caplog, monkeypatch):
    with monkeypatch.context() as patched:  # a picture that fails costs no run
        patched.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: 1 / 0)
        train(config, tmp_path)
    for picture in ("batch.png", "curves.png"):
        assert f"{tmp_path}/{picture} could not be drawn: division by zero" in caplog.messages
    before = arrays(tmp_path)
    with caplog.at_level("INFO", logger="vgg_jax"):
        train(config, tmp_path)
    assert "already finished at step 12" in caplog.text and same(before, arrays(tmp_path))


def test_the_plateau_ends_a_run_before_its_last_step(config, tmp_path, caplog):
    config.schedule.kind, config.schedule.drops, config.schedule.patience = "plateau", 1, 1
    config.schedule.threshold = 1.0  # no accuracy improves by 100 points
    config.train.steps, config.evaluate.every, config.checkpoint.every = 60, 3, 3
    with caplog.at_level("INFO", logger="vgg_jax"):
        train(config, tmp_path)
    # The first evaluation sets the best, the second drops the rate, the third ends the run.
    assert "step 3: validation" in caplog.text
    assert "rate falls to 5.0e-04" in caplog.text and "stopping after 1 drops" in caplog.text
    assert load_network(tmp_path)[1]["step"] < 60
    assert load_network(tmp_path)[1]["schedule"]["finished"]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(config, tmp_path):
    train(config, tmp_path)
    config.train.steps, config.train.learning_rate = 200, 1e6
    with pytest.raises(Diverged, match=r"step \d+: the loss is .*the last good checkpoint is step 12.*") as caught:
        train(config, tmp_path)
    assert "config.train.learning_rate" in str(caught.value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(arrays(tmp_path)))
    assert load_network(tmp_path)[1]["step"] == 12


def test_a_loss_that_is_no_number_on_one_device_stops_all_and_names_the_images(config, tmp_path, monkeypatch):
    """Image 5 of batch 4, which one of the eight devices has, gives no number."""
    config.train.steps, config.log.every = 12, 1
    task, sound = make_task(config, sharding.device_mesh(), tmp_path / "other"), Classification.loss
    with contextlib.closing(task.batches(None, 4)) as batches:
        bad = next(batches)["image"][5].astype(int).sum()

    def loss(self, net, batch, keys):
        total, metrics = sound(self, net, batch, keys)
        is_bad = batch["image"].astype(int).sum((1, 2, 3)) == bad
        metrics["loss"] += (spoilt := jnp.where(is_bad, jnp.nan, 0).sum())
        return total + spoilt, metrics

    monkeypatch.setattr(Classification, "loss", loss)
    said = (
        r"step 5: the loss is nan .*no checkpoint was saved yet .*\nThe 16 images of its batch are listed in .*diverged"
    )
    with pytest.raises(Diverged, match=said) as caught:
        train(config, tmp_path)
    names = (tmp_path / "diverged.txt").read_text().splitlines()
    assert names == [
        task.source.name_of(index) for index in Sampler(72, batch_size=16, scale=(32, 40), seed=0)(4).index
    ]
    assert f"the first is {names[0]}" in str(caught.value)


def test_a_full_disk_stops_the_run_or_costs_a_checkpoint(config, tmp_path, monkeypatch, caplog):
    config.train.steps, config.evaluate.every, config.checkpoint.every = 9, 6, 3
    save, full = Checkpoints.save, 6

    def save_on(checkpoints, step, arrays, meta):
        with monkeypatch.context() as patched:
            patched.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10**3 if step == full else 10**12))
            save(checkpoints, step, arrays, meta)

    monkeypatch.setattr(Checkpoints, "save", save_on)
    with pytest.raises(ConfigError, match="no room for the checkpoint of step 6"):
        train(config, tmp_path / "raise")
    assert load_network(tmp_path / "raise")[1]["step"] == 3
    config.checkpoint.on_error = "skip"
    train(config, tmp_path / "skip")
    assert caplog.text.count("The run goes on without it; the last one is of step 3") == 1
    assert sorted(path.name for path in (tmp_path / "skip/checkpoints").iterdir()) == ["3", "9"]
    assert [row["step"] for row in metric_writer.read(tmp_path / "skip") if "validation_loss" in row] == [6, 9]
    full = 9  # the last one is what a run is for
    with pytest.raises(ConfigError, match="no room for the checkpoint of step 9"):
        train(config, tmp_path / "raise")


def test_a_bad_image_stops_the_run_or_is_counted(config, tmp_path, photographs, caplog):
    bad = photographs / "train" / "down" / "zz_broken.jpg"
    bad.write_bytes((photographs / "train/down/00.jpg").read_bytes()[:700])
    try:
        with pytest.raises(DataError, match="zz_broken.jpg"):
            train(config, tmp_path / "raise")
        config.data.on_error = "skip"
        with caplog.at_level("WARNING", logger="vgg_jax"):
            train(config, tmp_path / "skip")
    finally:
        bad.unlink()
    assert "zz_broken.jpg" in (tmp_path / "skip/unreadable.txt").read_text()
    assert "1 images could not be read" in caplog.text
    assert {path.name for path in (tmp_path / "skip").iterdir()} < RUN  # else others' files could be replaced
    assert math.isfinite(metric_writer.read(tmp_path / "skip")[-1]["validation_loss"])


def test_what_any_process_could_not_read_is_listed(tmp_path, two_processes, caplog):
    both = {"c.jpg": "not an image"}
    shares = [both | {"b.jpg": "the file is empty"}, both | {"a.jpg": "not an image"}]
    two_processes(lambda: loop._report_problems(shares[jax.process_index()], tmp_path))
    listed = "a.jpg: not an image\nb.jpg: the file is empty\nc.jpg: not an image\n"
    assert (tmp_path / "unreadable.txt").read_text() == listed
    (said,) = caplog.messages
    assert said.startswith("3 images could not be read")


def test_growing_and_fine_tuning_from_runs(config, tmp_path, caplog):
    config.train.steps = 6
    train(config, tmp_path / "A")
    config.model.net, config.init.grow_from = "B", str(tmp_path / "A")
    with caplog.at_level("INFO", logger="vgg_jax"):
        train(config, tmp_path / "B")
    assert (
        "copied conv1_1, conv2_1, conv3_1, conv3_2, fc6, fc7, fc8; randomly initialized (he) conv1_2, conv2_2"
        in caplog.text
    )
    config.init.grow_from, config.init.from_run = "", str(tmp_path / "B")
    config.data.scale, config.train.learning_rate = (40, 48), 1e-3
    config.train.freeze = ("conv1", "conv2")
    train(config, tmp_path / "B-40")
    donor, tuned = arrays(tmp_path / "B"), arrays(tmp_path / "B-40")
    moved = {layer for layer in donor if layer != "mean_rgb" and not same(donor[layer], tuned[layer])}
    assert moved == set(donor) - {"mean_rgb", "conv1_1", "conv1_2", "conv2_1", "conv2_2"}


def test_a_batch_that_does_not_divide_over_the_devices_is_refused(config, tmp_path):
    config.train.batch_size = 12
    with pytest.raises(ConfigError, match="config.train.batch_size=12 does not divide over 8 devices; use 8 or 16"):
        train(config, tmp_path)


def test_evaluating_on_other_classes_is_refused(config, tmp_path, photographs):
    config.train.steps = 6
    train(config, tmp_path / "run")
    config.data.source = "mnist5k"
    with pytest.raises(DataError, match="no class '0' and 9 more of mnist5k"):
        evaluate([of_run(tmp_path / "run", config)], tmp_path / "evaluation")


def test_every_validation_image_counts_once_whatever_the_batch_size(config, tmp_path):
    config.train.steps = 6
    train(config, tmp_path)
    rows = set()
    for size in (8, 16, 40):
        config.evaluate.batch_size = size
        rows.add(evaluate([of_run(tmp_path, config)], tmp_path))
        shutil.rmtree(tmp_path / "evaluation")  # else they would be found there
    assert len(rows) == 1 and "| 24 " in rows.pop()


@pytest.mark.parametrize("name", ["vgg11", "vgg11_lrn", "vgg13", "vgg16_1x1", "vgg16", "vgg19", "localize"])
def test_the_smoke_stage_of_every_config_runs(name, tmp_path):
    config = importlib.import_module(f"configs.{name}").get_config("smoke")
    config.train.steps, config.evaluate.every, config.checkpoint.every = 2, 2, 2
    config.data.train_split, config.data.validation_split = "train[:64]", "validation[:32]"
    metrics = train(config, tmp_path)
    assert metrics["images"] == 32 and all(map(math.isfinite, metrics.values()))
    assert load_network(tmp_path)[0].spec.name == config.model.net
