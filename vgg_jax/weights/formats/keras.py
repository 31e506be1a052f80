"""Keras's VGG16 and VGG19: legacy `.h5`, Keras 3's `.weights.h5` and `.keras`.

The published ones are the paper's Caffe weights with the classes in sorted order. A legacy file has a group per layer,
`block1_conv1`, with a kernel and a bias somewhere in it under names that changed over the years. A Keras 3 file counts
the layers of each class, `layers/conv2d_1/vars/0`. Its fc6 is a matrix over the flattened (h, w, channels).
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np

from vgg_jax.errors import CheckpointError
from vgg_jax.model import specs
from vgg_jax.weights.formats import guarded
from vgg_jax.weights.layouts import Layout, renamed
from vgg_jax.weights.preprocessing import PREPROCESSING
from vgg_jax.weights.raw_checkpoint import RawCheckpoint

WEIGHTS = "model.weights.h5"
"""The member of a `.keras` archive that holds the arrays."""


def legacy_names(spec: specs.Spec, batch_norm: bool = False) -> dict[str, str]:
    """{our name: name in a legacy `.h5`}.

    >>> legacy_names(specs.SPECS["D"])["conv3_2/kernel"]
    'block3_conv2/kernel'
    """
    layers = {layer: f"block{layer[4]}_conv{layer[6:]}" for layer in spec.convolutions}
    layers |= {"fc6": "fc1", "fc7": "fc2", "fc8": "predictions"}
    return renamed(spec, batch_norm, layers, {"kernel": "kernel", "bias": "bias"})


def counted_names(spec: specs.Spec, batch_norm: bool = False) -> dict[str, str]:
    """{our name: name in Keras 3's files}.

    >>> counted_names(specs.SPECS["D"])["conv1_2/bias"]
    'layers/conv2d_1/vars/1'
    """
    layers = {layer: f"layers/conv2d_{number}" for number, layer in enumerate(spec.convolutions)}
    layers |= {"conv1_1": "layers/conv2d", "fc6": "layers/dense", "fc7": "layers/dense_1", "fc8": "layers/dense_2"}
    return renamed(spec, batch_norm, layers, {"kernel": "vars/0", "bias": "vars/1"})


LEGACY = Layout(legacy_names, convolution="hwio", dense=("(hwi)o",), batch_norm=False)
COUNTED = Layout(counted_names, convolution="hwio", dense=("(hwi)o",), batch_norm=False)


def read(path: Path) -> RawCheckpoint:
    """A `.h5`, of weights or of a whole model."""
    datasets = guarded.read(path, "HDF5")
    if any(name.startswith("layers/") for name in datasets):
        tensors = {name: array for name, array in datasets.items() if not name.startswith("optimizer/")}
        return RawCheckpoint("Keras 3 weights", tensors, COUNTED, PREPROCESSING["caffe"], imagenet=True)
    tensors: dict[str, np.ndarray] = {}
    for name, array in datasets.items():
        if name.startswith("optimizer_weights/"):
            continue
        layer = name.removeprefix("model_weights/").split("/")[0]
        role = f"{layer}/{'bias' if array.ndim == 1 else 'kernel'}"
        if role in tensors:
            raise CheckpointError(f"{path}: the layer {layer!r} has two of a {role.split('/')[1]}, {name} the second")
        tensors[role] = array
    return RawCheckpoint("legacy Keras .h5", tensors, LEGACY, PREPROCESSING["caffe"], imagenet=True)


def read_archive(path: Path) -> RawCheckpoint:
    """A `.keras`: of its model only the arrays are read, none of its code."""
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory(prefix="vgg_jax_") as folder:
        return read(Path(archive.extract(WEIGHTS, folder)))
