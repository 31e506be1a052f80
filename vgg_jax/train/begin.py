"""How a run begins: drawn, grown from a shallower net, or fine-tuned from another run (Sec. 3.1)."""

from __future__ import annotations

import logging

import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from vgg_jax.errors import ConfigError
from vgg_jax.model.init import grown
from vgg_jax.model.vgg import VGG, MeanRGB
from vgg_jax.train import checkpoint

log = logging.getLogger(__name__)


def begin(config: ConfigDict, num_classes: int, mean_rgb: tuple[float, float, float], dtype: jnp.dtype) -> VGG:
    """The network of step 0.

    Args:
      config: the run's; `config.init` says where the parameters come from.
      num_classes: of the training set.
      mean_rgb: of the training set, in 0..255. A run that begins from another keeps that run's, which its parameters
        were trained with.
      dtype: of the computation.

    Raises:
      CheckpointError: the run to begin from has no checkpoint.
      ConfigError: its network does not fit.
    """

    net = checkpoint.new_network(config, num_classes, dtype)
    net.mean_rgb = MeanRGB(jnp.asarray(mean_rgb, jnp.float32))
    if config.init.grow_from:
        folder = checkpoint.find(config.init.grow_from)
        params, copied, drawn = grown(_layers(net), _donor(folder))
        log.info(
            "grown from %s: copied %s; drawn (%s) %s", folder, ", ".join(copied), config.init.scheme, ", ".join(drawn)
        )
        _put(net, params, folder)
    elif config.init.from_run:
        folder = checkpoint.find(config.init.from_run)
        params, drawn = fine_tuned(_layers(net), _donor(folder), str(folder))
        copied = [layer for layer in params if layer not in drawn]
        log.info(
            "fine-tuned from %s: copied %s; drawn (%s) %s",
            folder,
            ", ".join(copied),
            config.init.scheme,
            ", ".join(drawn) or "none",
        )
        _put(net, params, folder)
    return net


def fine_tuned(params: dict, donor: dict, name: str) -> tuple[dict, list[str]]:
    """All of a trained net's layers; its fc8 only where the number of classes is the same.

    Args:
      params: the new net's layers, {layer: {array name: array}}.
      donor: the trained net's.
      name: of the donor, for the message.

    Returns:
      The layers, and the names of those that stay as drawn.

    Raises:
      ConfigError: a layer other than fc8 is missing or of another shape.
    """
    faults = [f"{layer} is missing there" for layer in params if layer not in donor]
    faults += [f"{layer} is missing here" for layer in donor if layer not in params]
    drawn = []
    for layer in params:
        if layer in donor and (here := _shapes(params[layer])) != (there := _shapes(donor[layer])):
            if layer == "fc8":
                drawn.append(layer)
            else:
                faults.append(f"{layer} is {there} there, {here} here")
    if faults:
        raise ConfigError(
            f"config.init.from_run={name!r} is another network: {'; '.join(faults)}. Give config.model and "
            "config.data.crop that run's values, or config.init.grow_from to grow from a shallower net"
        )
    return {layer: params[layer] if layer in drawn else donor[layer] for layer in params}, drawn


def _layers(net: VGG) -> dict:
    arrays = nnx.to_pure_dict(nnx.state(net))
    del arrays["mean_rgb"]
    return arrays


def _donor(folder) -> dict:
    arrays = checkpoint.read_arrays(folder)
    del arrays["mean_rgb"]
    return arrays


def _put(net: VGG, layers: dict, folder) -> None:
    state = nnx.state(net)
    nnx.replace_by_pure_dict(state, layers | {"mean_rgb": checkpoint.read_arrays(folder)["mean_rgb"]})
    nnx.update(net, state)


def _shapes(layer: dict) -> dict:
    return {name: tuple(array.shape) for name, array in layer.items()}
