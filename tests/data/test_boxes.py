import jax.numpy as jnp
import numpy as np
import pytest

from vgg_jax.data import boxes


@pytest.fixture
def frames(rng):
    """Corners of boxes, and windows, of an image of 300 x 500 pixels."""
    low, high = np.sort(rng.uniform(0, 1, (2, 200, 2)) * (500, 300), 0)
    windows = np.concatenate([rng.uniform(0, 100, (200, 2)), rng.uniform(20, 200, (200, 2))], 1)
    return np.concatenate([low, high], 1), windows


def test_into_a_window_and_back(frames):
    corners, windows = frames
    np.testing.assert_allclose(
        boxes.from_window(boxes.in_window(corners, windows), windows), corners, rtol=1e-9, atol=1e-9
    )


def test_a_box_moves_with_the_mirror_image(frames):
    corners, windows = frames
    left, top, right, bottom = corners.T
    # The mirror image of a window that reaches from x to x + width swaps the edges about its middle.
    middle = windows[:, 1] + windows[:, 3] / 2
    flipped = np.stack([2 * middle - right, top, 2 * middle - left, bottom], 1)
    expected = boxes.in_window(flipped, windows)
    np.testing.assert_allclose(boxes.mirrored(boxes.in_window(corners, windows)), expected, rtol=1e-9, atol=1e-9)


def test_the_visible_part_is_counted_in_pixels(rng):
    for _ in range(50):
        (left, right), (top, bottom) = np.sort(rng.choice(60, 2, False)), np.sort(rng.choice(40, 2, False))
        row, column = rng.integers(0, 20, 2)
        height, width = rng.integers(1, 30, 2)
        box, window = np.zeros((60, 60), bool), np.zeros((60, 60), bool)
        box[top:bottom, left:right] = True
        window[row : row + height, column : column + width] = True
        found = boxes.visible(np.array([left, top, right, bottom]), np.array([row, column, height, width]))
        np.testing.assert_allclose(found, (box & window).sum() / box.sum(), rtol=1e-12)


def test_intersection_over_union_is_counted_in_pixels(rng):
    corners = np.concatenate([rng.integers(0, 20, (30, 2)), rng.integers(20, 40, (30, 2))], 1)
    corners[-1, 2:] = corners[-1, :2] - (3, 5)  # swapped
    filled = np.zeros((30, 40, 40), bool)
    for image, (left, top, right, bottom) in zip(filled, corners):
        image[top:bottom, left:right] = True
    expected = [[(a & b).sum() / max((a | b).sum(), 1) for b in filled] for a in filled]
    assert len(np.unique(expected)) > 100
    for module in (np, jnp):
        array = module.asarray(corners, np.float32)
        found = boxes.iou(array[:, None], array)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
