"""What may change between a run and its going on, and what may not."""

import types

import pytest

from vgg_jax import CheckpointError, ConfigError, processes
from vgg_jax.config import default_config
from vgg_jax.data.open import open_source
from vgg_jax.train import resume


@pytest.fixture
def config(tmp_path):
    config = default_config()
    for name in ("ant", "bee", "cat"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "train" / name / f"{number}.jpg").write_bytes(b"never opened")
    config.data.source = f"folder:{tmp_path}"
    return config


def task_of(config):
    source = open_source(config.data.source, config.data.train_split)
    return types.SimpleNamespace(source=source, classes=source.classes, outputs=len(source.classes))


def test_a_run_goes_on_with_what_it_was_begun_with(config, caplog):
    meta = resume.about(config, task_of(config))
    assert meta["images"] == 6 and meta["classes"] == ["ant", "bee", "cat"]
    resume.check(config, task_of(config), meta)
    resume.report_changes(config, meta)
    assert not caplog.text


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("bee", "wasp", "without 'bee', with 'wasp'; put it back"),  # as many, and in the same order
        ("ant", "zebra", "without 'ant', with 'zebra'"),  # the labels of all change
        ("train/cat/1.jpg", "train/cat/1.txt", "has 5 training images, and had 6 when this run was saved"),
    ],
)
def test_other_classes_or_images_are_refused(config, tmp_path, was, now, said):
    meta = resume.about(config, task_of(config))
    home = tmp_path if "/" in was else tmp_path / "train"
    (home / was).rename(home / now)
    with pytest.raises(CheckpointError) as caught:
        resume.check(config, task_of(config), meta)
    assert said in str(caught.value) and "config.init.from_run" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_processes_with_other_data_do_not_begin(config, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(processes, "gathered", lambda value: given.append(value) or given)  # of one after the other
    resume.check_processes(config, task_of(config))
    config.data.threads = 7
    resume.check_processes(config, task_of(config))
    (tmp_path / "train/cat/1.jpg").unlink()
    with pytest.raises(ConfigError, match="the processes of this run differ in their images: start all by the same"):
        resume.check_processes(config, task_of(config))


def test_classes_in_another_order_are_refused(config):
    task, meta = task_of(config), resume.about(config, task_of(config))
    task.classes = ("ant", "cat", "bee")
    with pytest.raises(CheckpointError, match="class 1 was 'bee' and is 'cat'"):
        resume.check(config, task, meta)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("model.net", "E"),
        ("data.train_split", "train[:100%]"),
        ("data.crop", 192),
        ("data.scale", (256, 512)),
        ("data.flip", False),
        ("data.color_shift", 0.0),
        ("data.statistics", "imagenet"),
        ("train.batch_size", 128),
        ("train.cached_views", 2),
    ],
)
def test_what_decides_what_a_step_sees_must_stay(config, key, value):
    meta = resume.about(config, task_of(config))
    config.update_from_flattened_dict({key: value})
    with pytest.raises(CheckpointError, match=f"this run was begun with another config: config.{key}: "):
        resume.check(config, task_of(config), meta)


def test_what_a_person_may_change_is_named_in_one_line(config, caplog):
    meta = resume.about(config, task_of(config))
    config.data.threads, config.data.on_error, config.log.every, config.train.learning_rate = 3, "skip", 7, 1e-3
    resume.check(config, task_of(config), meta)
    resume.report_changes(config, meta)
    (line,) = caplog.messages
    assert line == (
        "the config has changed since: config.data.on_error: raise -> skip; config.data.threads: 0 -> 3; "
        "config.log.every: 100 -> 7; config.train.learning_rate: 0.01 -> 0.001"
    )


def test_the_images_may_move(config, tmp_path):
    meta = resume.about(config, task_of(config))
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    (tmp_path / "moved").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "moved/train")
    config.data.source = f"folder:{tmp_path / 'moved'}"
    resume.check(config, task_of(config), meta)


def test_checkpoints_that_do_not_count_their_images_go_on(config):
    meta = resume.about(config, task_of(config))
    del meta["images"]
    resume.check(config, task_of(config), meta)
