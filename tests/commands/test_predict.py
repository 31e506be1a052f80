"""Predictions and heat maps: in order, whatever the images; bad ones reported, the rest done."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.oracles import reference
from vgg_jax import ConfigError
from vgg_jax.commands.predict import class_score_map, draw_heat_map, images_of, predict
from vgg_jax.commands.target import EvalTarget
from vgg_jax.config import default_config


@pytest.fixture
def target(tiny_net):
    config = default_config()
    config.data.crop, config.data.scale = 32, (64, 64)
    net = tiny_net("A")
    net.classes = tuple("abcdefghij")
    return EvalTarget("net", net, (64, 64), config, None)


@pytest.fixture
def photographs(tmp_path, rng):
    for name, shape in (("a.png", (90, 64, 3)), ("b.jpg", (40, 70, 3)), ("sub/c.png", (64, 64, 3))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(tmp_path / name)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image either, and not called one")
    return tmp_path


def test_the_five_most_probable_classes_of_each_image(target, photographs, capsys):
    assert predict(target, [str(photographs)], as_json=True) == 1
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["image"].removeprefix(f"{photographs}/") for record in records] == [
        "a.png", "b.jpg", "broken.jpg", "sub/c.png"
    ]  # fmt: skip
    assert records[2]["problem"] == "not an image in a known format" and "classes" not in records[2]
    # sub/c.png has the test scale's size already: the float64 network on it and on its mirror image.
    pixels = np.asarray(Image.open(photographs / "sub/c.png")).astype(np.float64)
    scores = [reference(target.net, view[None])["fc8"][0].mean((0, 1)) for view in (pixels, pixels[:, ::-1])]
    soft = np.mean([np.exp(s - s.max()) / np.exp(s - s.max()).sum() for s in scores], axis=0)
    best = np.argsort(-soft)[:5]
    assert [entry["name"] for entry in records[3]["classes"]] == ["abcdefghij"[number] for number in best]
    assert [entry["probability"] for entry in records[3]["classes"]] == pytest.approx(soft[best], abs=1e-5)


def test_one_too_elongated_is_reported_and_the_rest_goes_on(target, photographs, capsys):
    Image.new("RGB", (70_000, 1)).save(photographs / "a-thread.png")
    assert predict(target, [str(photographs / "*.png")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("a-thread.png") and lines[1].startswith("  no prediction: 1 x 70000 pixels are too elong")
    assert lines[2].endswith("a.png") and len(lines) == 8


def test_text_names_the_file_and_the_classes(target, photographs, capsys):
    assert predict(target, [str(photographs / "a.png"), str(photographs / "*" / "c.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("a.png") and lines[6].endswith("sub/c.png") and len(lines) == 12
    assert all("%" in line for line in lines[1:6])


def test_the_map_is_the_reference_networks_at_every_place(target, rng):
    image = rng.integers(0, 256, (64, 101, 3), np.uint8)
    found = class_score_map(target.net, image, 64)
    scores = reference(target.net, image[None].astype(np.float64))["fc8"][0]
    assert found.shape == scores.shape == (2, 3, 10)
    soft = np.exp(scores - scores.max(-1, keepdims=True))
    np.testing.assert_allclose(found, soft / soft.sum(-1, keepdims=True), atol=1e-5)


def test_a_heat_map_is_a_picture_of_the_map(target, photographs, rng, capsys):
    predict(target, [str(photographs / "a.png")], heat_maps=photographs / "maps")
    with Image.open(photographs / "maps/a.png") as picture:
        assert min(picture.size) > 200
    target.config.evaluate.scales = (96, 128)
    draw_heat_map(photographs / "large.png", target, rng.integers(0, 256, (64, 90, 3), np.uint8), "c")
    with Image.open(photographs / "large.png") as picture:
        assert min(picture.size) > 200


@pytest.mark.parametrize("argument", ["no-such.jpg", "no-such-folder/*.jpg"])
def test_nothing_to_predict_is_told(argument):
    with pytest.raises(ConfigError, match="there is no such image, folder, or match of this pattern"):
        images_of(argument)


def test_a_folder_without_images_is_told(target, tmp_path):
    with pytest.raises(ConfigError, match="no images"):
        images_of(str(tmp_path))
    with pytest.raises(ConfigError, match="takes images, folders or patterns"):
        predict(target, [])
