"""Table 1 as data: every network of the paper (Sec. 2, Sec. 4.1)."""

from __future__ import annotations

import dataclasses
import math

from vgg_jax.errors import ConfigError, did_you_mean

HIDDEN_UNITS = 4096
"""Width of the first two fully-connected layers, fc6 and fc7."""

FULLY_CONNECTED = ("fc6", "fc7", "fc8")
"""The last three layers of every net."""

CONVOLUTIONAL_STAGES = ("conv1", "conv2", "conv3", "conv4", "conv5")
"""The five groups of convolutions of every net, each before a pool, by the names that `config.train.freeze` takes."""


@dataclasses.dataclass(frozen=True)
class Convolution:
    """One row of a stage: `conv3-64` is `Convolution(size=3, channels=64)`."""

    size: int
    channels: int


def scaled(channels: int, width: float) -> int:
    """Channels of a layer whose net is `width` times as wide as the paper's, at least one.

    >>> scaled(64, 0.25), scaled(4096, 0.5)
    (16, 2048)
    """
    return max(1, round(channels * width))


@dataclasses.dataclass(frozen=True)
class Spec:
    """A column of Table 1. The three fully-connected layers, alike in all, are not listed.

    Attributes:
      name: the paper's letter.
      stages: five stages of convolutions; a 2x2 max-pool with stride 2 ends each.
      lrn: whether local response normalization follows the first convolution (A-LRN).

    >>> SPECS["E"].weight_layers, SPECS["E"].parameter_count()
    (19, 143667240)
    """

    name: str
    stages: tuple[tuple[Convolution, ...], ...]
    lrn: bool = False

    @property
    def convolutions(self) -> dict[str, Convolution]:
        """The convolutions by the paper's names, `conv1_1` onwards, in order."""
        return {
            f"conv{stage}_{number}": convolution
            for stage, convolutions in enumerate(self.stages, start=1)
            for number, convolution in enumerate(convolutions, start=1)
        }

    @property
    def weight_layers(self) -> int:
        """How many layers have weights, the three fully-connected ones included: 11 for A, 19 for E."""
        return len(self.layers())

    @property
    def stride(self) -> int:
        """Pixels of the image between neighboring places of the score map."""
        return 2 ** len(self.stages)

    def layers(self, batch_norm: bool = False) -> list[str]:
        """All layers with arrays, in order: conv1_1, bn1_1, ..., fc8.

        >>> SPECS["A"].layers(batch_norm=True)[:3]
        ['conv1_1', 'bn1_1', 'conv2_1']
        """
        return list(dict.fromkeys(name.split("/")[0] for name in self.parameter_shapes(batch_norm=batch_norm)))

    def parameter_shapes(
        self,
        num_classes: int = 1000,
        crop: int = 224,
        width: float = 1.0,
        batch_norm: bool = False,
        hidden: int | None = None,
    ) -> dict[str, tuple[int, ...]]:
        """The shapes of the net's arrays by their names `LAYER/ARRAY`, in order; kernels are (h, w, inputs, outputs).

        Args:
          num_classes: outputs of fc8.
          crop: side of the training crop in pixels; the fc6 window is crop / 32.
          width: factor on every layer's channels.
          batch_norm: whether each convolution is followed by batch normalization: scale and bias, and the averages mean
            and var, which are not trained.
          hidden: units of fc6 and of fc7; by default 4096, times the width.

        >>> SPECS["A"].parameter_shapes(crop=64, hidden=24)["fc6/kernel"]
        (2, 2, 512, 24)
        """
        hidden = hidden or scaled(HIDDEN_UNITS, width)
        layers = [(name, row.size, scaled(row.channels, width)) for name, row in self.convolutions.items()]
        layers += [("fc6", crop // self.stride, hidden), ("fc7", 1, hidden), ("fc8", 1, num_classes)]
        shapes, channels = {}, 3
        for layer, size, outputs in layers:
            shapes |= {f"{layer}/kernel": (size, size, channels, outputs), f"{layer}/bias": (outputs,)}
            if batch_norm and layer not in FULLY_CONNECTED:
                norm = layer.replace("conv", "bn")
                shapes |= {f"{norm}/{array}": (outputs,) for array in ("scale", "bias", "mean", "var")}
            channels = outputs
        return shapes

    def parameter_count(self, *sizes, **named_sizes) -> int:
        """How many parameters the net has (Table 2), without building it; the arguments are `parameter_shapes`'s."""
        shapes = self.parameter_shapes(*sizes, **named_sizes)
        return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(("/mean", "/var")))

    def multiply_adds(self, width: float = 1.0) -> float:
        """Multiplications of the convolutions for one pixel of the image, each with its addition.

        >>> round(SPECS["D"].multiply_adds() * 224**2 / 1e9, 2)  # published: 15.47 with the FC layers' 0.12
        15.35
        """
        shapes = self.parameter_shapes(width=width)
        places = {layer: 4.0 ** (1 - int(layer[4])) for layer in self.convolutions}  # one digit of stage: conv3_2
        return sum(share * math.prod(shapes[f"{layer}/kernel"]) for layer, share in places.items())

    def receptive_field(self, layer: str | None = None) -> int:
        """Side in pixels of the square of the image that one place of `layer` sees (Sec. 2.3).

        Args:
          layer: a convolution or a pool, `conv3_2` or `pool4`; the last pool by default.

        Raises:
          ConfigError: there is no such layer in this net.

        >>> SPECS["D"].receptive_field("conv1_2"), SPECS["D"].receptive_field()
        (5, 212)
        """
        fields, field, jump = {}, 1, 1
        for stage, convolutions in enumerate(self.stages, start=1):
            for number, convolution in enumerate(convolutions, start=1):
                field += (convolution.size - 1) * jump
                fields[f"conv{stage}_{number}"] = field
            field += jump
            jump *= 2
            fields[f"pool{stage}"] = field
        if layer is not None and layer not in fields:
            raise ConfigError(
                f"net {self.name} has no layer {layer!r}; it has {', '.join(fields)}{did_you_mean(layer, fields)}"
            )
        return field if layer is None else fields[layer]


def _stages(*rows: str) -> tuple[tuple[Convolution, ...], ...]:
    """Table 1's own notation: one string per stage, `size-channels` per convolution."""
    return tuple(tuple(Convolution(*map(int, entry.split("-"))) for entry in row.split()) for row in rows)


_TABLE = (
    Spec("A", _stages("3-64", "3-128", "3-256 3-256", "3-512 3-512", "3-512 3-512")),
    Spec("A-LRN", _stages("3-64", "3-128", "3-256 3-256", "3-512 3-512", "3-512 3-512"), lrn=True),
    Spec("B", _stages("3-64 3-64", "3-128 3-128", "3-256 3-256", "3-512 3-512", "3-512 3-512")),
    # The shallow net of Sec. 4.1: one 5x5 convolution sees what B's pair of 3x3 ones sees.
    Spec("B-5x5", _stages("5-64", "5-128", "5-256", "5-512", "5-512")),
    Spec("C", _stages("3-64 3-64", "3-128 3-128", "3-256 3-256 1-256", "3-512 3-512 1-512", "3-512 3-512 1-512")),
    Spec("D", _stages("3-64 3-64", "3-128 3-128", "3-256 3-256 3-256", "3-512 3-512 3-512", "3-512 3-512 3-512")),
    Spec(
        "E",
        _stages(
            "3-64 3-64",
            "3-128 3-128",
            "3-256 3-256 3-256 3-256",
            "3-512 3-512 3-512 3-512",
            "3-512 3-512 3-512 3-512",
        ),
    ),
)

SPECS: dict[str, Spec] = {spec.name: spec for spec in _TABLE}
"""The seven networks by the paper's letter."""

ALIASES: dict[str, str] = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
"""What everybody else calls them."""


def spec_of(net: str) -> Spec:
    """The spec of a net by the paper's letter or its usual name.

    Raises:
      ConfigError: no such net; the message lists them and the nearest.

    >>> spec_of("vgg16").name
    'D'
    """
    known = [*SPECS, *ALIASES]
    if isinstance(net, str) and (name := ALIASES.get(net.lower(), net)) in SPECS:
        return SPECS[name]
    nearest = did_you_mean(net if isinstance(net, str) else f"vgg{net}", known)
    raise ConfigError(f"no net {net!r}: there are {', '.join(known)}{nearest}")
