"""What the outputs of a network that localizes mean: boxes (App. A).

Its fc8 has four channels for every box that it predicts: one box whatever the class (SCR, 4 channels), or one per class
(PCR, 4 x classes, those of class c from 4 c on). They are a box's center x, center y, width and height relative to the
window that the network sees (`vgg_jax.data.boxes`), each counted from the window's center and from a typical size, in
tenths of the window's side. The paper does not say how it scales them. So counted, outputs of zero are a sensible box,
and targets are about as far from zero as class scores are: the rates and the initialization of classification suit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Array, Float

_TYPICAL = np.array([0.5, 0.5, 0.7, 0.7], np.float32)
_UNIT = 0.1


def boxes_of(outputs: Float[Array, "*n channels"]) -> Float[Array, "*n boxes 4"]:
    """The boxes that outputs mean, relative to the window.

    >>> boxes_of(np.array([0.0, 1.0, -2.0, 0.0])).round(3)
    array([[0.5, 0.6, 0.5, 0.7]])
    """
    return outputs.reshape(*outputs.shape[:-1], -1, 4) * _UNIT + _TYPICAL


def outputs_of(boxes: Float[Array, "*n boxes 4"]) -> Float[Array, "*n channels"]:
    """The outputs that mean these boxes: the inverse of `boxes_of`, and so the targets of training."""
    return ((boxes - _TYPICAL) / _UNIT).reshape(*boxes.shape[:-2], -1)
