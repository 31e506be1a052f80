"""MatConvNet's `.mat`: the VGG team's own conversion, RGB, with the mean color and the classes in the file.

Layers are named as the paper names them, their kernels (h, w, i, o), those of fc6 to fc8 too. Until 2015 a layer had
`filters` and `biases` and the file `normalization` and `classes`; later `weights`, and both below `meta`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from vgg_jax.errors import CheckpointError
from vgg_jax.weights import classes as class_names
from vgg_jax.weights.formats import guarded
from vgg_jax.weights.layouts import OURS
from vgg_jax.weights.preprocessing import Preprocessing
from vgg_jax.weights.raw_checkpoint import RawCheckpoint

ROLES = {"filters": "kernel", "biases": "bias", "weights/0": "kernel", "weights/1": "bias"}
LAYER = re.compile(rf"layers/(?P<number>\d+)/(?P<array>{'|'.join(ROLES)})$")


def read(path: Path) -> RawCheckpoint:
    """A `.mat` of a SimpleNN network, its fields at the top level or below `net`."""
    arrays = {name.removeprefix("net/"): array for name, array in guarded.read(path, "MATLAB").items()}
    if any(name.startswith("params/") for name in arrays) or not any(map(LAYER.match, arrays)):
        what = "a DagNN" if "params/name" in arrays or "params/0/name" in arrays else "no network of MatConvNet"
        raise CheckpointError(f"{path}: {what}; expected a SimpleNN one, a cell `layers` and `meta`")
    tensors: dict[str, np.ndarray] = {}
    for place, array in arrays.items():
        if not (found := LAYER.match(place)):
            continue
        layer = "".join(map(str, arrays.get(f"layers/{found['number']}/name", ())))
        name = f"{layer}/{ROLES[found['array']]}"
        if name in tensors:
            raise CheckpointError(f"{path}: {name} is there twice: damaged")
        # MATLAB drops the sides of 1 at a shape's end.
        shape = (-1,) if name.endswith("/bias") else array.shape + (1,) * (4 - array.ndim)
        tensors[name] = array.reshape(shape)
    meta = "meta/" if any(name.startswith("meta/") for name in arrays) else ""
    names = arrays.get(f"{meta}classes/name", np.array([], str))
    contents = RawCheckpoint("MatConvNet", tensors, OURS, None)
    if names.dtype.kind == "U":
        contents.classes = tuple(class_names.labeled(str(name)) for name in names.ravel("F"))
    average = arrays.get(f"{meta}normalization/averageImage", np.array([]))
    if average.dtype.kind != "U" and average.size and average.size % 3 == 0:
        colors = average.reshape(-1, 3).astype(np.float64)
        mean = tuple(colors.mean(0).tolist())
        if np.ptp(colors, axis=0).max() < 1e-3:  # of 255
            contents.preprocessing = Preprocessing(mean)
        else:
            contents.because = f"subtracts an image, our networks a color; the mean of the image is {mean}"
    return contents
