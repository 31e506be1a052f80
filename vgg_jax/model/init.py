"""Initialization: the schemes of Sec. 3.1, and growing a deep net from a trained shallow one."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vgg_jax.errors import ConfigError, did_you_mean
from vgg_jax.model.match import match, shapes_of
from vgg_jax.model.specs import FULLY_CONNECTED

INPUT_GAIN = 256.0
"""What pixels and pools add to the scale of the scores: a deviation of about 64 in 0..255, and about 4 over five
max-pools. The published schemes assume inputs of deviation 1 and no pools."""

SCHEMES = ("paper", "gaussian", "glorot", "he")
"""The weights' first distribution, by name; biases are zero at first in all.

In brackets the deviation of the first scores on photographs at 224 pixels, net A at full width and D at a quarter.

`paper`     N(0, variance 1e-2), as Sec. 3.1 writes it (1e8, 6e5): for the shallow net A as written, and its loss starts
            in the millions even there. To study what was written.
`gaussian`  N(0, deviation 1e-2), as the published ports have it (1e-3, 6e-11): activations shrink in every layer. Net A
            can train from it; the nets from B on stay at a loss of ln(classes) unless grown (below) or normalized.
`glorot`    Glorot and Bengio (2010), uniform: "it is possible to initialise the weights without pre-training" (0.7,
            0.1). The default. It does not count the ReLU, so activations shrink by about 0.7 a layer, which the pixels'
            scale makes up for.
`he`        He et al. (2015), normal, made for ReLU: variance 2 / fan-in, which keeps the activations' scale at any
            depth (1.2, 0.6), divided by 256^(1 / layers) a layer for the scale of pixels and pools, so that all layers
            learn at one rate. The surest choice for narrow nets and small data.
"""


def initializer(scheme: str, layers: int) -> Callable[[jax.Array, tuple[int, ...], jnp.dtype], jax.Array]:
    """The initializer of the kernels, a function of key, shape and dtype, by its name in `SCHEMES`.

    It samples with NumPy on the host: JAX would compile a program for each of a net's shapes, seconds for a deep one.

    Args:
      scheme: the name.
      layers: the weight layers of the net.

    Raises:
      ConfigError: no such scheme.
    """
    if scheme not in SCHEMES:
        raise ConfigError(
            f"no initialization {scheme!r}: there are {', '.join(SCHEMES)}{did_you_mean(scheme, SCHEMES)}"
        )

    def sample(words: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(np.asarray(words).tolist())))
        window = math.prod(shape[:-2])
        fan_in, fan_out = window * shape[-2], window * shape[-1]
        if scheme == "glorot":
            bound = np.float32(math.sqrt(6 / (fan_in + fan_out)))
            return generator.random(shape, np.float32) * (2 * bound) - bound
        he = math.sqrt(2 / fan_in) / INPUT_GAIN ** (1 / layers)
        deviation = {"paper": 0.1, "gaussian": 0.01, "he": he}[scheme]
        return generator.standard_normal(shape, np.float32) * np.float32(deviation)

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        words = jax.random.key_data(key)
        if not isinstance(words, jax.core.Tracer):
            return jnp.asarray(sample(words, tuple(shape)), dtype)
        # A callback, so that `eval_shape` samples nothing and a jitted constructor works too.
        result = jax.ShapeDtypeStruct(shape, jnp.float32)
        return jax.pure_callback(lambda words: sample(words, tuple(shape)), result, words).astype(dtype)

    return initialize


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """The initializer of the biases; on the host too, as the kernels'."""
    del key
    return jnp.asarray(np.zeros(shape, dtype))


def grow_from(params: dict, donor: dict) -> tuple[dict, list[str]]:
    """A deep net's parameters with the first four convolutions and the three FC layers of a trained shallower one.

    Sec. 3.1 says "the first four convolutional layers"; in Table 1 only layers of one name have one shape (A's second
    convolution is 64 to 128, D's is 64 to 64), so they are copied by name: from A they are conv1_1, conv2_1, conv3_1
    and conv3_2.

    Args:
      params: the deep net's parameters, randomly initialized, {layer: {"kernel": ..., "bias": ...}}.
      donor: the trained net's parameters, likewise.

    Returns:
      The parameters, and the names of the layers that stay randomly initialized.

    Raises:
      ConfigError: a layer to copy is missing in the deep net or of another shape.
    """
    convolutions = sorted(layer for layer in donor if layer.startswith("conv"))
    copied = [*convolutions[:4], *FULLY_CONNECTED]
    here, there = ({layer: net[layer] for layer in copied if layer in net} for net in (params, donor))
    if mismatch := match(shapes_of(here), shapes_of(there)):
        raise ConfigError(
            f"cannot grow from this net: {mismatch}; grow B to E from A, both of the same width, crop and classes"
        )
    return params | there, [layer for layer in params if layer not in there]
