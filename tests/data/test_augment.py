import jax
import numpy as np
import pytest

from vgg_jax.data.augment import augment

EIGENVALUES = np.array([0.2, 0.02, 0.004], np.float32)
EIGENVECTORS = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0].astype(np.float32)


COLORS = {"eigenvalues": EIGENVALUES, "eigenvectors": EIGENVECTORS}


def run(images, keys, *, flip, color_shift):
    return np.asarray(augment({"image": images}, keys, flip=flip, color_shift=color_shift, **COLORS)["image"])


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (400, 4, 6, 3), np.uint8)


def test_without_flip_and_shift_the_pixels_stay(images):
    np.testing.assert_array_equal(
        run(images, jax.random.split(jax.random.key(0), 400), flip=False, color_shift=0), images
    )


def test_half_of_the_images_are_mirrored_left_to_right(images):
    out = run(images, jax.random.split(jax.random.key(0), 400), flip=True, color_shift=0)
    same = (out == images).all((1, 2, 3))
    mirrored = (out == images[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(400)


def test_the_shift_is_one_color_an_image_with_the_components_covariance(images):
    out = run(images, jax.random.split(jax.random.key(0), 400), flip=False, color_shift=0.1)
    shifts = out.astype(np.float64) - images
    np.testing.assert_allclose(shifts, np.broadcast_to(shifts[:, :1, :1], shifts.shape), atol=1e-4)
    # In the components' frame the coordinates over 255 are a_i l_i with a_i ~ N(0, 0.1).
    a = shifts[:, 0, 0] @ EIGENVECTORS / 255 / EIGENVALUES
    assert np.all(np.abs(a.mean(0)) < 5 * 0.1 / np.sqrt(400))
    assert np.all(np.abs(a.std(0) / 0.1 - 1) < 5 / np.sqrt(800))
    assert np.all(np.abs(np.corrcoef(a.T) - np.eye(3)) < 5 / np.sqrt(400))


def test_an_image_is_augmented_alike_in_any_batch(images):
    keys = jax.random.split(jax.random.key(2), 400)
    whole = run(images, keys, flip=True, color_shift=0.1)
    np.testing.assert_allclose(run(images[7:9], keys[7:9], flip=True, color_shift=0.1), whole[7:9], rtol=1e-6)


def test_it_runs_jitted_on_uint8(images):
    keys = jax.random.split(jax.random.key(3), 400)
    jitted = jax.jit(lambda image, keys: augment({"image": image}, keys, flip=True, color_shift=0.1, **COLORS)["image"])
    np.testing.assert_allclose(jitted(images, keys), run(images, keys, flip=True, color_shift=0.1), atol=1e-3)


@pytest.fixture
def boxed(rng):
    """Images 16 pixels high and 32 wide, black but for two white boxes each, and the boxes."""
    images, boxes = np.zeros((50, 16, 32, 3), np.uint8), np.zeros((50, 2, 4), np.float32)
    for image, its_boxes in zip(images, boxes, strict=True):
        for box in its_boxes:
            (top, bottom), (left, right) = (np.sort(rng.choice(side + 1, 2, replace=False)) for side in (16, 32))
            image[top:bottom, left:right] = 255
            box[:] = (left + right) / 64, (top + bottom) / 32, (right - left) / 32, (bottom - top) / 16
    return {"image": images, "boxes": boxes, "label": np.arange(50)}


def test_a_box_follows_its_pixels(boxed):
    keys = jax.random.split(jax.random.key(4), 50)
    out = augment(boxed, keys, flip=True, color_shift=0, **COLORS)
    for image, boxes in zip(np.asarray(out["image"]), np.asarray(out["boxes"], np.float64), strict=True):
        drawn = np.zeros_like(image)
        for x, y, width, height in boxes:
            left, right, top, bottom = (
                32 * (x - width / 2),
                32 * (x + width / 2),
                16 * (y - height / 2),
                16 * (y + height / 2),
            )
            drawn[round(top) : round(bottom), round(left) : round(right)] = 255
        np.testing.assert_array_equal(image, drawn)
    moved = (np.asarray(out["boxes"]) != boxed["boxes"]).any((1, 2))
    assert 10 < moved.sum() < 40
    np.testing.assert_array_equal(out["label"], boxed["label"])


def test_flipping_twice_is_the_identity(boxed):
    keys = jax.random.split(jax.random.key(5), 50)
    once = augment(boxed, keys, flip=True, color_shift=0, **COLORS)
    twice = augment(once, keys, flip=True, color_shift=0, **COLORS)
    for name, array in boxed.items():
        np.testing.assert_array_equal(twice[name], array)


def test_the_color_shift_leaves_boxes_alone(boxed):
    keys = jax.random.split(jax.random.key(6), 50)
    out = augment(boxed, keys, flip=False, color_shift=0.1, **COLORS)
    np.testing.assert_array_equal(out["boxes"], boxed["boxes"])
    assert (np.asarray(out["image"]) != boxed["image"]).any((1, 2, 3)).all()
