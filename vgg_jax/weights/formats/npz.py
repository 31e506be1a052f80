"""`.npz` by our layer names: conv1_1/kernel (h, w, i, o), conv1_1/bias, ..., fc8/bias; bn1_1/scale, /bias, /mean, /var.

Optional arrays state the preprocessing, `mean_rgb` and `std_rgb` (three numbers each, 0..255), and `classes`, names.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from vgg_jax.errors import CheckpointError
from vgg_jax.weights.layouts import OURS
from vgg_jax.weights.preprocessing import Preprocessing
from vgg_jax.weights.raw_checkpoint import RawCheckpoint


def read(path: Path) -> RawCheckpoint:
    """An `.npz`; without `mean_rgb` in it the preprocessing stays open."""
    tensors = arrays(path)
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


def arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an `.npz`, without the help of pickle.

    Raises:
      CheckpointError: it is no zip; or a member is no array of numbers or strings, or is cut short.
    """
    found = {}
    if path.is_file() and not zipfile.is_zipfile(path):  # NumPy would take it for a pickle, and advise to load that
        raise CheckpointError(f"{path} is no .npz")
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        for name in file.files:
            try:
                array = file[name]
            except Exception as error:  # also a shape that does not fit into memory
                raise CheckpointError(f"{path}: {name} cannot be read: {error}") from error
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiubU":
                kind = array.dtype if isinstance(array, np.ndarray) else "bytes"
                raise CheckpointError(f"{path}: {name} is an array of {kind}, expected numbers")
            found[name] = array
    return found
