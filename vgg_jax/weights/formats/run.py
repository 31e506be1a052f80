"""A run of this package: the network of one of its Orbax checkpoints."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from flax import nnx

from vgg_jax.weights.layouts import OURS
from vgg_jax.weights.preprocessing import Preprocessing
from vgg_jax.weights.raw_checkpoint import RawCheckpoint

RUN = "checkpoint of vgg_jax"


def read(path: Path) -> RawCheckpoint:
    """A run's workdir, of which the latest checkpoint is read, or one checkpoint's folder."""
    from vgg_jax import checkpoint  # Orbax takes a second to import

    net, _ = checkpoint.load_network(path)
    state = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(net)))
    mean_rgb = state.pop("mean_rgb")
    tensors = {f"{layer}/{name}": array for layer, arrays in state.items() for name, array in arrays.items()}
    return RawCheckpoint(
        RUN,
        tensors,
        OURS,
        Preprocessing(tuple(mean_rgb)),
        classes=net.classes,
        net=net.spec.name,
        dropout=net.dropout,
    )
