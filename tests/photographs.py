"""Images and networks for tests of posteriors and features, with Pillow's rescaling."""

from fractions import Fraction
from math import floor

import jax
import numpy as np
from flax import nnx
from PIL import Image

from tests.oracles import reference


def image_of(size, seed):
    """Coarse patches of color and a little noise."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.clip(np.asarray(patches) + rng.integers(-20, 21, (*size, 3)), 0, 255).astype(np.uint8)


def rescaled(image, scale):
    """Pillow's, to sides that are exact and rounded half up."""
    factor = Fraction(scale, min(image.shape[:2]))
    height, width = (floor(side * factor + Fraction(1, 2)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def with_spread_scores(net):
    """The net with biases, and with class scores that a soft-max spreads over the classes, differently by image."""
    rng = np.random.default_rng(1)
    biased = lambda a: a + 0.1 * rng.normal(size=a.shape).astype(np.float32) * (a.ndim == 1)
    nnx.update(net, jax.tree.map(biased, nnx.state(net, nnx.Param)))
    crops = np.stack([image_of((net.crop, net.crop), seed) for seed in range(16)])
    scores = reference(net, crops)["fc8"][:, 0, 0]
    net.fc8.kernel[...] /= scores.std(0).mean()
    net.fc8.bias[...] = (net.fc8.bias[...] - scores.mean(0)) / scores.std(0).mean()
    return net
