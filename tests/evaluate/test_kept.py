"""Kept posteriors are found again for the very same images and weights, and for nothing else."""

import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from vgg_jax.data.decode import decode
from vgg_jax.data.open import open_source
from vgg_jax.errors import ConfigError, DataError
from vgg_jax.evaluate import kept
from vgg_jax.evaluate.classes import eval_classes
from vgg_jax.evaluate.dataset import DatasetPredictions
from vgg_jax.evaluate.kept import kept_posteriors
from vgg_jax.evaluate.posteriors import read
from vgg_jax.inference.scorer import eval_views

ABOUT = {"network": "A", "S": [32, 32], "checkpoint": "runs/A/checkpoints/5", "weights": "12345678", "flip": True}
VIEWS = eval_views(["both"], [32, 40])


class Folder:
    """A folder of six images of two classes, and a network that answers by how bright an image is."""

    def __init__(self, home):
        self.home, self.asked, self.away = home, [], set()
        for number in range(6):
            path = self.path(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 20 + 40 * number).save(path)

    def path(self, number):
        return self.home / "photos/test" / "ab"[number % 2] / f"{number}.png"

    def compute(self, views, unfinished, made_of):
        source, bright, labels, problems = self.source(), {}, [], {}
        for index in range(len(source)):
            if Path(source.name_of(index)) in self.away:
                problems[source.name_of(index)] = "Stale file handle"
                continue
            try:
                bright[index] = decode(source[index]["image"]).mean() / 256
                labels.append(source[index]["label"])
            except DataError as error:
                problems[source.name_of(index)] = str(error)
        values = np.float32([[p, 1 - p] for p in bright.values()])
        posteriors = {view: values ** (1 + view.scale + (view.protocol == "crops")) for view in views}
        self.asked.append(list(views))
        return DatasetPredictions(np.array([*bright]), np.array(labels), posteriors, problems)

    def source(self):
        return open_source(f"folder:{self.home}/photos", "test")

    def kept(self, about=ABOUT, views=VIEWS, complete=True):
        source = self.source()
        classes = eval_classes(("a", "b"), source, "", "A")
        return kept_posteriors(self.home / "kept", about, source, classes, views, self.compute, complete=complete)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def same(one, other):
    assert one.keys() == other.keys()
    for part in one:
        np.testing.assert_array_equal(one[part].values, other[part].values)
    return True


def test_what_was_computed_is_found_again(folder):
    first = folder.kept()
    assert [part.images for part in first.values()] == [first["dense"].images] * 2 and len(first["dense"].images) == 6
    assert same(folder.kept(), first) and len(folder.asked) == 1
    # As another run's checkpoint of the same weights, too; a further scale costs that scale only.
    more = folder.kept(ABOUT | {"checkpoint": "elsewhere"}, eval_views(["dense"], [32, 48]))
    assert folder.asked[1:] == [eval_views(["dense"], [48])]
    assert more["dense"].scales == (32, 40, 48)
    np.testing.assert_array_equal(more["dense"].at(32, 40).values, first["dense"].values)


def test_processes_go_by_what_the_first_one_finds(folder, two_processes, monkeypatch):
    """On NFS the second may not see it yet, and would compute alone."""
    first, found = folder.kept(), kept._found
    monkeypatch.setattr(kept, "_found", lambda *arguments: found(*arguments) if jax.process_index() == 0 else None)
    assert all(same(of_process, first) for of_process in two_processes(folder.kept))
    assert len(folder.asked) == 1


def test_a_second_evaluation_waits_its_turn(folder):
    """Each would save what it found and computed over the other's: here, of other scales."""
    compute, narrow = folder.compute, eval_views(["dense"], [32])

    def meanwhile(views, unfinished, made_of):
        folder.compute = compute
        with pytest.raises(ConfigError, match=f"{folder.home}/kept: process .* is computing here"):
            folder.kept(views=eval_views(["dense"], [48]))
        return compute(views, unfinished, made_of)

    folder.compute = meanwhile
    folder.kept(views=narrow)
    assert folder.kept(views=eval_views(["dense"], [48]))["dense"].scales == (32, 48)
    assert folder.asked == [narrow, eval_views(["dense"], [48])]


def test_other_weights_are_computed_again(folder):
    folder.kept()
    folder.kept(ABOUT | {"weights": "87654321"})
    assert len(folder.asked) == 2


def test_a_damaged_file_is_named_and_computed_again(folder, caplog):
    first, path = folder.kept(), folder.home / "kept/dense.npz"
    path.write_bytes(path.read_bytes()[:-100])
    assert same(folder.kept(), first) and folder.asked[1:] == [eval_views(["dense"], [32, 40])]
    assert re.search(rf"{path}: not a file of posteriors: .*: computed again", caplog.text)
    assert same(folder.kept(), first) and len(folder.asked) == 2


@pytest.mark.parametrize("what", ["size", "time"])
def test_content_that_was_replaced_under_the_same_name_is_noticed(what, folder):
    first, path = folder.kept(), folder.path(3)
    before = path.stat()
    Image.new("L", (8, 8) if what == "time" else (30, 30), 141).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + (what == "time")))
    assert (path.stat().st_size == before.st_size) == (what == "time")
    second = folder.kept()
    changed = np.abs(second["dense"].values - first["dense"].values).max((0, 2)) > 0
    assert len(folder.asked) == 2
    assert np.flatnonzero(changed).tolist() == [second["dense"].images.index("b/3.png")]


def test_what_could_not_be_read_is_kept_and_named_again(folder):
    whole = folder.path(2).read_bytes()
    folder.path(2).write_bytes(b"no image")
    first = folder.kept(complete=False)
    again = folder.kept(complete=False)
    assert same(again, first) and len(folder.asked) == 1
    for found in (first["dense"], again["crops"], read(folder.home / "kept/dense.npz")):
        assert len(found.images) == 5 and [*found.unreadable] == ["a/2.png"]
        assert found.unreadable["a/2.png"].startswith("not an image")
    folder.kept()  # who wants all does not get five without a word
    assert len(folder.asked) == 2
    folder.path(2).write_bytes(whole)
    mended = folder.kept(complete=False)
    assert len(folder.asked) == 3 and len(mended["dense"].images) == 6 and not mended["dense"].unreadable


def test_all_parts_are_of_the_same_images_even_if_one_was_away_for_a_while(folder):
    dense, crops = eval_views(["dense"], [32]), eval_views(["crops"], [32, 40])
    folder.away = {folder.path(4)}
    assert len(folder.kept(views=dense, complete=False)["dense"].images) == 5
    folder.away = set()
    parts = folder.kept(complete=False)
    assert {len(part.images) for part in parts.values()} == {6} and folder.asked[-1] == VIEWS
    # In files that were each written on their own, too.
    (folder.home / "kept/crops.npz").unlink()
    folder.away = {folder.path(4)}
    assert len(folder.kept(views=crops, complete=False)["crops"].images) == 5
    folder.away = set()
    parts = folder.kept(complete=False)
    assert {len(part.images) for part in parts.values()} == {6} and folder.asked[-1] == VIEWS
