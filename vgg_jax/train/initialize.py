"""How a run begins: drawn, grown from a shallower net, or fine-tuned from a run or published weights (Sec. 3.1)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from vgg_jax import checkpoint
from vgg_jax.errors import CheckpointError, ConfigError
from vgg_jax.model.init import grow_from
from vgg_jax.model.specs import scaled, spec_of
from vgg_jax.model.vgg import VGG, MeanRGB
from vgg_jax.train.state import is_frozen

if TYPE_CHECKING:
    from vgg_jax.weights import Weights

log = logging.getLogger(__name__)


def initialize(config: ConfigDict, num_classes: int, mean_rgb: tuple[float, float, float], dtype: jnp.dtype) -> VGG:
    """The network of step 0.

    Args:
      config: the run's; `config.init` says where the parameters come from.
      num_classes: of the training set.
      mean_rgb: of the training set, in 0..255. A run that begins from another, or from published weights, keeps the
        mean that these parameters were trained with.
      dtype: of the computation.

    Raises:
      CheckpointError: the run to begin from has no checkpoint, or the file of weights cannot be used.
      ConfigError: its network does not fit.
    """
    net = checkpoint.new_network(config, num_classes, dtype)
    net.mean_rgb = MeanRGB(jnp.asarray(mean_rgb, jnp.float32))
    drawn = list(_layers(net))
    if config.init.grow_from:
        folder = checkpoint.find(config.init.grow_from)
        params, copied, drawn = grow_from(_layers(net), _donor(folder))
        log.info(
            "grown from %s: copied %s; drawn (%s) %s", folder, ", ".join(copied), config.init.scheme, ", ".join(drawn)
        )
        _put(net, params | _mean(folder))
    elif config.init.from_run:
        folder = checkpoint.find(config.init.from_run)
        params, drawn = finetune_from(_layers(net), _donor(folder), str(folder))
        copied = [layer for layer in params if layer not in drawn]
        log.info(
            "fine-tuned from %s: copied %s; drawn (%s) %s",
            folder,
            ", ".join(copied),
            config.init.scheme,
            ", ".join(drawn) or "none",
        )
        _put(net, params | _mean(folder))
    elif config.init.weights:
        weights = _published(config)
        params, drawn = published(_layers(net), weights.layers)
        log.info(
            "fine-tuned from %s (%s): copied %s; drawn (%s) %s; mean RGB %s",
            *(config.init.weights, weights.format, ", ".join(layer for layer in params if layer not in drawn)),
            *(config.init.scheme, ", ".join(drawn) or "none", [round(value, 2) for value in weights.mean_rgb]),
        )
        _put(net, params | {"mean_rgb": jnp.asarray(weights.mean_rgb, jnp.float32)})
    if still := [layer for layer in drawn if is_frozen(layer, tuple(config.train.freeze))]:
        log.warning("frozen as they were drawn, at random: %s; config.init.weights says otherwise", ", ".join(still))
    return net


def finetune_from(params: dict, donor: dict, name: str) -> tuple[dict, list[str]]:
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


def published(params: dict, donor: dict) -> tuple[dict, list[str]]:
    """A published net's convolutions, and its FC layers up to the first of another shape.

    fc6 is of another shape if the crop or the hidden units are others, fc8 if the classes are. What comes after a layer
    that is drawn is drawn too.

    Args:
      params: the new net's layers, {layer: {array name: array}}.
      donor: the published net's; it may lack FC layers.

    Returns:
      The layers, and the names of those that stay as drawn.
    """
    together, drawn = dict(params), []
    for layer in params:
        fits = layer in donor and _shapes(params[layer]) == _shapes(donor[layer])
        if layer.startswith("fc") and (drawn or not fits):
            drawn.append(layer)
        else:
            together[layer] = donor[layer]
    return together, drawn


def _published(config: ConfigDict) -> Weights:
    """The weights that `config.init.weights` names; their convolutions are those of the config's net."""
    from vgg_jax import weights  # the libraries of six formats

    model, source = config.model, config.init.weights
    spec = spec_of(model.net)
    try:
        # A-LRN has A's tensors: a file cannot tell.
        found = weights.read(
            source,
            net=spec.name if spec.lrn else None,
            partial=True,
            preprocessing=config.init.preprocessing or None,
            class_order=config.init.class_order or None,
        )
    except CheckpointError as error:
        raise CheckpointError(f"config.init.weights={source!r}: {error}") from error
    except ConfigError as error:
        raise ConfigError(
            f"config.init.weights={source!r}: {error}. In a config: config.init.preprocessing, config.init.class_order"
        ) from error
    faults = [f"net={found.net!r}"] * (found.net != spec.name)
    faults += [f"batch_norm={found.batch_norm}"] * (found.batch_norm != model.batch_norm)
    faults += [f"width={found.width}"] * any(
        scaled(row.channels, found.width) != scaled(row.channels, model.width) for row in spec.convolutions.values()
    )
    if faults:
        here = f"net={spec.name!r}, batch_norm={model.batch_norm}, width={model.width}"
        raise ConfigError(
            f"config.init.weights={source!r} is of another network than config.model ({here}): set "
            + ", ".join(f"config.model.{fault}" for fault in faults)
        )
    if lacking := [layer for layer in found.drawn if not layer.startswith("fc")]:
        raise CheckpointError(
            f"config.init.weights={source!r} lacks {', '.join(lacking)}: a run begins from all convolutions of a net, "
            "only FC layers may be missing"
        )
    return found


def _layers(net: VGG) -> dict:
    arrays = nnx.to_pure_dict(nnx.state(net))
    del arrays["mean_rgb"]
    return arrays


def _donor(folder) -> dict:
    arrays = checkpoint.read_arrays(folder)
    del arrays["mean_rgb"]
    return arrays


def _mean(folder) -> dict:
    return {"mean_rgb": checkpoint.read_arrays(folder)["mean_rgb"]}


def _put(net: VGG, arrays: dict) -> None:
    state = nnx.state(net)
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, arrays))
    nnx.update(net, state)


def _shapes(layer: dict) -> dict:
    return {name: tuple(array.shape) for name, array in layer.items()}
