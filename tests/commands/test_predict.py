"""Predictions: in order, whatever the images; bad ones reported, the rest done."""

import functools
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from tests.oracles import reference
from vgg_jax import ConfigError, Scorer
from vgg_jax.commands import predict as module
from vgg_jax.commands.paths import images_of, picture_paths
from vgg_jax.commands.predict import predict
from vgg_jax.commands.target import EvalTarget
from vgg_jax.config import default_config
from vgg_jax.inference.heat_map import HEAT_MAP
from vgg_jax.progress import Progress


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
    assert predict(target, images_of([str(photographs)]), as_json=True) == 1
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


def test_progress_is_shown_while_the_first_images_are_in_work(target, photographs, monkeypatch, capsys):
    monkeypatch.setattr(module, "Progress", functools.partial(Progress, seconds=0))
    predict(target, images_of([str(photographs)]), protocol="both")
    output = capsys.readouterr()
    assert re.findall(r"scores (\d/\d)  left", output.err) == [f"{done}/8" for done in range(1, 7)]
    assert "scores" not in output.out


def test_one_too_elongated_is_reported_and_the_rest_goes_on(target, photographs, capsys):
    Image.new("RGB", (70_000, 1)).save(photographs / "a-thread.png")
    assert predict(target, images_of([str(photographs / "*.png")])) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("a-thread.png") and lines[1].startswith("  no prediction: 1 x 70000 pixels are too elong")
    assert lines[2].endswith("a.png") and len(lines) == 8


def test_text_names_the_file_and_the_classes(target, photographs, capsys):
    assert predict(target, images_of([str(photographs / "a.png"), str(photographs / "*" / "c.png")])) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("a.png") and lines[6].endswith("sub/c.png") and len(lines) == 12
    assert all("%" in line for line in lines[1:6])


@pytest.mark.parametrize("protocol", ["crops", "both", "center"])
def test_the_protocol_and_the_scales_are_those_asked_for(protocol, target, photographs, capsys):
    target.config.evaluate.scales = (48, 64)
    predict(target, [photographs / "sub/c.png"], protocol=protocol, as_json=True)
    (entry, *_) = json.loads(capsys.readouterr().out)["classes"]
    image = np.asarray(Image.open(photographs / "sub/c.png"))
    posterior = Scorer(target.net, (48, 64), protocol)([image])[0]
    assert entry["name"] == "abcdefghij"[posterior.argmax()]
    assert entry["probability"] == pytest.approx(posterior.max(), abs=1e-5)


def test_more_images_than_are_in_work_at_once_come_in_order(target, photographs, capsys, monkeypatch):
    paths = images_of([str(photographs)])
    predict(target, paths)
    once = capsys.readouterr().out
    monkeypatch.setattr(module, "AT_ONCE", 3)
    assert predict(target, paths) == 1 and capsys.readouterr().out == once


def test_a_heat_map_is_drawn_of_each_image(target, photographs, capsys):
    assert predict(target, images_of([str(photographs)]), heat_maps=photographs / "maps") == 1
    for name in "abc":
        with Image.open(photographs / f"maps/{name}.png") as picture:
            assert min(picture.size) > 200
    assert len(list((photographs / "maps").iterdir())) == 3
    with pytest.raises(ConfigError, match="--heat_maps=.*notes.txt: cannot be written: File exists"):
        predict(target, [], heat_maps=photographs / "notes.txt")
    # Drawn again it takes its own place, and no other one's: here another image, there a photograph.
    (photographs / "maps/a.png").write_bytes((photographs / "maps/c.png").read_bytes())
    before = {path: path.read_bytes() for path in photographs.rglob("*") if path.is_file()}
    capsys.readouterr()
    for folder, images in (("maps", ["b.jpg", "a.png"]), (".", ["a.png"]), ("sub", ["sub/c.png"])):
        paths = [photographs / name for name in images]
        with pytest.raises(
            ConfigError, match=f"{photographs / folder}/[ac].png: is there already and would be replaced"
        ):
            predict(target, paths, heat_maps=photographs / folder)
    assert capsys.readouterr().out == ""
    assert before == {path: path.read_bytes() for path in photographs.rglob("*") if path.is_file()}
    predict(target, [photographs / "sub/c.png"], heat_maps=photographs / "maps")


def test_every_heat_map_has_a_file_of_its_own(tmp_path):
    def pictures(*names):
        found = picture_paths([tmp_path / name for name in names], tmp_path / "maps", "heat_maps", HEAT_MAP)
        return [str(picture.relative_to(tmp_path / "maps")) for picture in found.values()]

    assert pictures("a/1.jpg", "b/2.jpg") == ["1.png", "2.png"]
    assert pictures("a/1.jpg", "b/1.jpg") == ["a/1.png", "b/1.png"]
    assert pictures("1.jpg", "1.png", "1.jpg.png") == ["1.jpg.png", "1.png.png", "1.jpg.png.png"]


def test_names_that_mean_something_elsewhere_are_only_names(target, tmp_path, rng, capsys):
    target.net.classes = ("$x^2$", "$", "a\nline", os.fsdecode(b"\xff"), "_{\\frac", *"fghij")
    paths = [tmp_path / name for name in ("$x_$.png", "a\nline.png", os.fsdecode(b"\xff.png"))]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (32, 40, 3), np.uint8)).save(path)
    assert predict(target, paths, heat_maps=tmp_path / "maps") == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3 * 6 and len(printed.err.splitlines()) == 3 and printed.out.encode()
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == sorted(path.name for path in paths)
    predict(target, paths, as_json=True)
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["image"] for record in records] == [str(path) for path in paths]
    assert all(entry["name"] in target.net.classes for record in records for entry in record["classes"])


def test_an_image_that_is_named_twice_is_predicted_once(photographs):
    found = images_of([str(photographs / "a.png"), str(photographs), str(photographs / "*.png")])
    assert [path.name for path in found] == ["a.png", "b.jpg", "broken.jpg", "c.png"]


@pytest.mark.parametrize(
    "argument",
    ["no-such.jpg", "no-such-folder/*.jpg", "x" * 300, "~nobody-of-this-name/a.jpg", "\0", "\udcff", "a\n\nb"],
)
def test_nothing_to_predict_is_an_error(argument):
    with pytest.raises(ConfigError, match="there is no such image, folder, or match of this pattern") as error:
        images_of([argument])
    assert len(str(error.value).splitlines()) == 1


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no images"):
        images_of([str(tmp_path)])
