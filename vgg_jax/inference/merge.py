"""The greedy merging of boxes, after OverFeat (App. A): the closest two become their average, until none are close.

Three match scores, of which the least is the closest:

iou          1 - IoU, between 0 and 1
overfeat     OverFeat's text to the letter: the distance between the centers plus the area of the intersection. The sum
             has a meaning only where lengths and areas are both about 1: give boxes in units of their image's longer
             side. It grows with the overlap, so of two pairs as far apart the smaller boxes are merged first
coordinates  the Euclidean distance between the four corners' coordinates: what clustering by SciPy's `median` does
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vgg_jax.compiler import jit
from vgg_jax.data.boxes import intersection, iou
from vgg_jax.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


def _overfeat(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    (l1, t1, r1, b1), (l2, t2, r2, b2) = (jnp.moveaxis(corners, -1, 0) for corners in (a, b))
    across, down = (l1 + r1 - l2 - r2) / 2, (t1 + b1 - t2 - b2) / 2
    return jnp.sqrt(across**2 + down**2) + intersection(a, b)


def _coordinates(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    return jnp.sqrt(sum((x - y) ** 2 for x, y in zip(*(jnp.moveaxis(corners, -1, 0) for corners in (a, b)))))


MATCHES: dict[str, Callable[[Array, Array], Array]] = {
    "iou": lambda a, b: 1 - iou(a, b),
    "overfeat": _overfeat,
    "coordinates": _coordinates,
}
"""The match scores of corners (..., 4), pair by pair."""

_UNIT, _LARGE = 128, 4096


def merge(
    boxes: Float[np.ndarray, "n 4"],
    scores: Float[np.ndarray, "n ..."],
    match: str = "iou",
    threshold: float = 0.5,
) -> tuple[Float[np.ndarray, "m 4"], Float[np.ndarray, "m ..."]]:
    """Merges boxes, and adds up the scores of those that become one.

    Again and again the two boxes of the least match score are replaced by the average of their coordinates, at the
    place of the first one; of equal pairs it is the first, in the order of places. It ends where the least score is
    above the threshold.

    Args:
      boxes: corners; computed with in float32.
      scores: of the boxes, one each or one for each class.
      match: iou, overfeat or coordinates.
      threshold: the largest match score of boxes that are merged.

    Returns:
      The merged boxes and their scores, in the order of the first box that each was made of.

    Raises:
      ConfigError: there is no such match score, or the threshold is no finite number.
      DataError: a box is not finite.

    >>> boxes, scores = merge(np.array([[0, 0, 4, 4], [8, 8, 9, 9], [0, 0, 4, 6]]), np.array([0.25, 0.5, 0.5]))
    >>> boxes.tolist(), scores.tolist()
    ([[0.0, 0.0, 4.0, 5.0], [8.0, 8.0, 9.0, 9.0]], [0.75, 0.5])
    """
    if match not in MATCHES:
        raise ConfigError(f"match={match!r}: there are {', '.join(MATCHES)}{did_you_mean(match, MATCHES)}")
    if not np.isfinite(threshold):
        raise ConfigError(f"threshold={threshold}: a finite number, the largest match score of boxes that are merged")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        boxes, scores = np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(scores)
    if bad := np.count_nonzero(~np.isfinite(boxes).all(1)):
        raise DataError(f"{bad} of {len(boxes)} boxes are not finite: the network that predicts them has diverged")
    of, done = np.arange(len(boxes)), not len(boxes)  # which box each of those given is part of
    with jax.default_device(jax.local_devices(backend="cpu")[0]):  # thousands of steps, each too small for others
        while not done:
            unit = max(_UNIT, 1 << max((len(boxes) - 1).bit_length() - 3, 0))
            size = -(-len(boxes) // unit) * unit  # a few programs serve all numbers of boxes
            padded = np.pad(boxes, [(0, size - len(boxes)), (0, 0)])
            # Half of a large program's work would be for boxes that are gone: then it is handed over to a smaller one.
            least = size // 2 if size >= _LARGE else 0
            merged, into, done = jax.device_get(_program(match)(padded.T, len(boxes), np.float32(threshold), least))
            into = into[: len(boxes)]
            while (into[into] != into).any():
                into = into[into]
            left, place = np.unique(into, return_inverse=True)
            boxes, of = merged.T[left], place[of]
    total = np.zeros((len(boxes), *scores.shape[1:]), scores.dtype)
    np.add.at(total, of, scores)
    return boxes, total


@functools.cache
def _program(match: str) -> Callable:
    return jit(functools.partial(_merge, MATCHES[match]))


def _merge(
    match: Callable[[Array, Array], Array],
    boxes: Float[Array, "4 n"],
    count: Int[Array, ""],
    threshold: Float[Array, ""],
    least: Int[Array, ""],
) -> tuple[Float[Array, "4 n"], Int[Array, " n"], Array]:
    """Merges the first `count` boxes, while there are more than `least`.

    A box knows the nearest of those behind it. One whose nearest vanishes (-1) keeps the distance as a lower bound and
    looks for another only when no box has a lesser one: nothing that is closer can be overlooked, for distances to a
    box that moved are all computed. No more than a few rows of distances are ever held.

    Returns:
      boxes; into which each was merged, itself if it is left; whether none of those left are close.
    """
    index = jnp.arange(boxes.shape[1], dtype=jnp.int32)

    def nearest_behind(i: Array, row: Array) -> tuple[Array, Array]:
        return _first_least(jnp.where(index > i, row, jnp.inf), index)

    def begun(i: Array) -> tuple[Array, Array]:
        distance, j = nearest_behind(i, jnp.where(index < count, match(boxes[:, i], boxes.T), jnp.inf))
        return jnp.where(i < count, distance, jnp.inf), j

    def is_close(state: tuple) -> Array:
        *_, left, distance, _ = state
        return (distance <= threshold) & (left > least)

    def step(state: tuple) -> tuple:
        boxes, into, distances, nearest, left, _, i = state
        j = nearest[i]
        known = j >= 0  # then they are merged, otherwise the nearest is found again
        box = jnp.where(known, (boxes[:, i] + boxes[:, j]) / 2, boxes[:, i])
        vanished = jnp.where(known, j, i)
        into = into.at[vanished].set(i)
        distances = distances.at[vanished].set(jnp.inf)
        row = jnp.where(into == index, match(box, boxes.T), jnp.inf)
        nearest = jnp.where(known & ((nearest == i) | (nearest == j)), -1, nearest)
        closer = (row < distances) | ((row == distances) & (i < nearest))
        closer &= index < i
        distances, nearest = jnp.where(closer, row, distances), jnp.where(closer, i, nearest)
        distance, j = nearest_behind(i, row)
        distances, nearest, boxes = distances.at[i].set(distance), nearest.at[i].set(j), boxes.at[:, i].set(box)
        return boxes, into, distances, nearest, left - known, *_first_least(distances, index)

    distances, nearest = lax.map(begun, index, batch_size=64)
    into = jnp.where(index < count, index, -1)
    state = boxes, into, distances, nearest, count, *_first_least(distances, index)
    boxes, into, *_, distance, _ = lax.while_loop(is_close, step, state)
    return boxes, into, ~(distance <= threshold)  # as the loop ends, also where a distance overflows


def _first_least(values: Float[Array, " n"], index: Int[Array, " n"]) -> tuple[Array, Array]:
    """The least value and its first place: on a CPU several times as fast as `argmin`."""
    least = values
    while len(least) % 16 == 0:  # half against half, many at once: XLA's `min` of floats goes one by one
        least = jnp.minimum(*jnp.split(least, 2))
    least = least.min()
    return least, jnp.where(values == least, index, len(values) - 1).min()
