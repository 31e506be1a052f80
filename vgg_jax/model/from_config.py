"""The network that a config describes (Sec. 2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from vgg_jax.model.vgg import VGG


def new_network(config: ConfigDict, outputs: int, dtype: jnp.dtype) -> VGG:
    """The network of a config, randomly initialized from its seed.

    Args:
      outputs: channels of its last layer.
      dtype: of the computation.
    """
    model = config.model
    return VGG(
        model.net,
        num_classes=outputs,
        crop=config.data.crop,
        width=model.width,
        hidden=model.hidden or None,
        dropout=model.dropout,
        batch_norm=model.batch_norm,
        init=config.init.scheme,
        dtype=dtype,
        remat=model.remat,
        rngs=nnx.Rngs(params=config.seed),
    )


def computation_dtype(config: ConfigDict, backend: str | None = None) -> jnp.dtype:
    """float32 or bfloat16, as `config.model.dtype` says; `auto` is bfloat16 wherever it is not emulated.

    Args:
      backend: "cpu", or any other for an accelerator; by default JAX's own.
    """
    if config.model.dtype == "auto":
        return jnp.dtype(jnp.float32 if (backend or jax.default_backend()) == "cpu" else jnp.bfloat16)
    return jnp.dtype(config.model.dtype)
