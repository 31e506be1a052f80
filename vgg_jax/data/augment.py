"""Augmentation on the device: horizontal flip and RGB colour shift (Sec. 3.1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8


def augment(
    images: UInt8[Array, "n h w 3"],
    keys: Key[Array, " n"],
    *,
    flip: bool,
    color_shift: float,
    eigenvalues: Float[Array, 3],
    eigenvectors: Float[Array, "3 3"],
) -> Float[Array, "n h w 3"]:
    """Flips each image with probability 1/2 and shifts its colour along the training set's principal components.

    The shift is Krizhevsky's (2012, Sec. 4.1): to every pixel of an image is added [p1 p2 p3][a1 l1, a2 l2, a3 l3]^T,
    with a ~ N(0, color_shift) drawn once an image, p and l being the eigenvectors and eigenvalues of the covariance of
    RGB values in [0, 1]; the sum is scaled to 0..255 here. Nothing is clipped, as in the original.

    Args:
      images: RGB in 0..255.
      keys: one PRNG key an image: its draws do not depend on its place in a batch.
      flip: whether to flip; digits and letters must not be.
      color_shift: deviation of a, 0.1 in the paper, 0 for none.
      eigenvalues, eigenvectors: of the training set's colours; component i is eigenvectors[:, i].

    Returns:
      float32 RGB around 0..255.
    """
    draws = jax.vmap(lambda key: jax.random.split(key, 2))(keys)
    x = images.astype(jnp.float32)
    if flip:
        mirrored = jax.vmap(jax.random.bernoulli)(draws[:, 0])
        x = jnp.where(mirrored[:, None, None, None], x[:, :, ::-1], x)
    if color_shift:
        a = color_shift * jax.vmap(lambda key: jax.random.normal(key, (3,)))(draws[:, 1])
        x = x + (255.0 * (a * eigenvalues) @ eigenvectors.T)[:, None, None, :]
    return x
