import numpy as np

from vgg_jax.evaluate.mistakes import save_mistakes


def test_a_picture_of_mistakes_goes_with_the_last_mistake(tmp_path):
    labels, read = np.array([0, 1]), lambda image: np.zeros((8, 8, 3), np.uint8)
    for posteriors, there in ((np.array([[0.9, 0.1], [0.8, 0.2]]), True), (np.eye(2), False)):
        save_mistakes(tmp_path, posteriors, labels, ("cat", "dog"), ("1.jpg", "2.jpg"), read)
        assert (tmp_path / "mistakes.png").exists() == there
