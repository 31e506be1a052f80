"""Which task a config names."""

from __future__ import annotations

from pathlib import Path

from jax.sharding import Mesh
from ml_collections import ConfigDict

from vgg_jax.tasks.cached_features import CachedFeatures, check_frozen
from vgg_jax.tasks.classification import Classification
from vgg_jax.tasks.localization import Localization
from vgg_jax.train.task import Task

TASKS = {"classification": Classification, "localization": Localization}


def make_task(config: ConfigDict, mesh: Mesh, workdir: Path) -> Task:
    """The task of a run, `config.task`; with `config.train.cached_views` on cached features.

    Args:
      config: the run's.
      mesh: all devices.
      workdir: the run's folder, where a task keeps what it computes once.

    Raises:
      ConfigError: the config contradicts itself.
      DataError: the source or a split of it is not there or does not have what the task needs, or its color statistics
        cannot be computed.
    """
    if config.train.cached_views:
        check_frozen(config)
    task = TASKS[config.task](config, mesh, workdir)
    return CachedFeatures(task, mesh, workdir) if config.train.cached_views else task
