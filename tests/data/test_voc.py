"""Folders with VOC's annotations, made here in every layout, sound and damaged."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from vgg_jax.data.open import open_source
from vgg_jax.data.voc import read
from vgg_jax.errors import DataError

CAT = ("cat", (49, 240, 195, 371), False)
DOG = ("dog", (9, 13, 353, 498), True)


def annotation(*objects) -> bytes:
    """An annotation as VOC writes it, parts and wrong size included, of (name, (xmin, ymin, xmax, ymax), difficult)."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = "another.jpg"
    size = ElementTree.SubElement(root, "size")
    for side in ("width", "height", "depth"):
        ElementTree.SubElement(size, side).text = "0"
    for name, corners, difficult in objects:
        found = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(found, "name").text = name
        ElementTree.SubElement(found, "difficult").text = str(int(difficult))
        part = ElementTree.SubElement(found, "part")
        ElementTree.SubElement(part, "name").text = "head"
        for place in (part, found):
            box = ElementTree.SubElement(place, "bndbox")
            for edge, value in sorted(zip(("xmin", "ymin", "xmax", "ymax"), corners)):  # VOC 2011 has another order
                ElementTree.SubElement(box, edge).text = str(value if place is found else 1)
    return ElementTree.tostring(root, "utf-8")


def add(images: Path, annotations: Path, name: str, content: bytes | None, suffix: str = ".jpg") -> None:
    """An image of 400 x 500 pixels, and its annotation if there is one."""
    path = images / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (400, 500)).save(path, "JPEG")
    if content is not None:
        file = annotations / f"{name}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


@pytest.fixture(params=[("images", "annotations", "."), ("JPEGImages", "Annotations", "ImageSets/Main")])
def voc(request, tmp_path):
    """Four images and lists, in a folder's layout and in VOC's: {"path", "images", "annotations", "lists"}."""
    images, annotations, lists = (tmp_path / name for name in request.param)
    lists.mkdir(parents=True, exist_ok=True)
    for name, content in {
        "a": annotation(CAT),
        "b.c": annotation(DOG, CAT),
        "été": annotation(("chat à l'été", (1, 1, 400, 500), False), CAT),
        "d": annotation(DOG),
        "unlisted": None,
    }.items():
        add(images, annotations, name, content)
    (lists / "train.txt").write_bytes("a\r\nb.c\r\n\r\nété".encode("utf-8-sig"))
    (lists / "val.txt").write_text("d\n")
    return {"path": tmp_path, "images": images, "annotations": annotations, "lists": lists}


