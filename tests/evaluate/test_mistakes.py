import csv

import numpy as np

from vgg_jax.evaluate import mistakes
from vgg_jax.evaluate.mistakes import save_mistakes


def test_the_most_confident_mistakes_come_first(tmp_path, monkeypatch):
    posteriors = np.float32([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.1, 0.9]])
    labels, names = np.array([0, 0, 1, 1, 0], np.int32), [f"{number}.jpg" for number in range(5)]  # right: 1 and 2
    expected = [["0.jpg", "cat", "dog", "0.9000"], ["4.jpg", "cat", "dog", "0.9000"], ["3.jpg", "dog", "cat", "0.6000"]]
    for most in (9, 2):
        monkeypatch.setattr(mistakes, "MOST", most)
        save_mistakes(tmp_path, posteriors, labels, ("cat", "dog"), names, lambda image: np.zeros((8, 8, 3), np.uint8))
        with (tmp_path / "mistakes.csv").open() as file:
            assert list(csv.reader(file))[1:] == expected[:most]


def test_a_picture_of_mistakes_goes_with_the_last_mistake(tmp_path):
    labels, read = np.array([0, 1]), lambda image: np.zeros((8, 8, 3), np.uint8)
    for posteriors, there in ((np.array([[0.9, 0.1], [0.8, 0.2]]), True), (np.eye(2), False)):
        save_mistakes(tmp_path, posteriors, labels, ("cat", "dog"), ("1.jpg", "2.jpg"), read)
        assert (tmp_path / "mistakes.png").exists() == there
