import logging
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from vgg_jax.data.decode import decode
from vgg_jax.data.open import open_source
from vgg_jax.data.statistics import IMAGENET, color_statistics
from vgg_jax.errors import ConfigError, DataError


@pytest.fixture
def source(photo_folder):
    return open_source(f"folder:{photo_folder}", "train")


def test_against_numpy(source):
    images = [decode(source[index]["image"]).reshape(-1, 3) / 255.0 for index in range(len(source))]
    pixels = np.concatenate(images)
    weights = np.concatenate([np.full(len(image), 1 / len(image) / len(images)) for image in images])
    statistics = color_statistics(source, cache=None)
    np.testing.assert_allclose(statistics.mean, 255 * weights @ pixels, rtol=1e-12)
    covariance = np.cov(pixels.T, aweights=weights, bias=True)
    vectors, values = np.array(statistics.eigenvectors), np.array(statistics.eigenvalues)
    np.testing.assert_allclose(vectors * values @ vectors.T, covariance, rtol=1e-9)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-12)
    assert values[0] >= values[1] >= values[2] >= 0


def test_the_number_of_threads_changes_no_bit(source):
    assert color_statistics(source, cache=None, threads=1) == color_statistics(source, cache=None, threads=5)


def test_the_result_is_kept(source, photo_folder, monkeypatch):
    cache = photo_folder / "workdir" / "colors.json"
    statistics = color_statistics(source, cache=cache)
    with monkeypatch.context() as patched:
        patched.setattr("vgg_jax.data.statistics.scaled_images", None)
        assert color_statistics(source, cache=cache) == statistics
    assert [path.name for path in cache.parent.iterdir()] == ["colors.json"]


def test_a_result_of_other_data_is_computed_again(source, photo_folder, caplog):
    cache = photo_folder / "colors.json"
    part = open_source(f"folder:{photo_folder}", "train[:50%]")
    with caplog.at_level(logging.WARNING, "vgg_jax"):
        assert color_statistics(part, cache=cache) != color_statistics(source, cache=cache)
        assert "train[:50%]" in caplog.text and "computed again" in caplog.text
        assert color_statistics(source, cache=cache) == color_statistics(source, cache=None)


@pytest.mark.parametrize("junk", ["mean", '{"of": [', "[]", '{"of": {}}', "\xff", "null", "[" * 9999])
def test_a_damaged_result_is_kept_aside_and_computed_again(source, photo_folder, caplog, junk):
    cache = photo_folder / "colors.json"
    statistics = color_statistics(source, cache=cache)
    whole = cache.read_text()
    junk = whole.replace('"mean": [', '"mean": [999, ') if junk == "mean" else junk
    cache.write_text(junk, "latin1")
    with caplog.at_level(logging.WARNING, "vgg_jax"):
        assert color_statistics(source, cache=cache) == statistics
    assert "colors.json is damaged" in caplog.text and "kept as colors.json.damaged1, computed again" in caplog.text
    assert cache.read_text() == whole and (photo_folder / "colors.json.damaged1").read_text("latin1") == junk


def test_unreadable_images_are_raised_or_named(source, photo_folder, caplog):
    path = photo_folder / "train" / "b" / "04.jpg"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=f"{path}: the file is empty\nTo leave such images out"):
        color_statistics(source, cache=None)
    with caplog.at_level(logging.WARNING, "vgg_jax"):
        left = color_statistics(source, cache=None, on_error="skip")
    assert f"left out of the color statistics: {path}: the file is empty" in caplog.text
    path.unlink()
    without = color_statistics(open_source(f"folder:{photo_folder}", "train"), cache=None)
    np.testing.assert_allclose(left.mean, without.mean, rtol=1e-12)


@pytest.mark.parametrize("on_error", ["skip", "raise"])
def test_all_processes_take_the_colors_that_the_first_one_finds(source, photo_folder, two_processes, on_error):
    """It alone cannot read an image."""
    shutil.copytree(photo_folder, photo_folder / "broken")
    (photo_folder / "broken/train/b/04.jpg").write_bytes(b"")
    sources = [open_source(f"folder:{photo_folder}/broken", "train"), source]
    computed = lambda number: color_statistics(sources[number], cache=None, on_error=on_error)
    first, second = two_processes(lambda: computed(jax.process_index()))
    if on_error == "skip":
        assert first == second == computed(0) != computed(1)
    else:
        assert isinstance(first, DataError) and isinstance(second, ConfigError)


def test_nothing_readable_is_an_error(source, photo_folder):
    for path in photo_folder.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(DataError, match="no image could be read"):
        color_statistics(source, cache=None, on_error="skip")


def test_imagenets_are_principal_components():
    vectors = np.array(IMAGENET.eigenvectors)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-3)


def test_a_large_source_is_sampled_with_a_stated_error(source, monkeypatch, caplog):
    everything = color_statistics(source, cache=None)
    monkeypatch.setattr("vgg_jax.data.statistics.SAMPLE", 20)
    with caplog.at_level(logging.INFO, "vgg_jax"):
        sampled = color_statistics(source, cache=None)
    stated = float(re.search(r"from 20 of 24 images, standard error (\d+\.\d)", caplog.text)[1])
    assert 0 < np.abs(np.subtract(sampled.mean, everything.mean)).max() < 4 * stated


def test_networks_and_scores_of_arrays_need_no_tensorflow():
    program = (
        "import sys, numpy as np, vgg_jax\n"
        "from flax import nnx\n"
        "from vgg_jax.data.open import open_source\n"
        "from vgg_jax.data.statistics import IMAGENET\n"
        "net = vgg_jax.VGG('A', num_classes=10, crop=32, width=0.0625, rngs=nnx.Rngs(0))\n"
        "vgg_jax.Scorer(net, scales=(32,))([np.zeros((40, 50, 3), np.uint8)])\n"
        "open_source('mnist5k', 'test')\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
