"""Dense boxes: each place's window, the mirror image, and the way back to the image's own pixels (App. A)."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

import vgg_jax
from tests.photographs import image_of
from vgg_jax.data.files import FileSource
from vgg_jax.data.pipeline import scaled_images
from vgg_jax.data.rescaling import rescale
from vgg_jax.inference.arrays import scaled_arrays
from vgg_jax.inference.central_boxes import CentralBoxes
from vgg_jax.inference.dense_boxes import Classifier, DenseBoxes
from vgg_jax.inference.score_map import class_score_map
from vgg_jax.model.box_outputs import boxes_of, outputs_of

SIZES = [(50, 77), (120, 64), (64, 64), (33, 140)]
SCALES = (64, 75)


def constant_net(tiny_net, *boxes, crop=32):
    """One whose every place predicts these boxes, relative to its window."""
    net = tiny_net("A", num_classes=4 * len(boxes), crop=crop)
    net.fc8.kernel[...] = jnp.zeros_like(net.fc8.kernel[...])
    net.fc8.bias[...] = jnp.asarray(outputs_of(np.array(boxes, np.float32)))
    return net


def test_every_place_predicts_in_its_own_window(tiny_net):
    net, images = constant_net(tiny_net, (0.25, 0.5, 0.5, 1.0), crop=64), [image_of(size, 0) for size in SIZES]
    dense = DenseBoxes([net], SCALES, True)
    found = dense(lambda: scaled_arrays(images, SCALES), [np.array([-1])] * len(images), {})
    assert sorted(found) == list(range(len(images)))
    for index, placed in found.items():
        height, width = placed.size
        expected = []
        for scale in SCALES:
            rows, columns = rescale(images[index], scale).shape[:2]
            expected += [
                # the left half of the window, from (32 i, 32 j) on; of the mirror image's the right half, mirrored
                np.array([left, 32 * i, left + 32, 32 * i + 64]) * ([width / columns, height / rows] * 2)
                for mirrored in (False, True)
                for i in range(1 + (rows - 64) // 32)
                for j in range(1 + (columns - 64) // 32)
                for left in [columns - 32 * j - 32 if mirrored else 32 * j]
            ]
        assert placed.size == SIZES[index] and placed.rates is None
        np.testing.assert_allclose(placed.corners[:, 0], expected, atol=1e-3)


def test_boxes_of_a_padded_batch_are_those_of_each_image_alone(tiny_net, one_device, eight_devices):
    net, images = tiny_net("A", num_classes=12), [image_of(size, number) for number, size in enumerate(SIZES)]
    for mesh, batch_size in ((one_device, 16), (eight_devices, None)):
        classifier = Classifier(net, np.arange(12)) if mesh is one_device else None
        dense = DenseBoxes([net], (64,), True, classifier=classifier, batch_size=batch_size, mesh=mesh)
        found = dense(lambda: scaled_arrays(images, (64,)), [np.array([2, 0])] * len(images), {})
        for index, image in enumerate(images):
            scaled = rescale(image, 64)
            maps = [np.asarray(net(view[None]))[0] for view in (scaled, scaled[:, ::-1])]
            boxes = boxes_of(np.stack(maps))[:, :, :, [2, 0]]
            if classifier:
                seen = softmax(np.stack(maps), axis=-1)[..., [2, 0]].reshape(-1, 2)
                np.testing.assert_allclose(found[index].rates, seen, rtol=1e-4)
            i, j = np.indices(boxes.shape[1:3])[..., None]
            x, y, w, h = np.moveaxis(boxes, -1, 0)
            edges = [32 * (j + x - w / 2), 32 * (i + y - h / 2), 32 * (j + x + w / 2), 32 * (i + y + h / 2)]
            left, top, right, bottom = edges
            left[1], right[1] = scaled.shape[1] - right[1], scaled.shape[1] - left[1]
            back = image.shape[1] / scaled.shape[1], image.shape[0] / scaled.shape[0]
            expected = np.stack([left * back[0], top * back[1], right * back[0], bottom * back[1]], -1)
            np.testing.assert_allclose(found[index].corners, expected.reshape(-1, 2, 4), rtol=1e-4, atol=1e-3)


def test_a_place_counts_what_a_classifier_sees_there(tiny_net):
    net, images = constant_net(tiny_net, (0.25, 0.5, 0.5, 1.0)), [image_of(size, 0) for size in SIZES[:2]]
    classifier, posteriors = tiny_net("B", num_classes=3), np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    alone = {"scales": (75,), "flip": False, "threshold": 0.0}  # no two of the boxes are merged
    found = vgg_jax.localize(net, images, posteriors, classifier=classifier, **alone)
    for image, boxes in zip(images, found, strict=True):
        scores = class_score_map(classifier, image, 75)
        ratio = np.tile(np.divide(image.shape[:2], rescale(image, 75).shape[:2])[::-1], 2)
        for number, corners, score in zip(boxes.classes, boxes.corners, boxes.scores, strict=True):
            i, j = np.unravel_index(scores[:, :, number].argmax(), scores.shape[:2])
            expected = np.array([32 * j, 32 * i, 32 * j + 16, 32 * i + 32]) * ratio
            np.testing.assert_allclose(corners, expected, atol=1e-2)
            assert score == pytest.approx(scores[i, j, number], rel=1e-4)
    # One that sees the same everywhere changes no box.
    classifier.fc8.kernel[...] = jnp.zeros_like(classifier.fc8.kernel[...])
    classifier.fc8.bias[...] = jnp.log(jnp.array([0.5, 0.2, 0.3]))
    net, options = constant_net(tiny_net, (0.5, 0.5, 2.0, 2.0)), alone | {"threshold": 0.9}
    rated = vgg_jax.localize(net, images, posteriors, classifier=classifier, **options)
    plain = vgg_jax.localize(net, images, posteriors, **options)
    for ours, theirs, row in zip(rated, plain, posteriors, strict=True):
        np.testing.assert_allclose(ours.corners, theirs.corners, atol=1e-2)
        counts = theirs.scores / row[theirs.classes]
        np.testing.assert_allclose(ours.scores, counts * np.array([0.5, 0.2, 0.3])[theirs.classes], rtol=1e-4)
        assert counts.max() > 1


def test_files_and_arrays_have_the_same_boxes(tiny_net, tmp_path):
    net, image = tiny_net("A", num_classes=4), image_of((90, 130), 0)
    dense, classes = DenseBoxes([net], (64,), True), [np.array([-1])] * 2
    for name in ("a.png", "b.jpg"):  # Pillow's road, and TensorFlow's
        Image.fromarray(image).save(tmp_path / name, quality=100, subsampling=0)
    files = FileSource([tmp_path / "a.png", tmp_path / "b.jpg"])
    found = dense(lambda: scaled_images(files, range(2), (64,)), classes, {})
    expected = dense(lambda: scaled_arrays([image], (64,)), classes[:1], {})[0].corners
    np.testing.assert_allclose(found[0].corners, expected, atol=1e-3)
    np.testing.assert_allclose(found[1].corners, expected, atol=2)


def test_a_central_crop_and_its_mirror_image_have_the_same_boxes(tiny_net, tmp_path):
    net, image = tiny_net("A", num_classes=8), image_of((50, 40), 0)
    for name, pixels in (("a.png", image), ("b.png", image[:, ::-1])):
        Image.fromarray(pixels).save(tmp_path / name)
    source, found = FileSource([tmp_path / "a.png", tmp_path / "b.png"]), {}
    for flip in (False, True):
        found[flip] = dict(CentralBoxes(net, 40, flip)(source, range(2), {}))
    back = lambda corners: np.stack([40 - corners[:, 2], corners[:, 1], 40 - corners[:, 0], corners[:, 3]], 1)
    np.testing.assert_allclose(found[True][0], back(found[True][1]), atol=1e-3)
    np.testing.assert_allclose(found[True][0], (found[False][0] + back(found[False][1])) / 2, atol=1e-3)
    assert np.abs(found[False][0] - back(found[False][1])).max() > 0.1


def test_the_boxes_of_the_most_probable_classes(tiny_net):
    """In an image with one place, whose window is the image: the classes' own boxes, in its pixels."""
    of_class = [(0.5, 0.5, 0.5, 0.5), (0.25, 0.5, 0.5, 1.0), (0.5, 0.25, 1.5, 0.5)]
    net, image = constant_net(tiny_net, *of_class), np.zeros((64, 64, 3), np.uint8)
    (found,) = vgg_jax.localize(net, [image], np.array([[0.3, 0.1, 0.6]]), scales=(32,), flip=False, top=2)
    assert found.classes.tolist() == [2, 0] and found.scores.tolist() == pytest.approx([0.6, 0.3])
    np.testing.assert_allclose(found.corners, [[0, 0, 64, 32], [16, 16, 48, 48]], atol=1e-3)  # cut at the borders
    (found,) = vgg_jax.localize(net, [image], np.eye(3)[[1]], scales=(32,), flip=False)
    assert found.classes.tolist() == [1] and found.corners.tolist() == [pytest.approx([0, 0, 32, 64], abs=1e-3)]
    # With the mirror image, two halves do not overlap: each is a box of its own. The first of equal ones is taken.
    (found,) = vgg_jax.localize(net, [image], np.eye(3)[[1]], scales=(32,))
    assert found.scores.tolist() == [1]
    (found,) = vgg_jax.localize(net, [image], np.eye(3)[[0]], scales=(32,))
    assert found.scores.tolist() == [2]


