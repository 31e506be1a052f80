import json
from pathlib import Path

import pytest

from vgg_jax.data.open import open_source
from vgg_jax.errors import DataError

CAT = {"class": "cat", "box": [48, 239, 195.5, 371]}
DOG = {"class": "Hündchen", "box": [8, 12, 352, 498], "difficult": True}


def write(path: Path, *lines: dict | str) -> str:
    """A file of these lines, in a folder of its own; the source's name."""
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode())
    return f"boxes:{path}"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "data" / "boxes.jsonl"


def test_images_and_boxes(file):
    name = write(
        file,
        {"image": "photos/été 1.jpg", "objects": [DOG, CAT], "split": "train"},
        "",
        {"image": "2.png", "objects": [CAT], "split": "validation"},
        {"image": "3.png", "objects": [], "split": "validation"},
    )
    source = open_source(name, "train+validation")
    assert source.classes == ("Hündchen", "cat")
    assert source.files.paths == [str(file.parent / "photos/été 1.jpg"), str(file.parent / "2.png")]
    assert source.files.labels.tolist() == [1, 1]
    of = source.objects
    assert of.image.tolist() == [0, 0, 1] and of.label.tolist() == [0, 1, 1]
    assert of.corners.tolist() == [[8, 12, 352, 498], [48, 239, 195.5, 371], [48, 239, 195.5, 371]]
    assert of.difficult.tolist() == [True, False, False]
    assert source.describe() == (
        f"{name}, split train+validation: 2 images of 2 classes (images left out, which have no object: 1)"
    )
    assert open_source(name, "test").note.endswith("it has no test line, validation stands in")
    (file.parent / "2.png").write_bytes(b"content")
    assert open_source(name, "validation")[0] == {"image": b"content", "label": 1}


def test_lines_without_a_split_are_divided_by_path(file):
    lines = [{"image": f"{number}.jpg", "objects": [CAT]} for number in range(200)]
    name = write(file, *lines)
    roles = {role: open_source(name, role).files.paths for role in ("train", "validation", "test")}
    assert sorted(sum(roles.values(), [])) == sorted(str(file.parent / line["image"]) for line in lines)
    assert 140 < len(roles["train"]) < 180
    assert "80/10/10" in open_source(name, "test").note
    write(file, *lines[1:])
    for role, paths in roles.items():
        assert set(open_source(name, role).files.paths) == set(paths) - {str(file.parent / "0.jpg")}


@pytest.mark.parametrize(
    "line, reason",
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("3", "3 is no object with image, objects and perhaps split"),
        ({"image": "x.jpg"}, "is no object with image, objects"),
        ({"image": "x.jpg", "objects": [], "label": 1}, "is no object with image, objects"),
        ({"image": "", "objects": []}, "image is ''"),
        ({"image": "x.jpg", "objects": {}}, "objects is {}"),
        (
            {"image": "x.jpg", "objects": [CAT | {"dificult": True}]},
            "is no object with class, box and perhaps",
        ),
        ({"image": "x.jpg", "objects": [CAT | {"difficult": 1}]}, "difficult is 1"),
        ({"image": "x.jpg", "objects": [CAT | {"box": [1, 2, 3]}]}, "box [1, 2, 3] is not left, top, right, bottom"),
        ({"image": "x.jpg", "objects": [CAT | {"box": [1, 2, 3, "4"]}]}, "is not left, top, right, bottom"),
        ({"image": "x.jpg", "objects": [CAT | {"box": [1, 2, 3, 10**400]}]}, "is not left, top, right, bottom"),
        ({"image": "x.jpg", "objects": [CAT | {"class": 3}]}, "class is 3"),
        ({"image": "x.jpg", "objects": [CAT], "split": "dev"}, "split 'dev' is none of train, validation, test"),
        ({"image": "x.jpg", "objects": [CAT], "split": "train"}, "some lines have a split and some have none"),
        ({"image": "1.jpg", "objects": [CAT]}, "'1.jpg' is on line 1 already"),
    ],
)
def test_a_damaged_line_is_named(file, line, reason):
    name = write(file, {"image": "1.jpg", "objects": [CAT]}, "", line)
    with pytest.raises(DataError) as caught:
        open_source(name, "train")
    assert str(caught.value).startswith(f"config.data.source={name!r}: line 3: ") and reason in str(caught.value)
    assert len(str(caught.value)) < 400


def test_files_that_cannot_be_read(file):
    with pytest.raises(DataError, match="No such file"):
        open_source(f"boxes:{file}", "train")
    with pytest.raises(DataError, match="No such file"):
        open_source("boxes:~nobody-has-this-name/boxes.jsonl", "train")
    with pytest.raises(DataError, match="the file has no lines"):
        open_source(write(file, ""), "train")
    with pytest.raises(DataError, match="line 1: no JSON"):
        file.write_bytes(b'{"image": "\xff"}')
        open_source(f"boxes:{file}", "train")
