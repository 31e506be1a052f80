"""torchvision's state dicts, `.pth`, and timm's: tables of names and the reader, which executes nothing.

torchvision counts every module of `features`, the ReLUs, pools and batch normalizations too; its fc6 is a matrix over
the flattened (channels, h, w). timm has fc6 and fc7 as convolutions `pre_logits.fc1` and `.fc2`, and fc8 as a matrix.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from vgg_jax.errors import CheckpointError
from vgg_jax.model import specs
from vgg_jax.weights.layouts import Layout, renamed
from vgg_jax.weights.preprocessing import PREPROCESSING
from vgg_jax.weights.raw_checkpoint import RawCheckpoint, check_size

ARRAYS = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def names(head: tuple[str, str, str], spec: specs.Spec, batch_norm: bool) -> dict[str, str]:
    """{our name: name in the state dict} of all tensors, given the names of fc6, fc7 and fc8.

    >>> names(("classifier.0", "classifier.3", "classifier.6"), specs.SPECS["A"], False)["conv2_1/kernel"]
    'features.3.weight'
    """
    layers, module = dict(zip(specs.FULLY_CONNECTED, head, strict=True)), 0
    for stage, convolutions in enumerate(spec.stages, start=1):
        for number in range(1, len(convolutions) + 1):
            layers[f"conv{stage}_{number}"], layers[f"bn{stage}_{number}"] = (f"features.{module + i}" for i in (0, 1))
            module += 3 if batch_norm else 2  # its ReLU is a module too
        module += 1  # and so is the pool
    return renamed(spec, batch_norm, layers, ARRAYS, ".")


TORCHVISION = Layout(
    functools.partial(names, ("classifier.0", "classifier.3", "classifier.6")),
    convolution="oihw",
    dense=("o(ihw)", "oihw"),
)
TIMM = Layout(
    functools.partial(names, ("pre_logits.fc1", "pre_logits.fc2", "head.fc")),
    convolution="oihw",
    dense=("oihw", "o(ihw)"),
)


def contents_of(tensors: dict[str, np.ndarray], kind: str) -> RawCheckpoint:
    """A state dict of torchvision's or timm's.

    The counter of batch normalization's batches is dropped. A classifier that is NaN throughout counts as absent: that
    is how torchvision publishes the convolutions trained with the paper's preprocessing, IMAGENET1K_FEATURES.
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
            f"{path} is a file of PyTorch, which is not installed: pip install 'vgg_jax[torch]', or give the same "
            "weights as safetensors"
        ) from error
    saved = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(saved, dict) and isinstance(saved.get(key), dict):
            saved = saved[key]
    if not isinstance(saved, dict):
        raise CheckpointError(f"{path}: holds a {type(saved).__name__}; expected a state dict, {{name: tensor}}")
    tensors, declared = {}, 0
    for name, tensor in saved.items():
        plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_quantized
        if not isinstance(name, str) or not plain or tensor.device.type != "cpu":
            raise CheckpointError(f"{path}: {name!r} is no plain tensor; expected a state dict, {{name: tensor}}")
        declared += tensor.numel() * max(4, tensor.element_size())  # may be more than is stored: strides can be zero
        check_size(path, declared)
        tensors[name] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
    return contents_of(tensors, ".pth")