def test_one_box_for_all_classes_is_merged_once(tiny_net):
    net, image = constant_net(tiny_net, (0.5, 0.5, 0.5, 0.5)), np.zeros((64, 64, 3), np.uint8)
    other = constant_net(tiny_net, (0.5, 0.5, 0.75, 0.5))
    (found,) = vgg_jax.localize([net, other], [image], np.array([[0.25, 0.0, 0.75]]), scales=(32, 33))
    assert found.classes.tolist() == [2, 0]  # a class that is impossible has no box
    # 2 nets x 2 scales x mirror image; 16 to 48 and 8 to 56 across, averaged pair by pair.
    assert found.scores.tolist() == pytest.approx([8 * 0.75, 8 * 0.25])
    np.testing.assert_allclose(found.corners, [[12, 16, 52, 48]] * 2, atol=1.0)
    (found,) = vgg_jax.localize(net, [image], scales=(32,))
    assert found.classes.tolist() == [-1] and found.scores.tolist() == [2]


@pytest.mark.parametrize("boxes", [1, 2])
def test_an_image_of_no_probable_class_has_no_box(tiny_net, boxes):
    net, images = constant_net(tiny_net, *[(0.5, 0.5, 0.5, 0.5)] * boxes), [np.zeros((32, 40, 3), np.uint8)] * 2
    for found in vgg_jax.localize(net, images, np.array([[0.0, 0], [np.nan, np.nan]]), scales=(32,)):
        assert (found.corners.shape, found.classes.shape, found.scores.shape) == ((0, 4), (0,), (0,))


