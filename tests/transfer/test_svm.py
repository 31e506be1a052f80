"""The SVM: both solvers against scikit-learn's to convergence; how C is chosen; what is left out."""

import functools
import logging

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from vgg_jax.errors import ConfigError, DataError
from vgg_jax.transfer import liblinear, newton, svm
from vgg_jax.transfer.metrics import METRICS

RECALL, MEAN_AP = METRICS["mean_class_recall"], METRICS["mean_ap"]
SOLVERS = ("liblinear", "device")
fit_svm = functools.partial(svm.fit_svm, solver="liblinear")  # compiles nothing


def task(rng, n=240, d=32, classes=4, apart=0.4):
    """Overlapping clusters of rows of unit length, in float32, with their labels."""
    labels = np.arange(n) % classes
    rows = rng.normal(size=(classes, d))[labels] * apart + rng.normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def objective(rows, signs, weights, intercept, C):
    """In float64, by its definition."""
    w, b, rows = np.float64(weights), np.float64(intercept), np.float64(rows)
    slack = np.maximum(0, 1 - signs * (rows @ w + b)) * (signs != 0)
    return 0.5 * (w @ w + b * b) + C * (slack**2).sum()


def exact(rows, signs, C):
    kept = signs != 0
    fit = LinearSVC(C=C, tol=1e-7, max_iter=10**6, random_state=1).fit(rows[kept], signs[kept])
    return fit.coef_[0], fit.intercept_[0]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("n", "d"), [(240, 32), (160, 512)])  # more images than dimensions, and fewer
