"""safetensors, of torchvision's or timm's names: Hugging Face's files and those of `save_torchvision`."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes  # noqa: F401 (so that NumPy knows bfloat16)

from vgg_jax.weights.formats import torchvision
from vgg_jax.weights.preprocessing import Preprocessing
from vgg_jax.weights.raw_checkpoint import RawCheckpoint

METADATA = "vgg_jax"
"""The key under which `save_torchvision` states the preprocessing and the classes, as JSON."""


def read(path: Path) -> RawCheckpoint:
    """A safetensors file; timm's `config.json` beside it is asked for the preprocessing."""
    from safetensors import safe_open

    # Its offsets are checked against the file's length, so nothing can be larger than the file.
    with safe_open(path, framework="numpy") as file:
        contents = torchvision.contents_of({name: file.get_tensor(name) for name in file.keys()}, "safetensors")  # noqa: SIM118
        stated = json.loads((file.metadata() or {}).get(METADATA, "null"))
    if stated:
        contents.preprocessing = Preprocessing.of_unit_range(stated["mean"], stated["std"])
        contents.classes = tuple(map(str, stated["classes"]))
        contents.imagenet = False
    elif (beside := path.with_name("config.json")).is_file():
        config = json.loads(beside.read_text()).get("pretrained_cfg", {})
        if {"mean", "std"} <= set(config):
            contents.preprocessing = Preprocessing.of_unit_range(config["mean"], config["std"])
    return contents