def test_mistakes_are_named(tiny_net):
    images = [np.zeros((64, 64, 3), np.uint8)]
    with pytest.raises(vgg_jax.ConfigError, match="a net of 10 outputs predicts no boxes"):
        vgg_jax.localize(tiny_net("A"), images)
    net = tiny_net("A", num_classes=12)
    with pytest.raises(vgg_jax.ConfigError, match="posteriors are missing: the net has a box for each of 3 classes"):
        vgg_jax.localize(net, images)
    with pytest.raises(vgg_jax.ConfigError, match=r"posteriors of shape \(1, 4\): expected \(1, 3\)"):
        vgg_jax.localize(net, images, np.ones((1, 4)))
    with pytest.raises(vgg_jax.ConfigError, match="top=0: the number of most probable classes"):
        vgg_jax.localize(net, images, np.ones((1, 3)), top=0)
    with pytest.raises(vgg_jax.ConfigError, match="Q = 31 is below the net's crop"):
        vgg_jax.localize(net, images, np.ones((1, 3)), scales=(31,))
    options = {"scales": (64,), "classifier": tiny_net("A", num_classes=3, crop=64)}
    with pytest.raises(vgg_jax.ConfigError, match="classifier sees windows of 64 pixels, the network that"):
        vgg_jax.localize(net, images, np.ones((1, 3)), **options)
    with pytest.raises(vgg_jax.ConfigError, match="posteriors of the 3 classes of the classifier are missing"):
        vgg_jax.localize(tiny_net("A", num_classes=4), images, **options)
    with pytest.raises(vgg_jax.ConfigError, match="nets of 3, 1 boxes cannot be merged"):
        vgg_jax.localize([net, tiny_net("A", num_classes=4)], images, np.ones((1, 3)), scales=(32,))
