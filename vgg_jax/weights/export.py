"""Back to PyTorch: a network trained here as a state dict of torchvision's."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from vgg_jax.errors import ConfigError
from vgg_jax.files import check_replaceable, writing, written_aside
from vgg_jax.model.specs import ALIASES
from vgg_jax.model.vgg import VGG
from vgg_jax.weights.formats.safetensors import METADATA
from vgg_jax.weights.formats.torchvision import TORCHVISION
from vgg_jax.weights.layouts import stored_shape
from vgg_jax.weights.preprocessing import PREPROCESSING


def save_torchvision(net: VGG, path: str | Path) -> dict[str, tuple[float, ...]]:
    """Saves a network as safetensors with torchvision's names and shapes, `features.0.weight` and so on.

    The saved network is fed as torchvision's are, RGB in [0, 1] through `Normalize(mean, std)`: `std` is torchvision's
    (0.229, 0.224, 0.225), `mean` the network's own color / 255, which is torchvision's (0.485, 0.456, 0.406) only if
    its weights came from there. Both are returned, and stated with the classes in the file's metadata under "vgg_jax";
    `vgg_jax.load` reads them. Folding another mean into the bias would be wrong at the image's border.

        model = torchvision.models.vgg16(num_classes=net.num_classes)
        model.load_state_dict(safetensors.torch.load_file(path))

    A net of another crop than 224 also needs `model.avgpool = torch.nn.Identity()`, and torchvision's class builds only
    width 1 and 4096 hidden units; for others make the layers of the same sizes yourself.

    Args:
      net: one of A, B, D, E, with batch normalization or without.
      path: of the file; one that was saved so before is replaced.

    Returns:
      {"mean": ..., "std": ...} in [0, 1], the arguments of torchvision's `Normalize`.

    Raises:
      ConfigError: torchvision has no such network, or the file cannot be written, or is another's; safetensors is not
        installed.
    """
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise ConfigError(f"{path}: to save it takes the package safetensors: pip install safetensors") from error
    if net.spec.name not in ALIASES.values():
        known = ", ".join(f"{letter} ({alias})" for alias, letter in ALIASES.items())
        raise ConfigError(f"net {net.spec.name} has no counterpart in torchvision, which has {known}")
    path = Path(path)
    check_replaceable(path, _saved_here)
    arrays = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(net)))
    std = PREPROCESSING["torchvision"].std_rgb
    first = arrays["conv1_1"]["kernel"]
    arrays["conv1_1"]["kernel"] = (first.astype(np.float64) * np.reshape(std, (3, 1))).astype(np.float32)
    tensors = {}
    for ours, theirs in TORCHVISION.names(net.spec, net.batch_norm).items():
        layer, name = ours.split("/")
        array = arrays[layer][name]
        if name == "kernel":
            shape = stored_shape(TORCHVISION.axes(layer), array.shape)
            array = array.transpose(3, 2, 0, 1).reshape(shape)
        tensors[theirs] = np.ascontiguousarray(array, np.float32)
    fed = {
        "mean": tuple(float(color) / 255 for color in net.mean_rgb[...]),
        "std": tuple(deviation / 255 for deviation in std),
    }
    stated = {"net": net.spec.name, **fed, "classes": net.classes, "input": "RGB in [0, 1], then (input - mean) / std"}
    with writing(path), written_aside(path) as partial:
        save_file(tensors, partial, metadata={"format": "pt", METADATA: json.dumps(stated)})
    return fed


def _saved_here(path: Path) -> bool:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return METADATA in file.metadata()
