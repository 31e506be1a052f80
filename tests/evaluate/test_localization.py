"""The criterion of localization, on cases worked by hand and by counting pixels (App. A)."""

import numpy as np
import pytest
from PIL import Image

from vgg_jax.data.boxes import iou
from vgg_jax.data.files import FileSource
from vgg_jax.data.source import Objects
from vgg_jax.evaluate.classes import is_ilsvrc_validation
from vgg_jax.evaluate.localization import localization_error, overlaps, questions, save_curves
from vgg_jax.weights.classes import imagenet

OBJECTS = Objects(
    np.array([0, 0, 0, 1, 2, 2]),
    np.array([3, 3, 1, 3, 2, 2], np.int32),
    np.array([[0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 4, 4], [5, 5, 9, 9], [0, 0, 8, 8], [8, 8, 9, 9]], np.float32),
    np.array([False, False, False, True, False, True]),
)


def test_iou_counts_pixels(rng):
    low, sides = rng.integers(0, 20, (100, 2, 2)), rng.integers(1, 20, (100, 2, 2))
    for (a, b), (m, n) in zip(low, sides, strict=True):
        masks = np.zeros((2, 40, 40), bool)
        for mask, (x, y), (width, height) in zip(masks, (a, b), (m, n), strict=True):
            mask[y : y + height, x : x + width] = True
        boxes = np.concatenate([[a, b], [a + m, b + n]], 1)
        found = iou(boxes[0].astype(np.float64), boxes[1].astype(np.float64))
        assert found == pytest.approx((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


def test_every_class_of_an_image_counts_once_and_difficult_objects_do_not():
    asked = questions(OBJECTS)
    assert [(q.image, q.label) for q in asked] == [(0, 1), (0, 3), (2, 2)]
    assert asked[1].corners.tolist() == [[0, 0, 10, 10], [20, 0, 30, 10]] and len(asked[2].corners) == 1


def test_a_box_is_right_with_any_object_of_its_class():
    asked = questions(OBJECTS)[1]
    boxes = np.array([[0, 0, 10, 20], [20, 0, 30, 8], [20, 0, 30, 10]], np.float64)
    np.testing.assert_allclose(overlaps(asked, boxes, np.array([3, 3, 1])), [0.5, 0.8, 0])
    np.testing.assert_allclose(overlaps(asked, boxes), [0.5, 0.8, 1])


def test_errors_by_hand():
    found = [
        np.array([0.9, 0, 0, 0, 0]),  # right at once
        np.array([0, 0, 0, 0, 0.51]),  # the fifth
        np.array([0.5, 0.4]),  # half is not above half
        np.array([]),  # nothing was said
    ]
    assert localization_error(found) == 50 and localization_error(found, 1) == 75


def test_curves_are_a_picture(tmp_path):
    save_curves(tmp_path / "localization.png", {"protocol 1": np.array([0.2, 0.7])})
    with Image.open(tmp_path / "localization.png") as picture:
        assert min(picture.size) > 200


@pytest.mark.parametrize(
    "name, split, count, classes, expected",
    [
        ("voc:ILSVRC", "validation", 50_000, [label.split(" ")[0] for label in imagenet()], True),  # folders are ids
        ("tfds:imagenet2012", "validation", 50_000, imagenet(), True),
        ("tfds:imagenet2012_corrupted/fog_1", "validation", 50_000, imagenet(), False),
        ("voc:ILSVRC", "validation[:50%]", 25_000, imagenet(), False),
        ("voc:ILSVRC", "test", 50_000, imagenet(), False),
        ("voc:other", "validation", 50_000, [f"class {number}" for number in range(1000)], False),
    ],
)
def test_the_papers_images_are_known_by_their_classes_and_number(name, split, count, classes, expected):
    source = FileSource([""] * count, name=name, split=split, classes=tuple(classes))
    assert is_ilsvrc_validation(source) is expected
