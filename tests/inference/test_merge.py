"""Merging is the greedy procedure of OverFeat's text, ties included, and SciPy's median clustering (App. A)."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage

from vgg_jax import ConfigError, DataError
from vgg_jax.inference import merge as module
from vgg_jax.inference.merge import MATCHES, merge


def match_score(a, b, match):
    """Of two boxes, from the definitions."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    if match == "iou":
        areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
        return 1 - width * height / (sum(areas) - width * height)
    if match == "overfeat":
        centers = [((c[0] + c[2]) / 2, (c[1] + c[3]) / 2) for c in (a, b)]
        return np.sqrt((centers[0][0] - centers[1][0]) ** 2 + (centers[0][1] - centers[1][1]) ** 2) + width * height
    return np.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def merged_by_brute_force(boxes, scores, match, threshold):
    boxes, scores = [box.astype(np.float32) for box in boxes], list(scores)
    while len(boxes) > 1:
        pairs = [(i, j) for i in range(len(boxes)) for j in range(i + 1, len(boxes))]
        distances = [match_score(boxes[i], boxes[j], match) for i, j in pairs]
        least = int(np.argmin(distances))  # the first of equal ones
        if distances[least] > threshold:
            break
        i, j = pairs[least]
        boxes[i], scores[i] = (boxes[i] + boxes[j]) / 2, scores[i] + scores[j]
        del boxes[j], scores[j]
    return np.array(boxes), np.array(scores)


def random_boxes(rng, count, spread=1.0):
    centers, sides = rng.uniform(0, spread, (count, 2)), rng.uniform(0.2, 0.6, (count, 2))
    return np.concatenate([centers - sides / 2, centers + sides / 2], 1)


def grid_boxes(rng, count):
    """Of a few whole numbers: many are equal, and many pairs are as close as others."""
    low = rng.integers(0, 4, (count, 2))
    return np.concatenate([low, low + rng.integers(1, 4, (count, 2))], 1).astype(np.float32)


@pytest.mark.parametrize("match", MATCHES)
def test_it_is_the_greedy_procedure(match, rng):
    for trial in range(12):
        boxes = (random_boxes, grid_boxes)[trial % 2](rng, int(rng.integers(1, 28)))
        scores = rng.uniform(0, 1, (len(boxes), 3))
        for threshold in (0, 0.4, 1.5):
            found, added = merge(boxes, scores, match, threshold)
            expected, sums = merged_by_brute_force(boxes, scores, match, threshold)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(added, sums)


@pytest.mark.parametrize("threshold", [0.15, 0.3])
def test_by_coordinates_it_is_scipys_median_linkage(threshold, rng):
    boxes, scores = random_boxes(rng, 300), rng.uniform(0, 1, 300)
    members = {number: [number] for number in range(300)}
    means = dict(enumerate(boxes))
    for step, (i, j, distance, _) in enumerate(linkage(boxes, "median")):
        if distance > threshold:  # distances may fall again later: the procedure ends here all the same
            break
        means[300 + step] = (means.pop(i) + means.pop(j)) / 2
        members[300 + step] = members.pop(i) + members.pop(j)
    found, added = merge(boxes, scores, "coordinates", threshold)
    order = sorted(members, key=lambda cluster: min(members[cluster]))
    assert 1 < len(order) < 250
    np.testing.assert_allclose(found, [means[cluster] for cluster in order], atol=1e-5)
    np.testing.assert_allclose(added, [scores[members[cluster]].sum() for cluster in order])


def test_many_boxes_go_through_smaller_and_smaller_programs(rng, monkeypatch):
    boxes, scores = random_boxes(rng, 500), rng.uniform(0, 1, 500)
    whole = merge(boxes, scores, "iou", 0.6)
    monkeypatch.setattr(module, "_LARGE", 256)
    for one, other in zip(whole, merge(boxes, scores, "iou", 0.6), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    assert len(whole[0]) < 128


def test_no_box_and_one_box():
    boxes, scores = merge(np.zeros((0, 4)), np.zeros((0, 2)))
    assert boxes.shape == (0, 4) and scores.shape == (0, 2)
    boxes, scores = merge(np.array([[0, 0, 1, 1]]), np.array([2.0]))
    assert boxes.tolist() == [[0, 0, 1, 1]] and scores.tolist() == [2]


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="match='ioU': there are iou, overfeat, coordinates; did you mean"):
        merge(np.zeros((1, 4)), np.zeros(1), "ioU")
    with pytest.raises(ConfigError, match="threshold=inf: a finite number"):
        merge(np.zeros((1, 4)), np.zeros(1), "iou", np.inf)
    for value in (np.nan, np.inf, 1e39):  # the last is infinite in float32
        with pytest.raises(DataError, match="1 of 2 boxes are not finite"):
            merge(np.array([[0, 0, 1, 1], [0, 0, value, 1]]), np.ones(2))


def test_it_ends_where_a_distance_is_no_number():
    """Of boxes so large that their areas, and the differences of these, overflow."""
    boxes, _ = merge(np.array([[0, 0, 3e38, 3e38], [0, 0, 2e38, 3e38]]), np.ones(2))
    assert len(boxes) == 2
