"""Distances between images as a net sees them: content, style (Gatys et al. 2016) and LPIPS (Zhang et al. 2018).

Each is a function of a net and of two batches of images (RGB in 0..255), gives one number per pair, and may be
differentiated and compiled. The net should be an argument of what is compiled: otherwise its parameters are
constants, on which XLA spends a long time:

    distances = jax.jit(lpips)(net, linear, a, b)
    gradient = jax.jit(jax.grad(lambda a, net, b: style_distance(net, a, b).sum()))(a, net, b)

The net is computed up to the last activation that is needed. Images may thus be smaller than its crop, and its head as
small as one unit: `VGG("D", crop=32, hidden=1, num_classes=1, rngs=...)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import jax.numpy as jnp
import numpy as np

from vgg_jax import npz_file
from vgg_jax.errors import CheckpointError, ConfigError
from vgg_jax.model.images import check_images
from vgg_jax.model.vgg import VGG

if TYPE_CHECKING:
    from jaxtyping import Array, Float, UInt8

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
"""Those of Gatys et al., who name them after the convolutions: Caffe's ReLU overwrites what it is given."""

LPIPS_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
"""Those of net D under LPIPS."""

Images: TypeAlias = "Float[Array, 'n h w 3'] | UInt8[Array, 'n h w 3']"


def content_distance(net: VGG, a: Images, b: Images, layer: str = "relu4_2") -> Float[Array, " n"]:
    """The mean squared difference of two images' activations (Johnson et al. 2016, arXiv 1603.08155, Eq. 2).

    The sum of Gatys et al. is h * w * channels / 2 times as large.

    Args:
      net: any net.
      a, b: images of one size, in 0..255; one of the batches may hold a single image.
      layer: name of an activation.

    Raises:
      ConfigError: sizes or batches do not fit each other; the net has no such activation.
    """
    _check_pairs(a, b)
    of_a, of_b = (net.activations_of(images, (layer,))[layer].astype(jnp.float32) for images in (a, b))
    return jnp.square(of_a - of_b).mean((1, 2, 3))


def gram(activation: Float[Array, "n h w c"]) -> Float[Array, "n c c"]:
    """Products of an activation's channels, averaged over places and channels (Johnson et al. 2016, Eq. 3).

    Raises:
      ConfigError: it is of another rank.

    >>> gram(jnp.array([[[[1.0, 2.0]], [[3.0, 0.0]]]])).tolist()  # two places, two channels
    [[[2.5, 0.5], [0.5, 1.0]]]
    """
    if jnp.ndim(activation) != 4:
        raise ConfigError(f"an activation of shape {jnp.shape(activation)}: expected (n, h, w, channels)")
    _, height, width, channels = activation.shape
    x = activation.astype(jnp.float32)
    return jnp.einsum("nhwc,nhwk->nck", x, x) / (height * width * channels)


def style_distance(net: VGG, a: Images, b: Images, layers: Sequence[str] = STYLE_LAYERS) -> Float[Array, " n"]:
    """The squared difference of two images' Gram matrices, summed over their entries and over layers.

    Johnson et al. 2016, Eq. 4, for each layer. With five layers the loss of Gatys et al. 2016 is a twentieth of it:
    1/4 from their Eq. 4, 1/5 for the layers' weights.

    Args:
      net: any net.
      a, b: images in 0..255; the sizes of `a` and `b` may differ, and one of the batches may hold a single image.
      layers: names of activations.

    Raises:
      ConfigError: the batches do not fit each other; the net has no such activation.
    """
    _check_pairs(a, b, one_size=False)
    of_a, of_b = net.activations_of(a, layers), net.activations_of(b, layers)
    return sum(jnp.square(gram(of_a[layer]) - gram(of_b[layer])).sum((1, 2)) for layer in layers)


