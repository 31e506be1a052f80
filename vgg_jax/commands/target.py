"""What is evaluated: the network of a run, or published weights, and how it is to be evaluated."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from vgg_jax.commands.workdir import is_ours
from vgg_jax.config import default_config, eval_scale, validate, with_defaults
from vgg_jax.errors import ConfigError
from vgg_jax.model.vgg import VGG
from vgg_jax.weights import read
from vgg_jax.weights.formats.run import RUN


class EvalTarget(NamedTuple):
    """A network and how it is to be evaluated."""

    name: str
    """The checkpoint's folder, or where the weights are from."""
    net: VGG
    S: tuple[int, int]
    """(Smin, Smax) of its training; (0, 0) if that is not known."""
    config: ConfigDict
    home: Path | None
    """Where results of it alone belong: None if no run's folder can be written to."""
    classes: tuple[str, ...] = ()
    """Of a run, those that it was trained on."""
    frozen: tuple[str, ...] = ()
    """Of a run, the groups of layers that stayed as they were."""

    @property
    def scales(self) -> tuple[int, ...]:
        """Q of predictions and features: `config.evaluate.scales`, or the one `config.evaluate.scale`."""
        return tuple(self.config.evaluate.scales) or (eval_scale(self.config),)


def find_targets(
    *,
    config: ConfigDict | None,
    overrides: Mapping[str, object],
    workdir: str | None,
    checkpoint: Sequence[str],
    weights: Sequence[str],
    partial: bool = False,
) -> Iterator[EvalTarget]:
    """The networks that a user named by flags, one after another; --workdir counts where nothing else is given.

    Raises:
      UserError: none is given, or one cannot be loaded.
    """
    runs = checkpoint or ([workdir] if workdir and not weights else [])
    if not runs and not weights:
        raise ConfigError("which network? Give --workdir=RUN, --checkpoint=RUN or --weights=SOURCE")
    for run in runs:
        yield of_run(run, config, overrides)
    for source in weights:
        yield of_weights(source, config, overrides, partial=partial)


def find_target(*, workdir: str | None, checkpoint: Sequence[str], weights: Sequence[str], **given) -> EvalTarget:
    """The one network that a user named; a UserError if there are none or several, or it cannot be loaded."""
    flags = {"workdir": [workdir] if workdir else [], "checkpoint": checkpoint, "weights": weights}
    named = [f"--{flag}={name}" for flag, names in flags.items() for name in names]
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named)}: this mode takes one network; --mode=evaluate takes several")
    return next(find_targets(workdir=workdir, checkpoint=checkpoint, weights=weights, **given))


def check_task(target: EvalTarget, task: str) -> None:
    """Refuses a network of another task than the first one's; raises ConfigError."""
    if target.config.task != task:
        raise ConfigError(f"{target.name} is a network of {target.config.task}: it cannot be fused with one of {task}")


def of_run(path: str | Path, config: ConfigDict | None = None, overrides: Mapping | None = None) -> EvalTarget:
    """The network of a run.

    Args:
      path: the run's folder (its latest checkpoint that is not damaged) or one checkpoint's.
      config: where the data come from and how to evaluate; by default as the training had it.
      overrides: keys of that config and their values.

    Raises:
      CheckpointError: there is none.
      ConfigError: the config cannot work.
    """
    from vgg_jax.checkpoint import read_network, read_newest_together  # Orbax takes a second to import

    folder, (net, meta) = read_newest_together(path, read_network)
    saved = with_defaults(meta["config"])
    run = folder.parent.parent
    home = run / "evaluation" / folder.name if is_ours(run) and os.access(run, os.W_OK) else None
    config = (config or saved).copy_and_resolve_references()
    config.model, config.task = saved.model, saved.task
    config.localization.per_class = saved.localization.per_class
    S = tuple(saved.data.scale)
    frozen = tuple(saved.train.freeze)
    return EvalTarget(str(folder), net, S, _adapted(config, net, overrides, S), home, tuple(meta["classes"]), frozen)


def of_weights(
    source: str, config: ConfigDict | None = None, overrides: Mapping | None = None, *, partial: bool = False
) -> EvalTarget:
    """A network with published weights: whatever `vgg_jax.load` takes.

    Args:
      source: the weights; `config.init.preprocessing` and `config.init.class_order` say what the file does not.
      config, overrides: as in `of_run`.
      partial: whether FC layers may be missing, for features of the convolutions.

    Raises:
      CheckpointError: they cannot be loaded.
      ConfigError: they are of a run that does not classify, or the config cannot work.
    """
    config = (config or default_config()).copy_and_resolve_references()
    config.update_from_flattened_dict(overrides or {})
    hints = {key: config.init[key] or None for key in ("preprocessing", "class_order")}
    found = read(source, partial=partial, **hints)
    if found.format == RUN and not found.classes:
        raise ConfigError(f"{source} is a run that was not trained to classify: give it as --checkpoint={source}")
    net = found.network()
    config.init.weights, config.task = source, "classification"
    config.model.net, config.model.batch_norm = net.spec.name, net.batch_norm
    # The published nets' usual test scale for a crop of 224 is 256.
    scale = net.crop + net.crop // 7
    return EvalTarget(source, net, (0, 0), _adapted(config, net, overrides, (scale, scale)), None)


def _adapted(config: ConfigDict, net: VGG, overrides: Mapping | None, S: tuple[int, int]) -> ConfigDict:
    """The config with what the network decides and the user overrides; the crop stays the network's."""
    config.data.scale = S
    config.train.freeze = ()
    config.update_from_flattened_dict(overrides or {})
    config.data.crop = net.crop
    validate(config)
    return config
