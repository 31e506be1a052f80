import json

import pytest
from PIL import Image

from tests.data.conftest import encode, with_orientation
from vgg_jax.data.decode import decode, size
from vgg_jax.data.files import FileSource
from vgg_jax.data.objects import EachBox, EachObject, checked, presence
from vgg_jax.data.open import open_source
from vgg_jax.errors import DataError


@pytest.fixture
def boxed(tmp_path):
    """A function from {image: [(class, box, difficult), ...]} to a source of images of 40 x 30 pixels."""

    def make(images: dict[str, list[tuple]]):
        lines = []
        for name, objects in images.items():
            Image.new("L", (40, 30)).save(tmp_path / name)
            objects = [dict(zip(("class", "box", "difficult"), found)) for found in objects]
            lines.append(json.dumps({"image": name, "objects": objects, "split": "train"}))
        (tmp_path / "boxes.jsonl").write_text("\n".join(lines))
        return open_source(f"boxes:{tmp_path / 'boxes.jsonl'}", "train")

    return make


def test_presence_of_classes(boxed):
    box = [1, 2, 3, 4]
    source = boxed(
        {
            "1.png": [("a", box, False), ("a", box, True), ("b", box, True)],
            "2.png": [("c", box, True), ("c", box, True), ("c", box, False)],
            "3.png": [("b", box, True), ("c", box, False), ("a", box, False)],
        }
    )
    expected = {"1.png": [1, -1, 0], "2.png": [0, 0, 1], "3.png": [1, -1, 1]}  # a, b, c
    found = {source.name_of(image)[-5:]: row for image, row in enumerate(presence(source).tolist())}
    assert found == expected


def test_a_pixel_beyond_is_cut(boxed):
    boxes = [[0, 0, 40, 30], [-1, -0.5, 41, 31], [5, 6, 7.5, 8.25]]
    source = boxed({"1.png": [("a", box) for box in boxes]})
    found = checked(source)
    assert found.objects.corners.tolist() == [[0, 0, 40, 30], [0, 0, 40, 30], [5, 6, 7.5, 8.25]]
    assert found.note == source.note == "" and found[0] == source[0]
    assert source.objects.corners.tolist() == boxes  # as annotated


@pytest.mark.parametrize(
    "box, reason",
    [
        ([10, 5, 3, 9], "its corners are swapped: left 10, top 5, right 3, bottom 9"),
        ([3, 9, 10, 5], "its corners are swapped"),
        ([3, 5, 3, 9], "it has no area: left 3, top 5, right 3, bottom 9"),
        ([3, 5, 9, 5], "it has no area"),
        ([40, 5, 41, 9], "it has no area"),
        ([3, 5, 42, 9], "it reaches beyond the image, of 40 x 30 pixels: left 3, top 5, right 42, bottom 9"),
        ([3, 5, 9, 31.5], "it reaches beyond the image"),
        ([-2, 5, 9, 9], "it reaches beyond the image"),
        ([3, -1.5, 9, 9], "it reaches beyond the image"),
        ([3, float("nan"), 9, 9], "are no numbers"),
        ([3, 4, float("inf"), 9], "are no numbers"),
    ],
)
def test_a_box_that_is_none_is_named_or_left_out(boxed, box, reason, caplog):
    sound = [1, 2, 3, 4]
    source = boxed({"1.png": [("a", sound)], "2.png": [("a", sound), ("b", box), ("a", sound)]})
    with pytest.raises(DataError) as caught:
        checked(source)
    message, way_out = str(caught.value).split("\n")
    assert "2.png, object 2 (b): " in message and reason in message and "data.on_error=skip" in way_out
    found = checked(source, on_error="skip")
    assert found.objects.corners.tolist() == [sound] * 3 and found.objects.label.tolist() == [0] * 3
    assert found.note == "objects left out because of their boxes: 1" and message in caplog.text
    assert len(found) == 2 and len(EachObject(found)) == 3


def test_a_source_without_boxes_is_refused(tmp_path):
    Image.new("L", (40, 30)).save(tmp_path / "1.png")
    with pytest.raises(DataError, match="its images have no boxes"):
        checked(FileSource([tmp_path / "1.png"]))


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_objects_of_an_image_that_cannot_be_read_stay(boxed, tmp_path, on_error):
    source = boxed({name: [("a", [1, 2, 3, 4])] for name in ("1.png", "2.png", "3.png")})
    (tmp_path / "1.png").write_bytes(b"no image")
    (tmp_path / "2.png").unlink()
    found = checked(source, on_error=on_error)
    assert found.objects.image.tolist() == [0, 1, 2] and not found.note


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_size_is_that_of_the_upright_image(photograph, tmp_path, orientation):
    encoded = with_orientation(photograph, orientation)
    (tmp_path / "image").write_bytes(encoded)
    with open(tmp_path / "image", "rb") as file:
        assert size(file) == decode(encoded).shape[:2]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_a_size_takes_no_pixels(photograph, tmp_path, file_format):
    (tmp_path / "image").write_bytes(encode(photograph, file_format)[:1000])
    with open(tmp_path / "image", "rb") as file:
        assert size(file) == (334, 500)


def test_each_box_is_an_example_with_the_classes_of_its_objects(boxed, tmp_path):
    one, two = [1, 2, 11, 8], [0, 0, 40, 30]
    source = boxed({"1.png": [("a", one), ("b", two), ("c", one)], "2.png": [("b", one)]})
    Image.linear_gradient("L").resize((40, 30)).save(tmp_path / "1.png")
    whole, boxes = EachBox(source, "image"), EachBox(source, "box")
    names = {"1.png, box (1, 2, 11, 8)": [1, 0, 1], "1.png, box (0, 0, 40, 30)": [0, 1, 0]}
    names["2.png, box (1, 2, 11, 8)"] = [0, 1, 0]  # a, b, c
    for found in (whole, boxes):
        assert {found.name_of(i).split("/")[-1]: row for i, row in enumerate(presence(found).tolist())} == names
        assert [source.name_of(image).split("/")[-1] for image in found.image_of] == [
            found.name_of(i).split("/")[-1].split(",")[0] for i in range(3)
        ]
    place = next(i for i in range(3) if "1.png, box (1," in boxes.name_of(i))
    pixels = decode(source[int(boxes.image_of[place])]["image"])
    assert decode(boxes[place]["image"]).tolist() == pixels[2:8, 1:11].tolist()
    assert decode(whole[place]["image"]).tolist() == pixels.tolist()
    assert boxes.fingerprint() != whole.fingerprint() and "3 boxes" in boxes.describe()
    rest = EachBox(source, "image", rest="b")  # what is b alone is of no class, and still an example
    assert rest.classes == ("a", "c") and [rest.name_of(i) for i in range(3)] == [whole.name_of(i) for i in range(3)]
    assert presence(rest).tolist() == [[row[0], row[2]] for row in presence(whole).tolist()]
    assert sorted(rest[i]["label"] for i in range(3)) == [-1, -1, 0]
    assert rest.fingerprint() != whole.fingerprint()  # of other labels, which are kept with the features
    with pytest.raises(DataError, match="there is no class 'other'; there are a, b, c"):
        EachBox(source, "box", rest="other")


def test_a_box_of_half_a_pixel_at_the_edge_shows_the_last_pixel(boxed, tmp_path):
    source = checked(boxed({"1.png": [("a", [39.6, 29.7, 40, 30])]}))
    Image.linear_gradient("L").resize((40, 30)).save(tmp_path / "1.png")
    assert decode(EachBox(source, "box")[0]["image"]).tolist() == decode(source[0]["image"])[29:, 39:].tolist()
