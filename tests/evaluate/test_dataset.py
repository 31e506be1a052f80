from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import vgg_jax
from tests.forked import joined
from tests.photographs import image_of, with_spread_scores
from vgg_jax import processes
from vgg_jax.data.files import FileSource
from vgg_jax.data.open import open_source
from vgg_jax.data.source import Source
from vgg_jax.evaluate.dataset import evaluate_dataset
from vgg_jax.inference.scorer import eval_views, posterior_runner

VIEWS = eval_views(["dense", "center"], [40])
SIZES = [(33, 57), (75, 41), (20, 31), (64, 64), (41, 75), (57, 33), (90, 48)]


def network():
    return with_spread_scores(vgg_jax.VGG("A", num_classes=3, crop=32, width=1 / 16, init="he", rngs=nnx.Rngs(0)))


net = pytest.fixture(network, scope="module")


@pytest.fixture
def folder(tmp_path):
    """Three classes with fourteen images of several sizes, without loss, in test/."""
    for number in range(14):
        path = tmp_path / "photos" / "test" / "cab"[number % 3] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_of(SIZES[number % 7], number)).save(path)
    return tmp_path / "photos"


def opened(folder, split="test"):
    return open_source(f"folder:{folder}", split)


def files_of(folder):
    source = opened(folder)
    return [Path(source.name_of(index)) for index in range(len(source))]


def runner_of(net, mesh, **options):
    return posterior_runner(net, mesh=mesh, **options)


def assert_right(predictions, net, files, mesh):
    assert predictions.labels.tolist() == ["abc".index(file.parent.name) for file in files]
    assert set(predictions.posteriors) == set(VIEWS)
    images = [np.asarray(Image.open(file)) for file in files]
    for view, posteriors in predictions.posteriors.items():
        expected = vgg_jax.Scorer(net, (view.scale,), view.protocol, mesh=mesh)(images)
        assert posteriors.dtype == np.float32
        np.testing.assert_allclose(posteriors, expected, atol=1e-5, rtol=0)


def test_every_image_once_in_the_sources_order(folder, net, one_device, eight_devices):
    files, reported = files_of(folder), []
    for mesh, options in ((one_device, {"batch_size": 3}), (eight_devices, {})):
        runner = runner_of(net, mesh, **options)
        for _ in range(2):  # as while training
            del reported[:]
            progress = lambda done, of: reported.append((done, of))
            predictions = evaluate_dataset(runner, opened(folder), VIEWS, progress=progress)
            assert_right(predictions, net, files, one_device)
            assert predictions.index.tolist() == list(range(14)) and predictions.index.dtype == np.int64
            assert reported == [(done, 28) for done in range(1, 29)]
            assert not predictions.problems


