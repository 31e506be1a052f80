"""`.npz` by our layer names: conv1_1/kernel (h, w, i, o), conv1_1/bias, ..., fc8/bias; bn1_1/scale, /bias, /mean, /var.

Optional arrays state the preprocessing, `mean_rgb` and `std_rgb` (three numbers each, 0..255), and `classes`, names.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from vgg_jax.errors import CheckpointError
from vgg_jax.weights.layouts import OURS
from vgg_jax.weights.preprocessing import Preprocessing
from vgg_jax.weights.raw_checkpoint import Budget, RawCheckpoint


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
      CheckpointError: an array is of Python objects, is cut short, or declares more than a VGG holds.
    """
    found, budget = {}, Budget(path)
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            name = member.removesuffix(".npy")
            with archive.open(member) as file:
                found[name] = _array(file, f"{path}: {name}", lambda *declared, name=name: budget.take(name, *declared))
    return found


def _array(file, label: str, take) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(file)
    if dtype.hasobject or dtype.kind not in "fiubU":
        raise CheckpointError(f"{label} is an array of {dtype}, expected numbers; Python objects are not unpickled")
    size = take(shape, dtype.itemsize)
    data = file.read(size)
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(f"{label} ends after {len(data)} of {size} bytes: damaged; download it again")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
