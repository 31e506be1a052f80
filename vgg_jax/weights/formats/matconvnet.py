"""MatConvNet's `.mat`: the VGG team's own conversion, RGB, with the mean color and the classes in the file.

Layers are named as the paper names them, their kernels (h, w, i, o), those of fc6 to fc8 too. Until 2015 a layer had
`filters` and `biases` and the file `normalization` and `classes`; later `weights`, and both below `meta`.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from vgg_jax.errors import CheckpointError
from vgg_jax.weights import classes as class_names
from vgg_jax.weights.formats import matlab
from vgg_jax.weights.layouts import OURS
from vgg_jax.weights.preprocessing import Preprocessing
from vgg_jax.weights.raw_checkpoint import MAX_FILE, Budget, RawCheckpoint


def read(path: Path) -> RawCheckpoint:
    """A `.mat` of a SimpleNN network, its fields at the top level or below `net`."""
    with path.open("rb") as file:
        variables = matlab.variables(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), MAX_FILE)
    net = variables.get("net", variables)
    if not isinstance(net, dict) or "params" in net or not isinstance(net.get("layers"), list):
        what = "a DagNN" if isinstance(net, dict) and "params" in net else "no network of MatConvNet"
        raise CheckpointError(f"{path}: {what}; expected a SimpleNN one, a cell `layers` and `meta`")
    tensors, budget = {}, Budget(path)
    for layer in net["layers"]:
        if not isinstance(layer, dict):
            raise CheckpointError(f"{path}: a layer is no struct: damaged")
        arrays = _weights(layer)
        for array, role in zip(arrays, ("kernel", "bias")):
            name = f"{layer.get('name')}/{role}"
            if not isinstance(array, np.ndarray) or name in tensors:
                raise CheckpointError(f"{path}: {name} is no array, or is there twice: damaged")
            budget.take(name, array.shape, array.itemsize)
            # MATLAB drops the sides of 1 at a shape's end.
            tensors[name] = array.ravel() if role == "bias" else array.reshape(array.shape + (1,) * (4 - array.ndim))
    meta = net["meta"] if isinstance(net.get("meta"), dict) else net
    contents = RawCheckpoint("MatConvNet", tensors, OURS, None, classes=_classes(meta.get("classes")))
    colors = _average(meta.get("normalization"))
    if colors is not None:
        mean = tuple(colors.mean(0).tolist())
        if np.ptp(colors, axis=0).max() < 1e-3:  # of 255
            contents.preprocessing = Preprocessing(mean)
        else:
            contents.because = f"subtracts an image, our networks a color; the mean of the image is {mean}"
    return contents


def _weights(layer: dict[str, Any]) -> list[Any]:
    """Kernel and bias of a layer, or nothing."""
    if isinstance(layer.get("weights"), list):
        return layer["weights"][:2]
    return [layer["filters"], layer["biases"]] if {"filters", "biases"} <= set(layer) else []


def _average(normalization: Any) -> np.ndarray | None:
    """The colors, (n, 3), of the image that is subtracted; None if there is none."""
    average = normalization.get("averageImage") if isinstance(normalization, dict) else None
    if not isinstance(average, np.ndarray) or not average.size or average.size % 3:
        return None
    return average.reshape(-1, 3).astype(np.float64)


def _classes(classes: Any) -> tuple[str, ...]:
    """The names in the columns' order, `n01440764 tench` where they are ImageNet's ids."""
    names = classes.get("name", []) if isinstance(classes, dict) else []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(map(class_names.labeled, names))
