import numpy as np

from vgg_jax.model.box_outputs import boxes_of, outputs_of


def test_boxes_to_outputs_and_back(rng):
    boxes = rng.uniform(-0.5, 1.5, (2, 3, 5, 4))  # maps of 2 x 3 places, five classes
    outputs = outputs_of(boxes)
    assert outputs.shape == (2, 3, 20)
    np.testing.assert_allclose(boxes_of(outputs), boxes, rtol=1e-6)
    np.testing.assert_allclose(boxes_of(outputs[..., 8:12])[..., 0, :], boxes[..., 2, :], rtol=1e-6)


def test_outputs_of_zero_are_the_box_in_the_middle():
    np.testing.assert_allclose(boxes_of(np.zeros(4)), [[0.5, 0.5, 0.7, 0.7]], rtol=1e-6)