@pytest.mark.parametrize("C", [0.01, 1, 100])
def test_the_minimum_is_scikit_learns(rng, solver, n, d, C):
    rows, labels = task(rng, n, d)
    fit = fit_svm(rows, labels, RECALL, grid=[C], solver=solver)
    assert fit.C == C and fit.weights.shape == (d, 4) and fit.weights.dtype == np.float32
    for c in range(4):
        signs = np.where(labels == c, 1, -1)
        theirs = exact(rows, signs, C)
        least = objective(rows, signs, *theirs, C)
        assert objective(rows, signs, fit.weights[:, c], fit.intercept[c], C) == pytest.approx(least, rel=3e-6)
        decisions = rows @ theirs[0] + theirs[1]
        np.testing.assert_allclose(fit.decide(rows)[:, c], decisions, atol=1.5e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_image_that_is_left_out_of_a_class_has_no_part_in_it(rng, solver):
    rows, labels = task(rng)
    truth = np.stack([labels == c for c in range(4)], 1).astype(int)
    truth[rng.random(truth.shape) < 0.2] = -1
    fit = fit_svm(rows, truth, MEAN_AP, grid=[1], solver=solver)
    for c in range(4):
        weights, intercept = exact(rows, np.choose(truth[:, c] + 1, (0, -1, 1)), 1)
        np.testing.assert_allclose(fit.decide(rows)[:, c], rows @ weights + intercept, atol=1.5e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_C_is_chosen_on_a_fifth_of_each_class_and_all_are_fitted(rng, solver):
    rows, labels = task(rng, apart=0.25)
    seen = []

    def metric(decisions, targets):
        seen.append((decisions, targets))
        return RECALL(decisions, targets)

    fit = fit_svm(rows, labels, metric, solver=solver)
    assert [np.bincount(targets).tolist() for _, targets in seen] == [[12] * 4] * 5
    assert list(fit.validation) == [0.01, 0.1, 1, 10, 100]
    best = max(fit.validation.values())
    assert len(set(fit.validation.values())) > 1
    assert min(C for C, value in fit.validation.items() if value == best) == fit.C
    again = fit_svm(rows, labels, RECALL, grid=[fit.C], solver=solver)
    np.testing.assert_array_equal(fit.weights, again.weights)  # of all images, with no trace of the choice


def test_what_was_held_out_was_not_learned_from(rng):
    """Labels at random: whoever has seen them knows them, others do not."""
    rows, labels = task(rng, 200, 512, classes=2, apart=0)
    fit = fit_svm(rows, labels, RECALL, grid=[1, 10])
    assert RECALL(fit.decide(rows), labels) == 1
    assert max(fit.validation.values()) < 0.8


def test_a_group_is_held_out_whole(rng):
    """Pairs of twins with random labels: one tells the label of the other."""
    rows, labels = task(rng, 100, 512, classes=2, apart=0)
    twins = [np.repeat(array, 2, axis=0) for array in (rows, labels)]
    known = fit_svm(*twins, RECALL, grid=[1, 10])
    fit = fit_svm(*twins, RECALL, grid=[1, 10], groups=np.arange(200) // 2)
    assert min(known.validation.values()) > 0.8 > 0.7 > max(fit.validation.values())


def test_the_seed_decides_what_is_held_out(rng):
    rows, labels = task(rng, 120, apart=0.25)
    validations = [fit_svm(rows, labels, RECALL, seed=seed).validation for seed in (0, 0, 1)]
    assert validations[0] == validations[1] != validations[2]


def test_a_rare_class_is_not_held_out_whole(rng):
    rows, _ = task(rng, 40)
    truth = np.zeros((40, 2), int)
    truth[rng.permutation(40)[:2], 0] = 1
    truth[:20, 1] = 1
    for seed in range(20):  # by chance alone both of its images would be held out in one of 26 cases
        truth = truth[rng.permutation(40)]
        assert set(fit_svm(rows, truth, lambda decisions, targets: 0.5, grid=[1, 2], seed=seed).validation) == {1, 2}


def test_one_shot_has_none_to_hold_out(rng, caplog):
    rows, labels = task(rng, 4)
    with caplog.at_level(logging.INFO):
        fit = fit_svm(rows, labels, RECALL)
    assert fit.C == 1 and not fit.validation
    assert "4 images, and none can be held out to choose C: it is 1" in caplog.text


def test_an_image_that_is_there_twice(rng):
    """Its descriptors are of lower rank than images, which the change of coordinates must bear."""
    rows, labels = task(rng, 60, 128)
    rows, labels = np.concatenate([rows, rows]), np.concatenate([labels, labels])
    fit = fit_svm(rows[:100], labels[:100], RECALL, grid=[10])
    weights, intercept = exact(rows[:100], np.where(labels[:100] == 2, 1, -1), 10)
    np.testing.assert_allclose(fit.decide(rows)[:, 2], rows @ weights + intercept, atol=1e-3)


def test_processes_change_no_bit(rng, monkeypatch):
    rows, labels = task(rng)
    alone = fit_svm(rows, labels, RECALL)
    monkeypatch.setattr(liblinear, "ALONE", 0)
    together = fit_svm(rows, labels, RECALL)
    np.testing.assert_array_equal(alone.weights, together.weights)


def test_the_device_says_when_it_has_not_converged(rng, monkeypatch, caplog):
    rows, labels = task(rng)
    monkeypatch.setattr(newton, "STEPS", 1)
    fit_svm(rows, labels, RECALL, grid=[100], solver="device")
    assert "4 classes have not converged in 1 steps" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows, labels: (rows[1:], labels), "119 descriptors and targets of 120 images"),
        (lambda rows, labels: (rows * np.where(np.arange(120) == 7, np.nan, 1)[:, None], labels), "of image 7 has"),
        (lambda rows, labels: (rows, labels * 2), "no image of class 1 to learn from"),
        (lambda rows, labels: (rows, labels * 0), "no image that is not of class 0"),
    ],
)
def test_what_cannot_be_learned_from(rng, change, message):
    with pytest.raises(DataError, match=message):
        fit_svm(*change(*task(rng, 120)), RECALL)


def test_a_class_without_an_image_to_learn_from_is_named(rng):
    rows, labels = task(rng, 120)
    with pytest.raises(DataError, match="no image of class fox to learn from"):
        fit_svm(rows, labels, RECALL, classes=("ant", "bee", "cat", "dog", "fox"))
    assert fit_svm(rows, labels, RECALL, classes=("ant", "bee", "cat", "dog"), grid=[1]).weights.shape == (32, 4)


def test_more_than_liblinear_can_count_is_for_the_device(rng, monkeypatch):
    rows, labels = task(rng)
    monkeypatch.setattr(liblinear, "MOST", rows.size - 1)
    with pytest.raises(ConfigError, match="240 descriptors have 7,680 numbers .* 'device' takes more"):
        fit_svm(rows, labels, RECALL, grid=[1])
    assert fit_svm(rows, labels, RECALL, grid=[1], solver="device").weights.shape == (32, 4)
