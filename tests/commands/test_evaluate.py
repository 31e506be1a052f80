"""The evaluation mode as a whole: a run in, the paper's tables out, nothing computed twice, every mistake reported."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from tests.oracles import reference
from tests.photographs import with_spread_scores
from vgg_jax import VGG, ConfigError, DataError, Scorer
from vgg_jax.checkpoint import load_network
from vgg_jax.commands import evaluate as module
from vgg_jax.commands.evaluate import evaluate
from vgg_jax.commands.fuse import fuse
from vgg_jax.commands.target import EvalTarget, find_target, find_targets, of_run, of_weights
from vgg_jax.commands.workdir import MARK, held
from vgg_jax.config import default_config
from vgg_jax.data.decode import decode
from vgg_jax.data.source import Source
from vgg_jax.evaluate.paper import ERRORS, Setting
from vgg_jax.evaluate.posteriors import read
from vgg_jax.evaluate.tables import markdown, row
from vgg_jax.tasks.choose import make_task
from vgg_jax.train.loop import train
from vgg_jax.weights import imagenet, save_torchvision


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Pictures of many sizes: bright above, bright on the left, and noise; 8 to train on and 5 to test per class."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("photographs")
    for split, count in (("train", 8), ("validation", 2), ("test", 5)):
        for name in ("above", "left", "noise"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                height, width = rng.integers(30, 70, 2)
                pixels = rng.integers(0, 90, (height, width, 3))
                if name == "above":
                    pixels[: height // 2] += 150
                elif name == "left":
                    pixels[:, : width // 2] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{number}.png")
    return folder


def config_of(photographs, net="A"):
    config = default_config()
    config.model.net, config.model.width, config.init.scheme = net, 0.0625, "he"
    config.data.source, config.data.crop, config.data.scale = f"folder:{photographs}", 32, (40, 40)
    config.train.batch_size, config.train.steps, config.schedule.kind = 8, 12, "fixed"
    config.evaluate.every, config.checkpoint.every = 12, 12
    config.evaluate.split = "test"
    return config


@pytest.fixture(scope="module")
def runs(photographs, tmp_path_factory):
    """Two trained nets, A and B."""
    folder = tmp_path_factory.mktemp("runs")
    for net in "AB":
        train(config_of(photographs, net), folder / net, make_task)
    return folder


@pytest.fixture
def trained(runs, tmp_path):
    """A copy of them that a test may write to."""
    shutil.copytree(runs, tmp_path / "runs")
    return tmp_path / "runs"


PROTOCOLS = {"evaluate.protocols": ("center", "dense", "crops", "both")}
CENTER = {"evaluate.protocols": ("center",)}
"""The cheapest one, where it does not matter which."""


def test_the_tables_are_those_of_an_independent_evaluation(trained, photographs):
    text = evaluate([of_run(trained / "A", overrides=PROTOCOLS)], trained / "A" / "evaluation")
    net = load_network(trained / "A")[0]
    posteriors, labels, names = {}, [], []
    for label, name in enumerate(("above", "left", "noise")):
        for file in sorted((photographs / "test" / name).iterdir()):
            labels.append(label)
            names.append(f"{name}/{file.name}")
            image = Image.open(file)
            for q in (40, 72):  # 8 would be below the crop
                width, height = (int(side * q / min(image.size) + 0.5) for side in image.size)
                pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
                views = [reference(net, view[None].astype(np.float64))["fc8"] for view in (pixels, pixels[:, ::-1])]
                scores = np.stack([view[0].mean((0, 1)) for view in views])
                soft = np.exp(scores - scores.max(1, keepdims=True))
                posteriors.setdefault(q, []).append((soft / soft.sum(1, keepdims=True)).mean(0))
    labels = np.array(labels)
    (home,) = (trained / "A/evaluation/12").iterdir()
    records = json.loads((home / "tables.json").read_text())
    for table, scales in ((3, [40]), (4, [40, 72])):
        average = np.mean([posteriors[q] for q in scales], axis=0)
        error = 100 * (average.argmax(1) != labels).mean()
        found = next(record for record in records if record["table"] == table)
        assert found["Q"] == scales and found["images"] == 15 and found["protocol"] == "dense"
        assert found["top1"] == pytest.approx(error) and found["top5"] == 0
        assert f"| {error:.2f} " in text
    saved = read(home / "dense.npz")
    assert sorted(saved.images) == names and saved.scales == (40, 72)
    order = [saved.images.index(name) for name in names]
    np.testing.assert_allclose(saved.values[:, order], np.array([posteriors[40], posteriors[72]]), atol=1e-5)
    np.testing.assert_array_equal(saved.labels[order], labels)
    headings = [line for line in text.splitlines() if line.startswith(("Table ", "Center"))]
    assert [heading[:7] for heading in headings] == ["Table 3", "Table 4", "Table 5", "Center "]
    assert [record["protocol"] for record in records if record["table"] == 5] == ["dense", "crops", "both"]


def test_files_for_people_and_programs(trained):
    with held(trained / "A"):  # as if it were still training
        evaluate([of_run(trained / "A")], trained / "A" / "evaluation")
    (home,) = (trained / "A/evaluation/12").iterdir()
    for name in ("confusion.png", "mistakes.png"):
        with Image.open(home / name) as picture:
            assert min(picture.size) > 100
    with (home / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["above", "left", "noise"]
    assert [row["images"] for row in rows] == ["5", "5", "5"]
    saved = read(home / "dense.npz")
    guesses = saved.mean().argmax(1)
    expected = [100 * (guesses[saved.labels == number] != number).mean() for number in range(3)]
    assert [float(row["top1_error"]) for row in rows] == pytest.approx(expected, abs=0.01)
    with (home / "confusion.csv").open() as file:
        counts = [[int(count) for count in row[1:]] for row in list(csv.reader(file))[1:]]
    assert counts == [[np.sum((saved.labels == i) & (guesses == j)) for j in range(3)] for i in range(3)]
    with (home / "mistakes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == min(24, (guesses != saved.labels).sum())
    with (home / "tables.csv").open() as file:
        assert {row["network"] for row in csv.DictReader(file)} == {"A"}


def test_results_go_into_no_folder_of_other_things(trained, tmp_path):
    out = tmp_path / "out" / "evaluation"
    out.mkdir(parents=True)
    (out / "tables.csv").write_text("theirs")
    with pytest.raises(ConfigError, match=f"{out}: tables.csv is there already, not written by this program"):
        evaluate([of_run(trained / "A")], out)
    assert [path.name for path in out.iterdir()] == ["tables.csv"] and not (trained / "A/evaluation").exists()
    (out / "tables.csv").unlink()
    for _ in range(2):
        evaluate([of_run(trained / "A")], out)
    assert {path.name for path in out.rglob("*") if path.is_file()} == {MARK, "tables.md", "tables.csv", "tables.json"}


def test_a_checkpoint_outside_of_a_run_needs_a_folder_for_its_results(trained, tmp_path):
    shutil.copytree(trained / "A/checkpoints/12", tmp_path / "downloads/net/12")
    target = of_run(tmp_path / "downloads/net/12")
    assert target.home is None
    with pytest.raises(
        ConfigError, match=f"{target.name}: it is in no run's folder .*; give --workdir=DIR for results"
    ):
        evaluate([target])
    assert [path.name for path in (tmp_path / "downloads").rglob("*") if path.name == "evaluation"] == []


def test_names_of_classes_and_files_fail_no_table(tmp_path, tiny_net, rng, caplog):
    classes = sorted(["$x^2$", "$", "a\nline", os.fsdecode(b"\xff\xfe"), 'plain, "quoted"', "_{\\frac"])
    for name in classes:
        folder = tmp_path / "images/test" / name
        folder.mkdir(parents=True)
        for number in range(2):
            Image.fromarray(rng.integers(0, 256, (32, 40, 3), np.uint8)).save(folder / f"{number}{name}.png")
    (folder / "\udcff.png").write_bytes(b"no image")
    net, config = tiny_net("A", num_classes=len(classes), classes=tuple(classes)), config_of(tmp_path / "images")
    config.data.on_error, config.evaluate.protocols = "skip", ("center",)
    text = evaluate([EvalTarget("net", net, (40, 40), config, None)], tmp_path / "evaluation")
    assert "1 images could not be read" in text and "\\udcff.png: not an image" in text and text.encode()
    (home,) = (tmp_path / "evaluation/net").iterdir()
    for name in ("confusion.png", "mistakes.png"):
        with Image.open(home / name) as picture:
            assert min(picture.size) > 100
    assert not [message for message in caplog.messages if "drawn" in message]
    with (home / "per_class.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    escaped = [name.encode("utf-8", "backslashreplace").decode() for name in classes]
    assert [(row["class"], row["images"]) for row in rows] == [(name, "2") for name in escaped]
    saved = read(home / "center.npz")
    assert saved.classes == tuple(classes) and len(saved.images) == 2 * len(classes)


def test_a_picture_that_fails_costs_no_table(trained, monkeypatch, caplog):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: 1 / 0)
    evaluate([of_run(trained / "A")], trained / "A/evaluation")
    (home,) = (trained / "A/evaluation/12").iterdir()
    assert (home / "tables.md").exists() and (home / "mistakes.csv").exists()
    assert f"{home}/confusion.png could not be drawn: division by zero" in caplog.messages


def test_what_was_computed_is_found_again_and_other_weights_are_not(trained, monkeypatch, caplog):
    first = evaluate([of_run(trained / "A")], trained / "A" / "evaluation")
    counted = []
    real = module.evaluate_dataset
    monkeypatch.setattr(module, "evaluate_dataset", lambda *given, **o: counted.append(given) or real(*given, **o))
    assert evaluate([of_run(trained / "A")], trained / "A" / "evaluation") == first and not counted
    # One more scale costs that scale only.
    evaluate([of_run(trained / "A", overrides={"evaluate.scales": (40, 48)})], trained / "A" / "evaluation")
    assert [view.scale for view in counted[0][2]] == [48]
    # B's weights in A's place: nothing of A's may be taken for them.
    evaluate([of_run(trained / "B")], trained / "B" / "evaluation")
    shutil.copytree(trained / "A/evaluation/12", trained / "B/evaluation/12", dirs_exist_ok=True)
    before = len(counted)
    evaluate([of_run(trained / "B")], trained / "B" / "evaluation")
    assert len(counted) == before + 1


def test_another_split_leaves_the_tables_of_the_first(trained, monkeypatch):
    kept = {}
    for split, count in (("test", 15), ("validation", 6), ("train[:50%]", 12), ("train[50%:]", 12)):
        text = evaluate([of_run(trained / "A", overrides=CENTER | {"evaluate.split": split})])
        folder = Path(text.partition("Tables, mistakes and posteriors: ")[2])
        assert folder.parent == trained / "A/evaluation/12" and folder not in kept
        kept[folder] = (folder / "tables.md").read_text(), (folder / "per_class.csv").read_text()
        assert f"split {split}: {count} images" in kept[folder][0]
    for folder, texts in kept.items():
        assert ((folder / "tables.md").read_text(), (folder / "per_class.csv").read_text()) == texts
    monkeypatch.chdir(trained)
    text = evaluate([of_run(trained / "A", overrides=CENTER | {"evaluate.split": split})], Path("A/evaluation"))
    assert text.endswith(f"Tables, mistakes and posteriors: {folder}")


def test_a_folder_without_test_is_evaluated_on_its_validation_images(trained, photographs, tmp_path, caplog):
    for split in ("train", "validation"):
        shutil.copytree(photographs / split, tmp_path / "photographs" / split)
    overrides = CENTER | {"data.source": f"folder:{tmp_path}/photographs"}
    text = evaluate([of_run(trained / "A", overrides=overrides)])
    assert "split test: 6 images of 3 classes (it has no test folder, validation stands in)" in text
    assert "3 classes: the top-5 error is 0 whatever the network answers" in caplog.text
    alone = evaluate([of_run(trained / "A", overrides=CENTER | {"evaluate.split": "validation"})])
    assert [line for line in text.splitlines() if "|" in line] == [line for line in alone.splitlines() if "|" in line]


def test_a_network_that_is_fused_with_itself_is_named(trained, caplog):
    evaluate([of_run(trained / net, overrides=CENTER) for net in "ABA"], trained / "both" / "evaluation")
    names = [str(trained / net / "checkpoints/12") for net in "AB"]
    assert f"{names[0]} and {names[0]} are of the same weights by the same protocol" in caplog.text
    assert caplog.text.count("the same weights") == 1
    caplog.clear()
    one, other = [next((trained / net / "evaluation/12").iterdir()) / "center.npz" for net in "AB"]
    fuse([one, other])
    assert "the same weights" not in caplog.text
    shutil.copy(one, trained / "copy.npz")
    fuse([one, other, trained / "copy.npz"])
    assert f"{one} and {trained / 'copy.npz'} are of the same weights by the same protocol" in caplog.text


def test_several_networks_are_fused_and_so_are_their_files(trained):
    out = trained / "both" / "evaluation"
    text = evaluate([of_run(trained / net) for net in "AB"], out)
    files = [next((trained / net / "evaluation/12").iterdir()) / "dense.npz" for net in "AB"]
    parts = [np.load(file)["posteriors"] for file in files]
    average = (parts[0].mean(0) + parts[1].mean(0)) / 2
    labels = np.load(files[0])["labels"]
    error = 100 * (average.argmax(1) != labels).mean()
    (tables,) = out.glob("*/tables.json")
    fused = [r for r in json.loads(tables.read_text()) if r["table"] == 6 and r["protocol"] == "dense"]
    assert [r["network"] for r in fused] == ["A + B"] and fused[0]["top1"] == pytest.approx(error)
    assert "Table 6: fusion" in text
    last = fuse(files).splitlines()[-1]
    assert last.startswith("| A + B ") and f"| {error:.2f} " in last


def test_mistakes_are_reported_before_any_work(trained, photographs, tmp_path):
    for number, name in enumerate(("above", "left", "other")):
        (tmp_path / "other" / name).mkdir(parents=True)
        shutil.copy(photographs / "test/noise/0.png", tmp_path / f"other/{name}/{number}.png")
    out = tmp_path / "out"
    for overrides, error, message in (
        (
            {"data.source": "mnist5k"},
            DataError,
            "no class '0' and 9 more of mnist5k.*; its own 3 are above, left, noise",
        ),
        (
            {"data.source": f"folder:{tmp_path}/other", "evaluate.split": "train"},
            DataError,
            "no class 'other' of folder",
        ),
        ({"evaluate.scale": 20}, ConfigError, "Q is below the crop"),
        ({"evaluate.scales": (40, 31)}, ConfigError, "Q is below the crop"),
        ({"evaluate.protocols": ("dens",)}, ConfigError, "one or more of dense, crops, both, center"),
    ):
        with pytest.raises(error, match=message):
            evaluate([of_run(trained / "A", overrides=overrides)], out)
    with pytest.raises(DataError, match="no-such.npz: is not there"):
        fuse(["no-such.npz", "no-such.npz"])
    with pytest.raises(ConfigError, match="two or more files"):
        fuse([])


def test_the_papers_figure_stands_beside_ours_only_where_protocol_and_data_are_the_papers():
    labels = np.array([0, 1])
    posteriors = np.eye(2, dtype=np.float32)
    setting = Setting("D", (256, 512), (256, 384, 512), "both")
    assert "24.4 / 7.2" in markdown([row(setting, posteriors, labels, table=5, of_the_paper=True)])
    assert "24.4" not in markdown([row(setting, posteriors, labels, table=5)])
    # PAPER, Tables 3 to 6, a few by hand.
    assert ERRORS[Setting("A-LRN", (256, 256), (256,), "dense")] == (29.7, 10.5)
    assert ERRORS[Setting("C", (384, 384), (352, 384, 416), "dense")] == (27.8, 9.2)
    assert ERRORS[Setting("D + E", (256, 512), (256, 384, 512), "both")] == (23.7, 6.8)
    assert len(ERRORS) == 12 + 10 + 4 + 3
    assert Setting("B", (384, 384), (384,), "dense") not in ERRORS


@pytest.mark.parametrize("protocol", ["dense", "crops", "both", "center"])
def test_every_protocol_can_drive_the_schedule(protocol, photographs, tmp_path):
    config = config_of(photographs)
    config.evaluate.validation, config.train.steps, config.evaluate.every, config.checkpoint.every = protocol, 2, 2, 2
    metrics = train(config, tmp_path, make_task)
    assert metrics["images"] == 6 and 0 <= metrics["top1"] <= 1
    overrides = {"evaluate.protocols": (protocol,), "evaluate.split": "validation", "evaluate.scales": (40,)}
    evaluate([of_run(tmp_path, overrides=overrides)], tmp_path / "evaluation")
    first = json.loads(next((tmp_path / "evaluation").rglob("tables.json")).read_text())[0]
    assert first["top1"] == pytest.approx(100 * (1 - metrics["top1"]))


def test_an_unreadable_image_is_left_out_counted_and_named(trained, photographs, tmp_path):
    shutil.copytree(photographs, tmp_path / "photographs")
    (tmp_path / "photographs/test/left/0.png").write_bytes(b"no image")
    overrides = {"data.source": f"folder:{tmp_path}/photographs", "data.on_error": "skip"}
    text = evaluate([of_run(trained / "A", overrides=overrides)], tmp_path / "out")
    assert "1 images could not be read" in text and "left/0.png: not an image" in text and "| 14 " in text
    assert evaluate([of_run(trained / "A", overrides=overrides)], tmp_path / "out") == text
    with pytest.raises(DataError, match=r"left/0.png: not an image"):
        evaluate([of_run(trained / "A", overrides=overrides | {"data.on_error": "raise"})], tmp_path / "out")


def test_the_networks_that_flags_name(trained, photographs):
    nothing = {"config": None, "overrides": {}, "workdir": None, "checkpoint": [], "weights": []}
    runs = [str(trained / net) for net in "AB"]
    (alone,) = find_targets(**nothing | {"workdir": runs[0]})
    assert alone.name == f"{runs[0]}/checkpoints/12" and alone.scales == (40,)
    both = find_targets(**nothing | {"workdir": runs[0], "checkpoint": runs})  # the workdir is where results go
    assert [target.net.spec.name for target in both] == ["A", "B"]
    # A config of one's own, and what is changed in it.
    config, overrides = config_of(photographs), {"evaluate.scales": (48, 64)}
    config.evaluate.split = "validation"
    target = find_target(**nothing | {"checkpoint": runs[1:], "config": config, "overrides": overrides})
    assert (target.scales, target.config.evaluate.split, target.config.model.net) == ((48, 64), "validation", "B")
    with pytest.raises(ConfigError, match="which network"):
        find_target(**nothing)
    for several in ({"checkpoint": runs}, {"workdir": runs[0], "weights": ["a.pth"]}):
        with pytest.raises(ConfigError, match="this mode takes one network"):
            find_target(**nothing | several)


def test_published_weights_are_evaluated_like_a_run(tmp_path, photographs):
    classes = imagenet()
    net = VGG("A", num_classes=1000, crop=32, width=0.0625, init="he", classes=classes, rngs=nnx.Rngs(0))
    save_torchvision(net, tmp_path / "weights.safetensors")
    overrides = {"data.source": f"folder:{photographs}", "evaluate.split": "test"}
    target = of_weights(str(tmp_path / "weights.safetensors"), overrides=overrides)
    assert (target.S, target.home, target.net.classes) == ((0, 0), None, classes)
    with pytest.raises(
        DataError, match="has no class 'above' and 2 more of folder:.*; its own 1,000 are n01440764 tench"
    ):
        evaluate([target], tmp_path / "out")

    class Thousand(Source):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return {"image": (photographs / f"test/left/{index}.png").read_bytes(), "label": 999 * index}

        def name_of(self, index):
            return f"{index}.png"

        def describe(self):
            return "two images"

    thousand = Thousand("all", "validation", tuple(name.split()[0] for name in classes))
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr(module, "open_source", lambda name, split: thousand)
        text = evaluate([target], tmp_path / "out")
    assert "| A       | –" in text and "two images" in text
    saved = read(next((tmp_path / "out").glob("*/*/dense.npz")))
    alone = Scorer(net, scales=saved.scales)(
        [decode((photographs / f"test/left/{i}.png").read_bytes()) for i in (0, 1)]
    )
    np.testing.assert_allclose(saved.mean(), alone, atol=1e-5)
    assert saved.labels.tolist() == [0, 999]


def test_a_network_of_a_thousand_classes_on_a_folder_of_three_by_both_choices(tmp_path, photographs):
    classes, ids = imagenet(), ("n01440764", "n03000684", "n03888257")  # the first, and two of Imagenette's
    net = VGG("A", num_classes=1000, crop=32, width=0.0625, init="he", classes=classes, rngs=nnx.Rngs(0))
    net = with_spread_scores(net)
    save_torchvision(net, tmp_path / "weights.safetensors")
    for name, wordnet_id in zip(("above", "left", "noise"), ids):
        shutil.copytree(photographs / "validation" / name, tmp_path / "three/val" / wordnet_id)
    given = CENTER | {"data.source": f"folder:{tmp_path}/three"}
    target = lambda **choice: of_weights(str(tmp_path / "weights.safetensors"), overrides=given | choice)
    with pytest.raises(
        DataError, match="knows 1,000 classes, .* has 3 of them: --config.evaluate.classes=source .*=all"
    ):
        evaluate([target()], tmp_path / "out")

    files = [tmp_path / "three/val" / wordnet_id / f"{number}.png" for wordnet_id in ids for number in range(2)]
    of_all = np.float64(Scorer(net, (36,), "center")([decode(file.read_bytes()) for file in files]))
    places = np.array([[label.split()[0] for label in classes].index(wordnet_id) for wordnet_id in ids])
    of_three = of_all[:, places] / of_all[:, places].sum(1, keepdims=True)
    assert len({*of_three.argmax(1)}) > 1  # they tell something
    labels, seen = np.repeat(np.arange(3), 2), []
    for choice, expected, truth, names in (
        ("source", of_three, labels, ids),
        ("all", of_all, places[labels], classes),
    ):
        text = evaluate([target(**{"evaluate.classes": choice})], tmp_path / "out")
        home = Path(text.partition("Tables, mistakes and posteriors: ")[2])
        saved = read(home / "center.npz")
        order = [saved.images.index(f"{file.parent.name}/{file.name}") for file in files]
        assert saved.classes == tuple(names) and saved.labels[order].tolist() == truth.tolist()
        np.testing.assert_allclose(saved.mean()[order], expected, atol=1e-5)
        np.testing.assert_allclose(saved.mean().sum(1), 1, atol=1e-5)
        (record,) = json.loads((home / "tables.json").read_text())
        for top, error in ((1, record["top1"]), (5, record["top5"])):
            best = np.argsort(-expected, axis=1)[:, :top]
            assert error == pytest.approx(100 * (best != truth[:, None]).all(1).mean())
        seen.append(home)
    assert seen[0] != seen[1] and "6 images of 3 classes; over all 1,000 of the network" in text
