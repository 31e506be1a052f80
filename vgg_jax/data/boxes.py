"""Boxes and the frames that they are given in (App. A).

corners    left, top, right, bottom in pixels of the image as it was decoded: what annotations and people have; right
           and bottom are exclusive, so a box over a whole image of h x w pixels is (0, 0, w, h)
box        center x, center y, width, height, the paper's four numbers, relative to a window of the image: what a
           network predicts; (0.5, 0.5, 1, 1) is the window itself, and a box may reach beyond it

A window is a part of the image in its pixels: top, left, height, width (`vgg_jax.data.training_batches`). All
functions take NumPy's or JAX's arrays with any number of leading axes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float


def in_window(corners: Float[np.ndarray, "*n 4"], window: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n 4"]:
    """Boxes relative to a window, of corners in pixels.

    >>> in_window(np.array([100.0, 50, 200, 150]), np.array([0.0, 100, 100, 200]))
    array([0.25, 1.  , 0.5 , 1.  ])
    """
    xp = corners.__array_namespace__()
    left, top, right, bottom = xp.moveaxis(corners, -1, 0)
    y, x, height, width = xp.moveaxis(window, -1, 0)
    center = ((left + right) / 2 - x) / width, ((top + bottom) / 2 - y) / height
    return xp.stack([*center, (right - left) / width, (bottom - top) / height], -1)


def from_window(boxes: Float[np.ndarray, "*n 4"], window: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n 4"]:
    """Corners in pixels, of boxes relative to a window: the inverse of `in_window`.

    >>> from_window(np.array([0.25, 1.0, 0.5, 1.0]), np.array([0.0, 100, 100, 200]))
    array([100.,  50., 200., 150.])
    """
    xp = boxes.__array_namespace__()
    x, y, width, height = xp.moveaxis(boxes, -1, 0)
    top, left, rows, columns = xp.moveaxis(window, -1, 0)
    edges = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return xp.stack([first + edge * side for edge, first, side in zip(edges, (left, top) * 2, (columns, rows) * 2)], -1)


def visible(corners: Float[np.ndarray, "*n 4"], window: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n"]:
    """The fraction of each box's area that lies in the window.

    >>> float(visible(np.array([100.0, 50, 200, 150]), np.array([0.0, 100, 100, 200])))
    0.5
    """
    xp = corners.__array_namespace__()
    top, left, height, width = xp.moveaxis(window, -1, 0)
    shown = xp.stack([left, top, left + width, top + height], -1)
    return intersection(corners, shown) / intersection(corners, corners)


def intersection(a: Float[np.ndarray, "*n 4"], b: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n"]:
    """The area that boxes have in common, of corners, pair by pair; leading axes are broadcast.

    >>> float(intersection(np.array([0.0, 0, 2, 2]), np.array([1.0, 0, 3, 2])))
    2.0
    """
    xp = a.__array_namespace__()
    (l1, t1, r1, b1), (l2, t2, r2, b2) = (xp.moveaxis(box, -1, 0) for box in (a, b))
    across, down = xp.minimum(r1, r2) - xp.maximum(l1, l2), xp.minimum(b1, b2) - xp.maximum(t1, t2)
    return xp.maximum(across, 0) * xp.maximum(down, 0)


def iou(a: Float[np.ndarray, "*n 4"], b: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n"]:
    """Intersection over union of corners, pair by pair; leading axes are broadcast.

    A box of no area, or with swapped edges, has none with any box.

    >>> float(iou(np.array([0.0, 0, 2, 2]), np.array([1.0, 0, 3, 2]))).__round__(3)
    0.333
    """
    xp = a.__array_namespace__()
    common = intersection(a, b)
    union = intersection(a, a) + intersection(b, b) - common
    return common / xp.maximum(union, xp.finfo(xp.float32).tiny)


def mirrored(boxes: Float[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n 4"]:
    """Boxes relative to a window in the mirror image of the window.

    >>> mirrored(np.array([0.25, 1.0, 0.5, 1.0]))
    array([0.75, 1.  , 0.5 , 1.  ])
    """
    xp = boxes.__array_namespace__()
    x, y, width, height = xp.moveaxis(boxes, -1, 0)
    return xp.stack([1 - x, y, width, height], -1)