def error_of(path: Path, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        open_source(f"voc:{path}", split)
    return str(caught.value)


def test_images_objects_and_lists(voc):
    source = open_source(f"voc:{voc['path']}", "train")
    assert source.classes == ("cat", "chat à l'été", "dog")
    assert source.describe() == f"voc:{voc['path']}, split train: 3 images of 3 classes"
    found = {Path(source.name_of(image)).stem: image for image in range(3)}
    assert set(found) == {"a", "b.c", "été"}
    of, expected = source.objects, {"a": [(0, False)], "b.c": [(2, True), (0, False)], "été": [(1, False), (0, False)]}
    assert (np.diff(of.image) >= 0).all()
    for name, image in found.items():
        rows = of.image == image
        assert list(zip(of.label[rows].tolist(), of.difficult[rows].tolist(), strict=True)) == expected[name]
    # The first and last pixel of a box are counted from 1; here they are edges.
    assert of.corners[of.label == 0].tolist() == [[48, 239, 195, 371]] * 3
    assert of.corners[of.label == 1].tolist() == [[0, 0, 400, 500]]
    assert [dtype.dtype for dtype in of] == [np.int64, np.int32, np.float32, bool]
    # The first object that is not difficult is an image's class, or the first.
    labels = {name: source[image]["label"] for name, image in found.items()}
    assert labels == {"a": 0, "b.c": 0, "été": 1} and source.files.labels[found["b.c"]] == 0
    assert open_source(f"voc:{voc['path']}", "validation")[0]["label"] == 2


def test_roles_and_slices(voc):
    names = lambda split: sorted(Path(path).stem for path in open_source(f"voc:{voc['path']}", split).files.paths)
    assert names("train+validation") == ["a", "b.c", "d", "été"]
    assert sorted(names("train[:1]") + names("train[1:]")) == ["a", "b.c", "été"]
    assert open_source(f"voc:{voc['path']}", "test").note == "it has no test list, val.txt stands in"
    for file in voc["lists"].glob("*.txt"):
        file.unlink()
    for number in range(40):
        add(voc["images"], voc["annotations"], f"{number}", annotation(CAT))
    roles = {role: names(role) for role in ("train", "validation", "test")}
    assert sorted(sum(roles.values(), [])) == sorted([*map(str, range(40)), "a", "b.c", "d", "été"])
    assert len(roles["train"]) > 25
    source = open_source(f"voc:{voc['path']}", "train")
    assert source.note.startswith("train by a hash of the name, 80/10/10")
    add(voc["images"], voc["annotations"], "new", annotation(CAT))
    assert set(names("train")) - {"new"} == set(roles["train"])


def test_what_has_no_object_or_no_image_is_counted(voc):
    (voc["lists"] / "train.txt").write_text("a\nunlisted\nempty\n")
    add(voc["images"], voc["annotations"], "empty", annotation())
    (voc["annotations"] / "lonely.xml").write_bytes(annotation(CAT))
    source = open_source(f"voc:{voc['path']}", "train")
    assert [Path(path).stem for path in source.files.paths] == ["a"]
    assert source.note == (
        "annotations without an image: 1, e.g. lonely; images of train left out, which have no object: 2"
    )
    (voc["lists"] / "train.txt").write_text("unlisted\nempty\n")
    assert "none of the 2 images of train has an annotation with an object" in error_of(voc["path"])


def test_a_name_of_which_there_is_no_image(voc):
    (voc["lists"] / "val.txt").write_text("d\nnowhere\n")
    assert "val.txt has 'nowhere', of which there is no image" in error_of(voc["path"], "validation")
    add(voc["images"], voc["annotations"], "d", None, ".JPEG")
    assert "d.jpg have the same name" in error_of(voc["path"])


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "a.xml is no XML that can be read: no element found"),
        (annotation(CAT)[:-9], "a.xml is no XML that can be read"),
        (b"<annotation>\xff</annotation>", "a.xml is no XML that can be read"),
        (b"<?xml version='1.0' encoding='nonsense'?><annotation/>", "a.xml is no XML that can be read"),
        (annotation(CAT).replace(b"<name>cat</name>", b""), "a.xml, object 1 has no <name>"),
        (
            annotation(CAT, CAT).replace(b"<ymax>371</ymax>", b""),
            "a.xml, object 1 (cat) has no <bndbox> of four",
        ),
        (annotation(CAT).replace(b"371", b"high"), "a.xml, object 1 (cat) has no <bndbox> of four"),
    ],
)
def test_a_damaged_annotation_is_named(voc, content, reason):
    (voc["annotations"] / "a.xml").write_bytes(content)
    assert reason in error_of(voc["path"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_no_entity_is_expanded(voc, encoding):
    text = f"""<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE annotation [<!ENTITY a "cat">]>
        <annotation><object><name>&a;</name></object></annotation>"""
    (voc["annotations"] / "a.xml").write_bytes(text.encode(encoding))
    assert "a.xml declares a document type; an annotation needs none" in error_of(voc["path"])


def test_a_fingerprint_is_of_the_boxes_too(voc):
    fingerprint = lambda: open_source(f"voc:{voc['path']}", "train").fingerprint()
    before = fingerprint()
    assert fingerprint() == before
    (voc["annotations"] / "a.xml").write_bytes(annotation((CAT[0], (49, 240, 195, 372), False)))
    assert fingerprint() != before


@pytest.fixture(params=["beside", "Annotations/CLS-LOC", "Data/CLS-LOC"])
def ilsvrc(request, tmp_path):
    """Two classes of two images to train on, of which one has no boxes, and two flat ones to validate."""
    home = tmp_path / "Data/CLS-LOC" if request.param.startswith("Data") else tmp_path
    annotations = home if request.param == "beside" else tmp_path / "Annotations/CLS-LOC"
    for wnid in ("n01", "n02"):
        content = annotation((wnid, CAT[1], False), (wnid, (1, 1, 20, 30), False))
        add(home / "train", annotations / "train", f"{wnid}/{wnid}_1", content, ".JPEG")
        add(home / "train", annotations / "train", f"{wnid}/{wnid}_2", None if wnid == "n01" else content, ".JPEG")
        add(home / "val", annotations / "val", f"val_{wnid}", content, ".JPEG")
    return tmp_path, home, annotations


def test_the_layout_of_ilsvrc(ilsvrc):
    path, home, annotations = ilsvrc
    train, validation = (open_source(f"voc:{path}", split) for split in ("train", "validation"))
    assert train.classes == validation.classes == ("n01", "n02")
    for source, count in ((train, 4), (validation, 2)):
        assert len(source) == count and not source.note
        for image, label in enumerate(source.files.labels):
            assert f"n0{label + 1}" in Path(source.name_of(image)).name
    of, bare = train.objects, next(image for image in range(4) if train.name_of(image).endswith("n01_2.JPEG"))
    assert np.bincount(of.image, minlength=4).tolist() == [0 if image == bare else 2 for image in range(4)]
    np.testing.assert_array_equal(of.label, train.files.labels[of.image])
    # Validation images that were sorted into class folders keep their annotations.
    for name in ("n01", "n02"):
        (home / "val" / name).mkdir()
        (home / "val" / f"val_{name}.JPEG").rename(home / "val" / name / f"val_{name}.JPEG")
    again = open_source(f"voc:{path}", "validation")
    np.testing.assert_array_equal(again.objects.corners, validation.objects.corners)
    (annotations / "val/val_n01.xml").write_bytes(annotation(CAT))
    assert "val_n01.xml: 'cat' is no class: there is no such folder in train" in error_of(path, "validation")


def test_folders_that_are_none_of_the_layouts(tmp_path):
    assert f"none of VOC's layouts: no JPEGImages/, images/ or train/ in {tmp_path}" in error_of(tmp_path)
    assert "there is no such folder" in error_of(tmp_path / "nowhere")


@pytest.fixture
def persons(tmp_path):
    """VOC-2012's layout: two images with three persons, of whom two are listed; one of them has two actions."""
    for name, *actions in (("1", "running", "jumping"), ("2", "running", "phoning running")):
        boxes = [(number, 1, 50, 60) for number in range(1, len(actions) + 1)]
        content = annotation(("dog", CAT[1], False), *(("person", box, False) for box in boxes))
        root = ElementTree.fromstring(content)
        for person, acts in zip(root.findall("object")[1:], actions, strict=True):
            element = ElementTree.SubElement(person, "actions")
            for action in ("jumping", "phoning", "running"):
                ElementTree.SubElement(element, action).text = str(int(action in acts.split()))
        add(tmp_path / "JPEGImages", tmp_path / "Annotations", name, ElementTree.tostring(root))
    add(tmp_path / "JPEGImages", tmp_path / "Annotations", "other", annotation(CAT))
    lists = tmp_path / "ImageSets/Action"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("1 2\n2  2\n2 3\n")
    return tmp_path


def test_actions_of_persons(persons):
    source = open_source(f"voc-action:{persons}", "train")
    assert source.describe() == f"voc-action:{persons}, split train: 2 images of 2 classes"
    assert source.classes == ("phoning", "running")
    of, found = source.objects, {Path(source.name_of(image)).stem: image for image in range(2)}
    expected = {"1": ([1], [0]), "2": ([1, 0, 1], [0, 1, 1])}  # actions, and the left edges that tell the persons apart
    for name, image in found.items():
        rows = of.image == image
        assert (of.label[rows].tolist(), of.corners[rows, 0].tolist()) == expected[name]
    assert source.files.labels.tolist() == [1, 1]


def test_lists_of_persons_that_are_none(persons):
    lists = persons / "ImageSets/Action"

    def error():
        with pytest.raises(DataError) as caught:
            open_source(f"voc-action:{persons}", "train")
        return str(caught.value)

    (lists / "train.txt").write_text("1 4\n")
    assert "1.xml has no object 4, which is a person in the lists" in error()
    (lists / "train.txt").write_text("1\n")
    assert "train.txt: '1' is not a name and the number of a person" in error()
    (lists / "train.txt").unlink()
    assert f"no lists of persons in {lists}" in error()


def test_mutated_annotations_are_read_or_refused(tmp_path):
    rng, file = np.random.default_rng(0), tmp_path / "a.xml"
    sound, outcomes = annotation(CAT, DOG), []
    for _ in range(150):
        content = np.frombuffer(sound, np.uint8).copy()
        content[rng.integers(0, len(content), rng.integers(1, 4))] = rng.choice(
            np.frombuffer(b"<>/&\0 9\xffa-", np.uint8)
        )
        file.write_bytes(content.tobytes()[: rng.integers(len(content) // 2, 3 * len(content))])
        try:
            assert all(isinstance(found.name, str) and len(found.corners) == 4 for found in read(file))
            outcomes.append("read")
        except DataError as error:
            assert str(error).startswith(str(file)) and "\n" not in str(error)
            outcomes.append("refused")
    assert set(outcomes) == {"read", "refused"}
    file.write_bytes(b"<a>" * 100_000 + b"</a>" * 100_000)
    assert read(file) == ()
