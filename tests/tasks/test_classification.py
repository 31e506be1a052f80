"""What is said at the start of a training, before its first step, and during its validations."""

import functools
import re

import numpy as np
import pytest
from PIL import Image

from vgg_jax.config import default_config
from vgg_jax.progress import Progress
from vgg_jax.tasks import classification
from vgg_jax.tasks.classification import Classification


@pytest.fixture
def config(tmp_path):
    """Of a folder with six classes in train/ and val/, one image each."""
    for split in ("train", "val"):
        for name in "abcdef":
            path = tmp_path / "photos" / split / name / "1.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(path)
    config = default_config()
    config.data.source, config.data.statistics = f"folder:{tmp_path}/photos", "imagenet"
    return config


@pytest.mark.parametrize(
    ("validation", "evaluate", "said"),
    [
        ("validation", "validation", None),
        ("validation", "train", None),
        ("validation", "test", "will be on folder:.*, split test: 6 .*has no test folder, val stands in"),
        ("train[50%:]", "test[:0]", r"will need another config.evaluate.split: .*'test\[:0\]' selects none"),
    ],
)
def test_what_evaluation_will_read_is_said_at_the_start(validation, evaluate, said, config, tmp_path, caplog):
    caplog.set_level("INFO")
    config.data.validation_split, config.evaluate.split = validation, evaluate
    Classification(config, None, tmp_path)
    messages = [record.getMessage() for record in caplog.records if "--mode=evaluate" in record.getMessage()]
    assert len(messages) == (said is not None)
    for message in messages:
        assert re.search(f"--mode=evaluate {said}", message)
    assert "top-5" not in caplog.text


def test_class_counts_for_which_top_5_means_nothing_are_said(config, tmp_path, caplog):
    for split in ("train", "val"):
        (tmp_path / "photos" / split / "f" / "1.png").unlink()
        (tmp_path / "photos" / split / "f").rmdir()
    Classification(config, None, tmp_path)
    assert "5 classes: the top-5 error is 0 whatever the network answers" in caplog.text


def test_a_validation_shows_its_progress(config, tmp_path, tiny_net, monkeypatch, capsys):
    monkeypatch.setattr(classification, "Progress", functools.partial(Progress, seconds=0))
    config.data.crop, config.data.scale = 32, (32, 32)
    Classification(config, None, tmp_path).evaluate(tiny_net(num_classes=6))
    assert re.findall(r"validation (\d/\d)  left", capsys.readouterr().err) == [f"{done}/6" for done in range(1, 7)]
