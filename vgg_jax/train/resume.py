"""What a run that goes on must have in common with its checkpoint: the classes, the images, and what is drawn of them.

The order of the images and every crop are functions of the step, so a run that goes on with another seed, batch or data
would neither be the one that was begun nor a new one. What a person may want to change on the way (the rate, the
schedule, when it is saved and evaluated) is reported.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from vgg_jax import processes
from vgg_jax.config import with_defaults
from vgg_jax.errors import CheckpointError, ConfigError
from vgg_jax.train.task import Task

log = logging.getLogger(__name__)

_FIXED = (
    "task",
    "seed",
    "model.net",
    "data.train_split",
    "data.crop",
    "data.scale",
    "data.flip",
    "data.color_shift",
    "data.statistics",
    "train.batch_size",
    "train.cached_views",
)
"""Keys of the config that a run keeps to its end: they decide what a step sees. (`data.source` may move: its classes
and the number of its images are compared. Whether the layers are the same, their arrays say.)"""

_WAY_OUT = "; put it back, or begin another run in a --workdir of its own, from this network with config.init.from_run"


def about(config: ConfigDict, task: Task) -> dict:
    """What a checkpoint says about its run."""
    return {
        "config": json.loads(config.to_json()),
        "classes": list(task.classes),
        "outputs": task.outputs,
        "source": task.source.name,
        "images": len(task.source),
    }


def check_processes(config: ConfigDict, task: Task) -> None:
    """Refuses to begin where several processes were not given the same config and data.

    Where the data are and the threads that read them may differ.

    Raises:
      ConfigError: in all processes.
    """
    described = about(config, task)
    for place in (described, described["config"]["data"]):
        place.pop("source")
    described["config"]["data"].pop("threads")
    each = processes.gathered(described)
    if differing := [name for name in described if any(one[name] != each[0][name] for one in each)]:
        what = " and ".join(differing)
        raise ConfigError(
            f"the processes of this run differ in their {what}: start all by the same command, with the same images"
        )


def check(config: ConfigDict, task: Task, meta: dict) -> None:
    """Refuses to go on from a checkpoint, given its meta, with other data or draws.

    Raises:
      CheckpointError: the seed, the classes, their order, the images or what is drawn of them have changed.
    """
    name = task.source.name
    if changed := _difference(meta["classes"], task.classes):
        raise CheckpointError(f"the classes of {name} are not those that this run was begun with: {changed}{_WAY_OUT}")
    changes = _changes(config, meta)
    if fixed := [changes[key] for key in changes if key in _FIXED]:
        raise CheckpointError(f"this run was begun with another config: {'; '.join(fixed)}{_WAY_OUT}")
    if meta.get("images", len(task.source)) != len(task.source):  # old checkpoints do not say
        raise CheckpointError(
            f"{name} has {len(task.source):,} training images, and had {meta['images']:,} when this run was saved: it "
            f"would go on in another order{_WAY_OUT}"
        )


def report_changes(config: ConfigDict, meta: dict) -> None:
    """Names the keys of the config that are others than in the checkpoint, and may be."""
    if changes := _changes(config, meta):
        log.warning("the config has changed since: %s", "; ".join(changes.values()))


def _difference(before: Sequence[str], now: Sequence[str]) -> str:
    """How two lists of classes differ, or ""."""
    if list(before) == list(now):
        return ""
    lost, new = sorted(set(before) - set(now)), sorted(set(now) - set(before))
    if lost or new:
        named = [
            f"{what} {names[0]!r}" + f" and {len(names) - 1} more" * (len(names) > 1)
            for what, names in (("without", lost), ("with", new))
            if names
        ]
        return ", ".join(named)
    number = next(number for number, (one, other) in enumerate(zip(before, now, strict=False)) if one != other)
    return f"class {number} was {before[number]!r} and is {now[number]!r}"


def _changes(config: ConfigDict, meta: dict) -> dict[str, str]:
    """The keys whose values are others than in the checkpoint's config, each with both values as text."""
    now, then = (
        jax.tree.leaves_with_path(json.loads(each.to_json()), is_leaf=lambda value: not isinstance(value, dict))
        for each in (config, with_defaults(meta["config"]))
    )
    keys = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in now]
    return {
        key: f"config.{key}: {before} -> {value}"
        for key, (_, value), (_, before) in zip(keys, now, then, strict=True)
        if value != before
    }