@pytest.mark.parametrize("cut", [1, 9, 25])
def test_a_pass_that_is_cut_off_goes_on_with_the_same_bits(folder, net, one_device, tmp_path, cut, caplog):
    """Crops too, 25 of an image, which lie in several batches."""
    views, (bad, *_) = eval_views(["dense", "crops"], [40]), files_of(folder)
    bad.write_bytes(b"noise")
    options = {"on_error": "skip", "made_of": {"weights": "a"}}
    evaluated = lambda **more: evaluate_dataset(
        posterior_runner(net, mesh=one_device, batch_size=3), opened(folder), views, **options, **more
    )
    whole = evaluated(folder=tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop(done, of):
        assert of >= 26
        if done == cut:
            raise Stopped

    first, rest = [], []
    with pytest.raises(Stopped):
        evaluated(folder=tmp_path / "cut", progress=lambda done, of: (first.append(done), stop(done, of)))
    with caplog.at_level("INFO"):
        cut_off = evaluated(folder=tmp_path / "cut", progress=lambda done, of: rest.append(done))
    assert ("going on from batch" in caplog.text) == (cut > 1) and len(rest) < 26 - cut + 5 and rest[-1] == 26
    assert cut_off.problems == whole.problems and list(whole.problems) == [str(bad)]
    np.testing.assert_array_equal(cut_off.labels, whole.labels)
    for view in views:
        np.testing.assert_array_equal(cut_off.posteriors[view], whole.posteriors[view])
    options["made_of"] = {"weights": "b"}
    assert evaluated(folder=tmp_path / "cut").index.tolist() == list(range(1, 14))
    assert "made otherwise (weights: a -> b): computed again" in caplog.text


def test_an_unreadable_image_stops_the_run_or_is_left_out(folder, net, one_device):
    files, runner, reported = files_of(folder), runner_of(net, one_device), []
    bad, empty = files[3], files[9]
    bad.write_bytes(bad.read_bytes()[:200])
    empty.write_bytes(b"")
    with pytest.raises(vgg_jax.DataError, match=rf"({bad}|{empty}): .*\nTo leave such images out: --config.data.on"):
        evaluate_dataset(runner, opened(folder), VIEWS)
    for _ in range(2):
        progress = lambda done, of: reported.append((done, of))
        predictions = evaluate_dataset(runner, opened(folder), VIEWS, on_error="skip", progress=progress)
        assert set(predictions.problems) == {str(bad), str(empty)}
        assert predictions.problems[str(empty)] == "the file is empty"
        assert predictions.index.tolist() == [index for index in range(14) if index not in (3, 9)]
        assert_right(predictions, net, [file for file in files if file not in (bad, empty)], one_device)
        assert reported[-1] == (24, 24)


def test_nothing_to_evaluate_on_is_refused(folder, net, one_device):
    class Empty(Source):
        def __len__(self):
            return 0

        __getitem__ = name_of = None

    runner = runner_of(net, one_device)
    with pytest.raises(vgg_jax.DataError, match="nowhere, split test: 0 images of 1 classes: the source is empty"):
        evaluate_dataset(runner, Empty("nowhere", "test", ("a",)), VIEWS)
    for file in files_of(folder):
        file.write_bytes(b"noise")
    with pytest.raises(vgg_jax.DataError, match="14 images of 3 classes: no image could be read"):
        evaluate_dataset(runner, opened(folder), VIEWS, on_error="skip")
    with pytest.raises(vgg_jax.DataError, match="on_error='ignore'"):
        evaluate_dataset(runner, opened(folder), VIEWS, on_error="ignore")


def test_images_without_labels_are_refused_at_once(folder, net, one_device):
    """As those of ImageNet's test split, whose label is -1 in TFDS."""
    source = FileSource(files_of(folder), [-1] * 14, name="tfds:x", split="test", classes=("a", "b", "c"))
    with pytest.raises(vgg_jax.DataError, match="tfds:x, split test: .* has no label.*; choose a split whose images"):
        evaluate_dataset(runner_of(net, one_device), source, VIEWS, progress=lambda *done: pytest.fail("too late"))


def test_an_image_too_elongated_is_named(folder, net, one_device):
    path, runner = files_of(folder)[5], runner_of(net, one_device)
    Image.new("RGB", (6000, 2)).save(path)
    with pytest.raises(vgg_jax.DataError, match=f"{path}: 2 x 6000 pixels are too elongated"):
        evaluate_dataset(runner, opened(folder), VIEWS)
    predictions = evaluate_dataset(runner, opened(folder), VIEWS, on_error="skip")
    assert len(predictions.index) == len(files_of(folder)) - 1
    assert [*predictions.problems] == [str(path)] and "too elongated" in predictions.problems[str(path)]


def evaluated(folder, out):
    """In one of two processes."""
    processes.join()
    assert jax.process_count() == 2
    runner = posterior_runner(network())
    for split in ("test", "test[:1]"):
        found = evaluate_dataset(runner, open_source(f"folder:{folder}", split), VIEWS, on_error="skip")
        rows = {view.protocol: found.posteriors[view] for view in VIEWS} | {"bad": len(found.problems)}
        np.savez(out / f"{split}{jax.process_index()}.npz", index=found.index, labels=found.labels, **rows)


def test_two_processes_are_one(folder, net, tmp_path, one_device):
    """An odd number of images, one of them unreadable; and a single image, which leaves a process without any."""
    files, runner = files_of(folder), runner_of(net, one_device)
    files[13].unlink()
    files[2].write_bytes(b"noise")
    for process in (pair := joined(2, 1, tmp_path, evaluated, folder, tmp_path)):
        process.join(300)
    said = [(tmp_path / f"said{rank}.txt").read_text() for rank in range(2)]
    assert [process.exitcode for process in pair] == [0, 0], said
    for split in ("test", "test[:1]"):
        expected, bad = evaluate_dataset(runner, opened(folder, split), VIEWS, on_error="skip"), 0
        for rank in range(2):
            with np.load(tmp_path / f"{split}{rank}.npz") as found:
                np.testing.assert_array_equal(found["index"], expected.index)
                np.testing.assert_array_equal(found["labels"], expected.labels)
                assert found["index"].dtype == np.int64 and found["labels"].dtype == np.int32
                for view, posteriors in expected.posteriors.items():
                    np.testing.assert_allclose(found[view.protocol], posteriors, atol=1e-5, rtol=0)
                bad += found["bad"]
        assert bad == len(expected.problems) == (split == "test")
