"""Augmentation on the device: horizontal flip and RGB color shift (Sec. 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from vgg_jax.data.boxes import mirrored

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Key


def augment(
    batch: dict[str, Array],
    keys: Key[Array, " n"],
    *,
    flip: bool,
    color_shift: float,
    eigenvalues: Float[Array, 3],
    eigenvectors: Float[Array, "3 3"],
) -> dict[str, Array]:
    """Flips each image with probability 1/2 and shifts its color along the training set's principal components.

    The shift is Krizhevsky's (2012, Sec. 4.1): to every pixel of an image is added [p1 p2 p3][a1 l1, a2 l2, a3 l3]^T,
    with a ~ N(0, color_shift) drawn once per image, p and l being the eigenvectors and eigenvalues of the covariance of
    RGB values in [0, 1]; the sum is scaled to 0..255 here. Nothing is clipped, as in the original.

    Args:
      batch: `image` (n, h, w, 3), RGB in 0..255; `boxes` (n, ..., 4), if there are any: center x, center y, width and
        height relative to the image, in [0, 1]. The rest of it stays.
      keys: one PRNG key per image: its draws do not depend on its place in a batch.
      flip: whether to flip; digits and letters must not be.
      color_shift: deviation of a, 0.1 in the paper, 0 for none.
      eigenvalues, eigenvectors: of the training set's colors; component i is eigenvectors[:, i].

    Returns:
      The batch; its `image` is float32 RGB around 0..255.
    """
    draws = jax.vmap(lambda key: jax.random.split(key, 2))(keys)
    image, changed = batch["image"], {}
    if flip:
        flipped = jax.vmap(jax.random.bernoulli)(draws[:, 0])
        choose = jax.vmap(jnp.where)
        image = choose(flipped, image[:, :, ::-1], image)
        if "boxes" in batch:
            changed["boxes"] = choose(flipped, mirrored(batch["boxes"]), batch["boxes"])
    image = jnp.asarray(image, jnp.float32)  # only now: the flip moved bytes
    if color_shift:
        a = color_shift * jax.vmap(lambda key: jax.random.normal(key, (3,)))(draws[:, 1])
        image += (255.0 * (a * eigenvalues) @ eigenvectors.T)[:, None, None, :]
    return batch | changed | {"image": image}