def lpips(net: VGG, linear: Mapping[str, Float[Array, " c"]], a: Images, b: Images) -> Float[Array, " n"]:
    """LPIPS, version 0.1: learned weights on the differences of normalized activations (arXiv 1801.03924, Eq. 1).

    At every place the activations are scaled to length 1 over the channels; the squared difference is weighted by
    `linear`, summed over the channels, averaged over the places and summed over the layers.

    Args:
      net: with the published `linear`, net D with torchvision's weights. Its mean and conv1_1 stand in for the
        reference's scaling of [-1, 1], whose constants are torchvision's mean and standard deviation.
      linear: {activation: a weight for each channel}, as `read_lpips_linear` gives them.
      a, b: images of one size, in 0..255; one of the batches may hold a single image.

    Raises:
      ConfigError: sizes or batches do not fit each other, or `linear` does not fit the net.
    """
    _check_pairs(a, b)
    of_a, of_b = net.activations_of(a, tuple(linear)), net.activations_of(b, tuple(linear))
    distance = 0.0
    for layer, weights in linear.items():
        if jnp.shape(weights) != of_a[layer].shape[-1:]:
            raise ConfigError(
                f"linear weights for {layer} of shape {jnp.shape(weights)}: it has {of_a[layer].shape[-1]} channels"
            )
        squares = jnp.square(_unit(of_a[layer]) - _unit(of_b[layer]))
        distance += (squares * jnp.asarray(weights)).sum(-1).mean((1, 2))
    return distance


def read_lpips_linear(path: str | Path) -> dict[str, Float[Array, " c"]]:
    """LPIPS's published weights for net D, by activation.

    Args:
      path: `lpips/weights/v0.1/vgg.pth` of the package `lpips` (reading it takes torch; no code in it is run), or an
        .npz of such weights: `np.savez("lpips.npz", **read_lpips_linear("vgg.pth"))` makes one.

    Raises:
      CheckpointError: the file cannot be read; a layer is missing or unexpected; a weight is negative or not finite.
    """
    path = Path(path)
    try:
        if path.suffix == ".pth":
            import torch

            # The package's names: lin0 to lin4, after a dropout.
            names = {f"lin{number}.model.1.weight": layer for number, layer in enumerate(LPIPS_LAYERS)}
            tensors = torch.load(path, map_location="cpu", weights_only=True)
            arrays = {names.get(name, name): tensor.numpy().reshape(-1) for name, tensor in tensors.items()}
        else:
            arrays = npz_file.arrays(path)
    except ImportError as error:
        raise CheckpointError(f"{path}: .pth takes torch: pip install 'vgg_jax[torch]'; .npz does not") from error
    except Exception as error:  # a damaged file fails anywhere, in either library: it is the file's fault
        raise CheckpointError(f"{path}: not a readable file of LPIPS weights: {error}") from error
    if set(arrays) != set(LPIPS_LAYERS):
        raise CheckpointError(
            f"{path}: expected LPIPS weights for {', '.join(LPIPS_LAYERS)}; found {', '.join(arrays)}"
        )
    for layer, weights in arrays.items():
        if weights.ndim != 1 or weights.dtype.kind != "f" or not np.all(np.isfinite(weights) & (weights >= 0)):
            raise CheckpointError(f"{path}: the weights for {layer} are not one finite number >= 0 for each channel")
    return {layer: jnp.asarray(arrays[layer], jnp.float32) for layer in LPIPS_LAYERS}


def _unit(activation: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """The activation scaled to length 1 at each place; where it is zero it stays so, with a gradient of zero."""
    x = activation.astype(jnp.float32)
    squares = jnp.square(x).sum(-1, keepdims=True)
    # The square root of zero has no gradient, and 0 times that would be no number.
    return jnp.where(squares > 0, x / (jnp.sqrt(jnp.where(squares > 0, squares, 1)) + 1e-10), 0)


def _check_pairs(a: Images, b: Images, one_size: bool = True) -> None:
    for images in (a, b):
        check_images(images)
    if a.shape[0] != b.shape[0] and 1 not in (a.shape[0], b.shape[0]):
        raise ConfigError(f"{a.shape[0]} images cannot be paired with {b.shape[0]}: give as many, or one")
    if one_size and a.shape[1:] != b.shape[1:]:
        raise ConfigError(f"images of shapes {a.shape} and {b.shape}: this distance compares images of one size")
