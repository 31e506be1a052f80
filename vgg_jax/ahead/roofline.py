"""How fast a program could be on its chips: a prediction from their data sheets, nothing that was measured.

The products run at the chip's peak, its memory at its bandwidth, the two beside each other; but a GPU's kernels run one
after another, so what one of them moves that computes no product has nothing beside it. Each chip sends at the full
rate of its links, around rings. At best the collectives hide behind the rest, at worst nothing runs beside them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ml_collections import ConfigDict

from vgg_jax.ahead.chips import Chip
from vgg_jax.ahead.collectives import Collective
from vgg_jax.model.specs import FULLY_CONNECTED, spec_of


class Roofline(NamedTuple):
    """Seconds of a step."""

    products: float
    memory: float
    interconnect: float
    apart: float
    """Of the memory's, those of kernels without products."""

    @property
    def alone(self) -> float:
        """Without collectives."""
        return max(self.products + self.apart, self.memory)

    @property
    def best(self) -> float:
        return max(self.alone, self.interconnect)

    @property
    def worst(self) -> float:
        return self.alone + self.interconnect


def roofline(
    chip: Chip, operations: float, traffic: float, collectives: list[Collective], apart: float = 0.0
) -> Roofline:
    """The prediction.

    Args:
      chip: the data sheet.
      operations, traffic: of one chip in a step; additions and multiplications, bytes.
      collectives: of a step.
      apart: bytes of kernels without products.
    """
    return Roofline(
        operations / chip.peak,
        traffic / chip.bandwidth,
        sum(seconds(chip, collective) for collective in collectives),
        apart / chip.bandwidth,
    )


def operations(config: ConfigDict, outputs: int, side: tuple[int, int], *, training: bool) -> float:
    """Additions and multiplications for an image, as its layers are defined (and again with `config.model.remat`).

    The gradients of a layer's input and of its parameters cost what the layer costs; none goes to the image.

    >>> from vgg_jax.config import default_config
    >>> round(operations(default_config(), 1000, (224, 224), training=False) / 2e9, 2)  # published: 15.47
    15.47
    """
    model, crop, spec = config.model, config.data.crop, spec_of(config.model.net)
    convolutions = 2 * spec.multiply_adds(model.width) * math.prod(side)
    shapes = spec.parameter_shapes(outputs, crop, model.width, hidden=model.hidden or None)
    places = math.prod(pixels // spec.stride - crop // spec.stride + 1 for pixels in side)
    forward = convolutions + 2 * places * sum(math.prod(shapes[f"{layer}/kernel"]) for layer in FULLY_CONNECTED)
    if not training:
        return forward
    return 3 * forward - 2 * math.prod(side) * math.prod(shapes["conv1_1/kernel"]) + convolutions * model.remat


def seconds(chip: Chip, collective: Collective) -> float:
    """That the links are busy with a collective."""
    busy = collective.sent / chip.link
    if chip.host and collective.group > chip.host:  # the cards of a host share what it sends to others
        busy += collective.sent / chip.host / chip.network
    return busy
