"""Passes that several processes compute: on NFS a folder with an open file cannot be removed."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from vgg_jax import CheckpointError
from vgg_jax.inference import array_folder, feature_store

IMAGES = range(7)
MADE_OF = {"arrays": {"features": ((2,), "float32")}}


@pytest.fixture
def fill(tmp_path, two_processes):
    """Fills a pass by two processes; what the one maps, the other finds mapped."""

    def compute(unfinished, indices):
        unfinished.arrays["features"][:] = np.array(indices)[:, None]
        unfinished.complete(len(indices))

    def fill(name):
        folder = tmp_path / name
        failed = two_processes(lambda: feature_store.fill(folder, MADE_OF, IMAGES, compute, whole=True))
        assert failed == [None, None]
        return array_folder.read(folder)[0]["features"]

    return fill


def on_nfs(monkeypatch, is_open):
    """Lets a folder go only if no file is open that was in it."""
    rmdir = os.rmdir

    def of_nfs(path, **given):
        if is_open(f"{path}/"):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        rmdir(path, **given)

    monkeypatch.setattr(os, "rmdir", of_nfs)


def test_shares_are_let_go_of_before_they_are_removed(fill, tmp_path, monkeypatch, caplog):
    on_nfs(monkeypatch, lambda folder: folder in Path("/proc/self/maps").read_text())
    np.testing.assert_array_equal(fill("pass"), np.repeat(IMAGES, 2).reshape(-1, 2))
    assert os.listdir(tmp_path) == ["pass"] and not caplog.messages


def test_a_share_that_cannot_be_removed_yet_fails_nothing_and_goes_with_a_later_one(
    fill, tmp_path, monkeypatch, caplog
):
    with monkeypatch.context() as patched:
        on_nfs(patched, lambda folder: "first-1of2" in folder)
        np.testing.assert_array_equal(fill("first"), np.repeat(IMAGES, 2).reshape(-1, 2))
    assert os.listdir(tmp_path / "shares") == ["first-1of2"]
    left = f"{tmp_path}/shares/first-1of2 is not needed any longer, but cannot be removed: Directory not empty"
    assert caplog.messages == [left]
    fill("second")
    assert sorted(os.listdir(tmp_path)) == ["first", "second"]


def test_an_unfinished_pass_that_is_started_over_is_let_go_of(tmp_path, monkeypatch):
    """It lacks an image that could not be read."""
    begin = lambda **options: array_folder.writing(tmp_path / "pass", MADE_OF, 7, "features", **options)
    with pytest.raises(KeyboardInterrupt), begin() as unfinished:
        unfinished.problems["1.jpg"] = "not an image"
        unfinished.complete(3)
        raise KeyboardInterrupt
    del unfinished
    on_nfs(monkeypatch, lambda folder: folder in Path("/proc/self/maps").read_text())
    with begin(whole=True) as unfinished:
        assert unfinished.rows == 0 and not unfinished.problems


def test_a_pass_with_other_rows_than_images_is_refused(fill, tmp_path):
    """One row would be taken for every image."""
    fill("pass")
    assert len(feature_store.read(tmp_path / "pass", IMAGES)[0]["features"]) == len(IMAGES)
    np.save(tmp_path / "pass/features.npy", np.zeros((1, 2), np.float32))
    with pytest.raises(CheckpointError, match=r"pass is damaged: it is not of 7 images; remove it"):
        feature_store.read(tmp_path / "pass", IMAGES)
