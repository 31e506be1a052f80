"""How a classifier is made and tested (App. B): the keys of `config.transfer`, and which values go together."""

from __future__ import annotations

from typing import NamedTuple

from vgg_jax.errors import ConfigError, did_you_mean
from vgg_jax.inference.activations import COMBINE
from vgg_jax.transfer.metrics import METRICS
from vgg_jax.transfer.svm import GRID, SOLVERS, Solver


class TransferSettings(NamedTuple):
    """The keys of `config.transfer`, with the paper's values for Caltech-101."""

    layers: tuple[str, ...] = ("relu7",)
    scales: tuple[int, ...] = (256, 384, 512)
    combine: tuple[str, ...] = ("stack",)
    flip: bool = True
    metric: str = "mean_class_recall"
    C: tuple[float, ...] = GRID
    solver: Solver = "device"
    splits: int = 3
    shots: int = 30
    test_per_class: int = 50
    curve: tuple[int, ...] = ()
    regions: tuple[str, ...] = ()
    rest: str = ""
    seed: int = 0

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured; the first is what C is chosen by."""
        return tuple(dict.fromkeys([self.metric, *(() if self.several_classes else ("mean_class_recall", "accuracy"))]))

    @property
    def several_classes(self) -> bool:
        """Whether an image may show several classes, and the metric ranks images for each class (VOC)."""
        return self.metric.startswith("mean_ap")

    def check(self) -> None:
        """Refuses what cannot work.

        Raises:
          ConfigError: a value is not allowed for its key, or two values contradict each other.
        """
        self._check_values()
        if self.rest and not self.regions:
            raise ConfigError(
                f"config.transfer.rest={self.rest!r} is for boxes: config.transfer.regions=('image', 'box')"
            )
        if self.several_classes and (self.splits or self.shots or self.curve):
            raise ConfigError(
                f"config.transfer.metric={self.metric!r} is for images that may show several classes, so no number of "
                "images of each class can be picked: set config.transfer.splits=0, config.transfer.shots=0 and "
                "config.transfer.curve=()"
            )
        if self.splits and not self.several_classes and not self.shots:
            raise ConfigError(
                f"config.transfer.shots=0 trains on all images, and config.transfer.splits={self.splits} would leave "
                "none to test on: give the number of images of a class, or set config.transfer.splits=0"
            )
        if self.rest and not self.several_classes:
            raise ConfigError(
                f"config.transfer.rest={self.rest!r} leaves boxes without a class, and config.transfer.metric="
                f"{self.metric!r} needs one for each: set config.transfer.metric='mean_ap'"
            )

    def _check_values(self) -> None:
        for key, choices in (("solver", [*SOLVERS]), ("metric", [*METRICS])):
            value = getattr(self, key)
            if value not in choices:
                nearest = did_you_mean(value, choices)
                raise ConfigError(f"config.transfer.{key}={value!r}: use one of {', '.join(choices)}{nearest}")
        if not self.layers or not all(isinstance(layer, str) for layer in self.layers):
            raise ConfigError(f"config.transfer.layers={tuple(self.layers)}: names of activations, ('relu7', 'pool5')")
        ways = ("single", *COMBINE)
        if not self.combine or not all(way in ways for way in self.combine):
            raise ConfigError(f"config.transfer.combine={tuple(self.combine)}: one or more of {', '.join(ways)}")
        if not self.C or not all(isinstance(C, int | float) and 0 < C < 1e9 for C in self.C):
            raise ConfigError(f"config.transfer.C={tuple(self.C)}: one or more positive numbers, (0.1, 1.0, 10.0)")
        if not all(region in ("image", "box") for region in self.regions):
            raise ConfigError(f"config.transfer.regions={tuple(self.regions)}: 'image', 'box', both, or () for images")
        if not all(isinstance(shots, int) and shots > 0 for shots in self.curve):
            raise ConfigError(f"config.transfer.curve={tuple(self.curve)}: numbers of images of a class, (1, 5, 15)")
