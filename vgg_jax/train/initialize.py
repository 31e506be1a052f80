"""The network of step 0: random, grown from a shallower one, or fine-tuned from a run or a published net (Sec. 3.1)."""

from __future__ import annotations

import itertools
import logging

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from vgg_jax import checkpoint, weights
from vgg_jax.config import with_defaults
from vgg_jax.errors import CheckpointError, ConfigError
from vgg_jax.model.from_config import new_network
from vgg_jax.model.init import grow_from
from vgg_jax.model.match import match, shapes_of
from vgg_jax.model.specs import FULLY_CONNECTED, scaled, spec_of
from vgg_jax.model.vgg import VGG
from vgg_jax.train.state import is_frozen

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
    net, init = new_network(config, num_classes, dtype), config.init
    state = nnx.state(net)
    fresh = nnx.to_pure_dict(state)
    del fresh["mean_rgb"]
    origin, params, random = None, fresh, list(fresh)
    trained_for = "classification"  # published weights, and runs that do not say
    if init.grow_from or init.from_run:
        folder, donor = checkpoint.read_newest_together(init.grow_from or init.from_run, checkpoint.read_arrays)
        mean_rgb, trained_for = donor.pop("mean_rgb"), with_defaults(checkpoint.read_meta(folder)["config"]).task
        if init.grow_from:
            origin, (params, random) = f"grown from {folder}", grow_from(fresh, donor)
        else:
            origin, (params, random) = f"fine-tuned from {folder}", finetune_from(fresh, donor, str(folder))
    elif init.weights:
        found = _published(config)
        mean_rgb, origin = found.mean_rgb, f"fine-tuned from {init.weights} ({found.format})"
        params, random = published(fresh, found.layers)
    if origin and trained_for != config.task:  # a last layer of the same shape means something else
        params, random = params | {"fc8": fresh["fc8"]}, [*(layer for layer in random if layer != "fc8"), "fc8"]
    nnx.replace_by_pure_dict(
        state, jax.tree.map(jnp.asarray, params) | {"mean_rgb": jnp.asarray(mean_rgb, jnp.float32)}
    )
    nnx.update(net, state)
    if origin:
        copied = ", ".join(layer for layer in params if layer not in random)
        log.info(
            "%s: copied %s; randomly initialized (%s) %s; mean RGB %s",
            *(origin, copied, init.scheme, ", ".join(random) or "none"),
            [round(float(value), 2) for value in mean_rgb],
        )
    if frozen := [layer for layer in random if is_frozen(layer, tuple(config.train.freeze))]:
        log.warning("frozen as they were randomly initialized: %s; config.init.weights avoids it", ", ".join(frozen))
    return net


def finetune_from(params: dict, donor: dict, name: str) -> tuple[dict, list[str]]:
    """All of a trained net's layers; its fc8 only where the number of classes is the same.

    Args:
      params: the new net's layers, {layer: {array name: array}}.
      donor: the trained net's.
      name: of the donor, for the message.

    Returns:
      The layers, and the names of those that stay randomly initialized.

    Raises:
      ConfigError: a layer other than fc8 is missing or of another shape.
    """
    mismatch = match(shapes_of(params), shapes_of(donor))
    others = {array: shapes for array, shapes in mismatch.reshaped.items() if not array.startswith("fc8/")}
    random = ["fc8"] if len(others) < len(mismatch.reshaped) else []
    if mismatch := mismatch._replace(reshaped=others):
        raise ConfigError(
            f"config.init.from_run={name!r} is another network: {mismatch}. Give config.model and config.data.crop "
            "that run's values, or config.init.grow_from to grow from a shallower net"
        )
    return {layer: params[layer] if layer in random else donor[layer] for layer in params}, random


def published(params: dict, donor: dict) -> tuple[dict, list[str]]:
    """A published net's convolutions, and its FC layers up to the first of another shape.

    fc6 is of another shape if the crop or the hidden units are others, fc8 if the classes are. What comes after a layer
    that is randomly initialized is so too. Arguments and results are those of `finetune_from`; the donor may lack FC
    layers.
    """
    mismatch = match(shapes_of(params), shapes_of(donor))
    unlike = {array.split("/")[0] for array in [*mismatch.missing, *mismatch.reshaped]}
    fitting = itertools.takewhile(lambda layer: layer not in unlike, FULLY_CONNECTED)
    random = list(FULLY_CONNECTED[len(list(fitting)) :])
    return {layer: params[layer] if layer in random else donor[layer] for layer in params}, random


def _published(config: ConfigDict) -> weights.Weights:
    """The weights that `config.init.weights` names; their convolutions are those of the config's net."""
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
    if missing := [layer for layer in found.absent if layer not in FULLY_CONNECTED]:
        raise CheckpointError(
            f"config.init.weights={source!r} lacks {', '.join(missing)}: a run begins from all convolutions of a net, "
            "only FC layers may be missing"
        )
    return found
