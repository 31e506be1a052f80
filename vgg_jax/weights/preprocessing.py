"""One input convention: any published preprocessing, folded into the mean color and conv1_1 (Sec. 2.1).

A mean/std net computes conv((x / 255 - m) / s) = conv((x - 255 m) / (255 s)), so the mean color is 255 m and conv1_1's
kernel is divided by 255 s for each input channel. The zero padding stands after the subtraction in both, so the fold is
exact at the borders too; folding the mean into the bias would not be. A BGR net has conv1_1's input channels swapped.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from vgg_jax.errors import ConfigError, did_you_mean
from vgg_jax.model.images import check_color
from vgg_jax.model.vgg import IMAGENET_MEAN_RGB


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What the original network is fed: (pixel - mean) / std, pixels in 0..255.

    Args:
      mean_rgb: subtracted from every pixel, in the order red, green, blue, 0..255.
      std_rgb: then divided by, likewise.
      bgr: whether the network takes the channels in the order blue, green, red.

    Raises:
      ConfigError: the mean is no color in 0..255, or a deviation no positive number.

    >>> Preprocessing.of_unit_range((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).mean_rgb
    (123.675, 116.28, 103.53)
    """

    mean_rgb: tuple[float, float, float]
    std_rgb: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False

    def __post_init__(self):
        object.__setattr__(self, "mean_rgb", check_color("mean_rgb", self.mean_rgb))
        object.__setattr__(self, "std_rgb", check_color("std_rgb", self.std_rgb))
        if min(self.std_rgb) <= 0:
            raise ConfigError(f"std_rgb={self.std_rgb}: a deviation is positive; (1, 1, 1) divides by nothing")

    @classmethod
    def of_unit_range(cls, mean: tuple[float, ...], std: tuple[float, ...]) -> Preprocessing:
        """The same said in [0, 1], as torchvision's `Normalize(mean, std)` after `ToTensor()` has it."""
        return cls(tuple(round(255 * m, 9) for m in mean), tuple(round(255 * s, 9) for s in std))

    def folded(self, kernel: np.ndarray) -> np.ndarray:
        """The kernel of conv1_1, (h, w, 3, o), for RGB in 0..255 with nothing done but the mean subtracted."""
        if self.bgr:
            kernel = kernel[:, :, ::-1]
        with np.errstate(over="ignore"):  # the caller looks
            return (kernel / np.asarray(self.std_rgb).reshape(3, 1)).astype(np.float32)


PREPROCESSING: dict[str, Preprocessing] = {
    "torchvision": Preprocessing.of_unit_range((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "torchvision-features": Preprocessing.of_unit_range((0.48235, 0.45882, 0.40784), (1 / 255,) * 3),
    "caffe": Preprocessing(IMAGENET_MEAN_RGB, bgr=True),
    "rgb": Preprocessing(IMAGENET_MEAN_RGB),
}
"""The published ones by name.

`torchvision`           RGB in [0, 1], mean (.485, .456, .406), std (.229, .224, .225): torchvision's and timm's.
`torchvision-features`  torchvision's VGG16_Weights.IMAGENET1K_FEATURES: the mean alone, in RGB.
`caffe`                 BGR in 0..255 minus (103.939, 116.779, 123.68): the paper's released weights, and Keras's.
`rgb`                   RGB in 0..255 minus (123.68, 116.779, 103.939): MatConvNet's.
"""


def preprocessing_of(choice: str | Preprocessing) -> Preprocessing:
    """A preprocessing by name, or itself.

    Raises:
      ConfigError: no such name; the message lists them.
    """
    if isinstance(choice, Preprocessing):
        return choice
    if choice not in tuple(PREPROCESSING):
        raise ConfigError(
            f"preprocessing={choice!r}: there are {', '.join(PREPROCESSING)}, or a "
            f"Preprocessing(mean_rgb, std_rgb, bgr){did_you_mean(choice, PREPROCESSING)}"
        )
    return PREPROCESSING[choice]
