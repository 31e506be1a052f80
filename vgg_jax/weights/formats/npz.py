"""`.npz` by our layer names: conv1_1/kernel (h, w, i, o), conv1_1/bias, ..., fc8/bias; bn1_1/scale, /bias, /mean, /var.

Optional arrays state the preprocessing, `mean_rgb` and `std_rgb` (three numbers each, 0..255), and `classes`, names.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vgg_jax import npz_file
from vgg_jax.errors import CheckpointError
from vgg_jax.weights.layouts import OURS
from vgg_jax.weights.preprocessing import Preprocessing
from vgg_jax.weights.raw_checkpoint import RawCheckpoint


def read(path: Path) -> RawCheckpoint:
    """An `.npz`; without `mean_rgb` in it the preprocessing stays open."""
    tensors = npz_file.arrays(path)
    mean, std = tensors.pop("mean_rgb", None), tensors.pop("std_rgb", None)
    if mean is None and std is not None:
        raise CheckpointError(f"{path}: states std_rgb without mean_rgb; add mean_rgb, in 0..255")
    classes = tensors.pop("classes", np.array([], str))
    if classes.dtype.kind != "U" or classes.ndim != 1:
        raise CheckpointError(f"{path}: classes is {classes.dtype} {classes.shape}; expected a vector of strings")
    preprocessing = None
    if mean is not None:
        preprocessing = Preprocessing(tuple(mean.ravel()), (1, 1, 1) if std is None else tuple(std.ravel()))
    return RawCheckpoint("npz", tensors, OURS, preprocessing, classes=tuple(map(str, classes)))
