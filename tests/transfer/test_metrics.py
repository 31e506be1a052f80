"""Average precision against scikit-learn's and the devkit's definitions; recalls against scikit-learn's."""

import logging

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from vgg_jax.errors import DataError
from vgg_jax.transfer.metrics import (
    METRICS,
    accuracy,
    average_precision,
    average_precisions,
    mean_average_precision,
    mean_class_recall,
)


def ranking(rng, n=200, distinct=True):
    positive = rng.random(n) < 0.2
    scores = positive + rng.normal(size=n)
    return (scores if distinct else np.round(scores, 1)), positive


def devkit(scores, positive, points):
    """The text of VOC2007: at each of 11 recalls the best precision at that recall or beyond; literally, one by one.

    Without points the area under the curve of the same precisions, as since 2010.
    """
    ranked = positive[np.argsort(-scores)]
    curve = [(ranked[: k + 1].sum(), ranked[: k + 1].sum() / (k + 1)) for k in range(len(ranked))]
    beyond = lambda found: max((p for f, p in curve if f >= found - 1e-9), default=0)
    total = positive.sum()
    recalls = [total * t / 10 for t in range(11)] if points else range(1, total + 1)
    return np.mean([beyond(found) for found in recalls])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("interpolation", "points"), [("all", False), ("11-point", True)])
def test_average_precision_is_the_devkits(seed, interpolation, points):
    scores, positive = ranking(np.random.default_rng(seed))
    ours = average_precision(scores, positive, interpolation=interpolation)
    assert ours == pytest.approx(devkit(scores, positive, points), abs=1e-12)


def test_average_precision_by_hand():
    """Found at ranks 1, 3 and 6: precisions 1, 2/3, 1/2. Eleven recalls: four up to 1/3, three up to 2/3, four."""
    scores, positive = np.arange(6)[::-1] / 6, np.array([1, 0, 1, 0, 0, 1], bool)
    assert average_precision(scores, positive) == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    eleven = average_precision(scores, positive, interpolation="11-point")
    assert eleven == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 1 / 2) / 11)


def test_a_recall_of_three_tenths_is_reached_by_three_of_ten():
    """0.1 * 3 is more than 3 / 10 in floats."""
    positive = np.array([1] * 3 + [0] * 7 + [1] * 7 + [0] * 3, bool)
    eleven = average_precision(-np.arange(20.0), positive, interpolation="11-point")
    assert eleven == pytest.approx((4 * 1 + 7 * 10 / 17) / 11)


@pytest.mark.parametrize("distinct", [True, False])
def test_beside_scikit_learns(rng, distinct):
    """Never smaller, for the precision never rises; equal where it does not rise anyway."""
    for _ in range(20):
        scores, positive = ranking(rng, 40, distinct)
        theirs = sklearn_metrics.average_precision_score(positive, scores)
        assert average_precision(scores, positive) >= theirs - 1e-12
    falling = np.array([1, 1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0], bool)
    scores = -np.arange(12.0)
    assert average_precision(scores, falling) == pytest.approx(sklearn_metrics.average_precision_score(falling, scores))


@pytest.mark.parametrize("interpolation", ["all", "11-point"])
def test_the_order_of_equal_scores_does_not_matter(rng, interpolation):
    scores, positive = ranking(rng, distinct=False)
    ours = average_precision(scores, positive, interpolation=interpolation)
    for _ in range(5):
        order = rng.permutation(len(scores))
        assert average_precision(scores[order], positive[order], interpolation=interpolation) == ours
    assert average_precision(np.zeros(8), np.arange(8) < 2, interpolation=interpolation) == 0.25


def test_difficult_images_do_not_count(rng):
    truth = rng.integers(-1, 2, (60, 3))
    scores = rng.normal(size=truth.shape)
    each = average_precisions(scores, truth)
    scores[truth < 0] = 99
    np.testing.assert_array_equal(average_precisions(scores, truth), each)
    kept = truth[:, 1] >= 0
    assert each[1] == average_precision(scores[kept, 1], truth[kept, 1] == 1)
    assert mean_average_precision(scores, truth) == pytest.approx(each.mean())


def test_a_class_without_a_positive_is_left_out_and_said(rng, caplog):
    truth = np.array([[1, 0], [0, 0], [1, -1]])
    with caplog.at_level(logging.WARNING):
        assert mean_average_precision(np.array([[3.0, 1], [1, 2], [2, 3]]), truth) == 1
    assert "no positive image of classes 1" in caplog.text


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(DataError, match="1 of 2 scores"):
        average_precision(np.array([1, np.nan]), np.array([True, False]))


def test_recalls_are_scikit_learns(rng):
    labels = rng.permutation(np.repeat(np.arange(5), [40, 20, 10, 5, 1]))
    scores = rng.normal(size=(len(labels), 5)) + np.eye(5)[labels]
    guesses = scores.argmax(1)
    assert mean_class_recall(scores, labels) == pytest.approx(sklearn_metrics.balanced_accuracy_score(labels, guesses))
    assert accuracy(scores, labels) == pytest.approx(sklearn_metrics.accuracy_score(labels, guesses))


def test_a_class_without_images_has_no_recall():
    assert mean_class_recall(np.eye(3)[[0, 1, 2]], np.array([0, 1, 1])) == 0.75


def test_the_names_of_the_metrics(rng):
    scores, truth = rng.normal(size=(30, 2)), rng.integers(0, 2, (30, 2))
    assert METRICS["mean_ap_11"](scores, truth) == mean_average_precision(scores, truth, interpolation="11-point")
    assert METRICS["mean_ap_11"](scores, truth) != METRICS["mean_ap"](scores, truth)
