"""torchvision's state dicts, `.pth`, and timm's: tables of names and the reader, which executes nothing.

torchvision counts every module of `features`, the ReLUs, pools and batch normalizations too; its fc6 is a matrix over
the flattened (channels, h, w). timm has fc6 and fc7 as convolutions `pre_logits.fc1` and `.fc2`, and fc8 as a matrix.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from vgg_jax.errors import CheckpointError
from vgg_jax.model import specs
from vgg_jax.weights.layouts import Layout
from vgg_jax.weights.preprocessing import PREPROCESSING
from vgg_jax.weights.raw_checkpoint import MAX_FILE, Budget, RawCheckpoint

TORCHVISION_HEAD = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
TIMM_HEAD = {"fc6": "pre_logits.fc1", "fc7": "pre_logits.fc2", "fc8": "head.fc"}


def torchvision_names(spec: specs.Spec, batch_norm: bool) -> dict[str, str]:
    """{our name: torchvision's name} of all tensors.

    >>> torchvision_names(specs.SPECS["A"], False)["conv2_1/kernel"]
    'features.3.weight'
    """
    return _features(spec, batch_norm) | _head(TORCHVISION_HEAD)


def timm_names(spec: specs.Spec, batch_norm: bool) -> dict[str, str]:
    """{our name: timm's name} of all tensors."""
    return _features(spec, batch_norm) | _head(TIMM_HEAD)


TORCHVISION = Layout(torchvision_names, convolution="oihw", dense=("o(ihw)", "oihw"))
TIMM = Layout(timm_names, convolution="oihw", dense=("oihw", "o(ihw)"))


def contents_of(tensors: dict[str, np.ndarray], kind: str) -> RawCheckpoint:
    """A state dict of torchvision's or timm's.

    The counter of batch normalization's batches is dropped. A classifier that is NaN throughout counts as absent: so
    does torchvision publish the convolutions trained with the paper's preprocessing, IMAGENET1K_FEATURES.
    """
    tensors = {
        name.removeprefix("module."): tensor
        for name, tensor in tensors.items()
        if not name.endswith(".num_batches_tracked")
    }
    timm = any(name.startswith(("pre_logits.", "head.")) for name in tensors)
    preprocessing = PREPROCESSING["torchvision"]
    head = {name: tensor for name, tensor in tensors.items() if name.startswith("classifier.")}
    if head and all(tensor.dtype.kind == "f" and np.isnan(tensor).all() for tensor in head.values()):
        tensors = {name: tensor for name, tensor in tensors.items() if name not in head}
        preprocessing = PREPROCESSING["torchvision-features"]
    family = "timm" if timm else "torchvision"
    return RawCheckpoint(f"{family} {kind}", tensors, TIMM if timm else TORCHVISION, preprocessing, imagenet=True)


def read(path: Path) -> RawCheckpoint:
    """A file of `torch.save`, of a state dict or of a training checkpoint around one.

    Raises:
      CheckpointError: torch is not installed, or the file holds more than tensors, which is not executed.
    """
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a file of PyTorch, which is not installed: pip install torch, or give the same weights as "
            "safetensors"
        ) from error
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            declared = sum(entry.file_size for entry in archive.infolist())
        if declared > MAX_FILE:
            raise CheckpointError(
                f"{path}: declares {declared:.1e} bytes when unpacked; no VGG has over {MAX_FILE:.1e}: damaged or "
                "hostile"
            )
    saved = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(saved, dict) and isinstance(saved.get(key), dict):
            saved = saved[key]
    if not isinstance(saved, dict):
        raise CheckpointError(f"{path}: holds a {type(saved).__name__}; expected a state dict, {{name: tensor}}")
    tensors, budget = {}, Budget(path)
    for name, tensor in saved.items():
        plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_quantized
        if not isinstance(name, str) or not plain or tensor.device.type != "cpu":
            raise CheckpointError(f"{path}: {name!r} is no plain tensor; expected a state dict, {{name: tensor}}")
        budget.take(name, tuple(tensor.shape), max(4, tensor.element_size()))
        tensors[name] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
    return contents_of(tensors, ".pth")


def _features(spec: specs.Spec, batch_norm: bool) -> dict[str, str]:
    table, index = {}, 0
    for stage, convolutions in enumerate(spec.stages, start=1):
        for number in range(1, len(convolutions) + 1):
            name = f"{stage}_{number}"
            table |= {
                f"conv{name}/kernel": f"features.{index}.weight",
                f"conv{name}/bias": f"features.{index}.bias",
            }
            if batch_norm:
                index += 1
                table |= {
                    f"bn{name}/scale": f"features.{index}.weight",
                    f"bn{name}/bias": f"features.{index}.bias",
                    f"bn{name}/mean": f"features.{index}.running_mean",
                    f"bn{name}/var": f"features.{index}.running_var",
                }
            index += 2  # the ReLU, the next module
        index += 1  # the pool
    return table


def _head(head: dict[str, str]) -> dict[str, str]:
    return {
        f"{ours}/{array}": f"{theirs}.{kind}"
        for ours, theirs in head.items()
        for array, kind in (("kernel", "weight"), ("bias", "bias"))
    }
