"""Checkpoints: everything a run is, in a form that evaluation can open without the run (Orbax).

One folder per step, `WORKDIR/checkpoints/STEP/`, written aside and renamed when complete:

    net/        every array of the network by layer: parameters, mean RGB, averages of batch normalization
    optimizer/  the velocities of the trained parameters
    meta/       JSON: step, config, class names, outputs, source, the schedule's state, the last validation

How the parameters are split into trained and frozen ones, or over devices, is not part of it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers as policies

from vgg_jax.config import with_defaults
from vgg_jax.errors import CheckpointError
from vgg_jax.files import check_room
from vgg_jax.model.match import match, shapes_of
from vgg_jax.model.vgg import VGG

FOLDER = "checkpoints"


class Checkpoints:
    """The checkpoints of one run: the last `keep`, and the one of the best monitored metric.

    Saving is asynchronous: `save` returns when the arrays are copied, the files are written while training goes on.

    Args:
      workdir: the run's folder.
      keep: how many of the latest to keep.
    """

    def __init__(self, workdir: Path, keep: int):
        best = policies.BestN(get_metric_fn=_metric, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            best_fn=_metric,
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(n=keep), best]),
            cleanup_tmp_directories=True,  # left by a run that was killed while it wrote one
        )
        self._manager = ocp.CheckpointManager((workdir / FOLDER).absolute(), options=options)

    @property
    def latest(self) -> int | None:
        """The last complete checkpoint's step, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step of the best monitored metric, or None before the first evaluation."""
        return self._manager.best_step()

    def save(self, step: int, arrays: dict[str, dict], meta: dict, metric: float | None = None) -> None:
        """Saves a step, unless it is saved already.

        Args:
          step: the updates done.
          arrays: trees of arrays by the names of their folders, `net` and `optimizer`.
          meta: JSON values; see the module.
          metric: the monitored metric at this step, if it was measured; higher is better.

        Raises:
          ConfigError: there is no room on the disk.
        """
        if self.latest == step:
            return
        size = sum(array.nbytes for array in jax.tree.leaves(arrays))
        check_room(Path(self._manager.directory), size, f"the checkpoint of step {step}")
        items = {name: ocp.args.StandardSave(tree) for name, tree in arrays.items()}
        items["meta"] = ocp.args.JsonSave(meta | {"step": step})
        metrics = None if metric is None else {"metric": metric}
        self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics)

    def restore(self, like: dict[str, dict]) -> tuple[dict[str, dict], dict]:
        """The latest checkpoint's arrays and meta.

        Args:
          like: trees as they were saved; they give structure, shapes and shardings.

        Raises:
          CheckpointError: it holds another network, or velocities of other layers.
        """
        folder = Path(self._manager.directory) / str(self.latest)
        meta = read_meta(folder)
        return {name: _read(folder / name, tree) for name, tree in like.items()}, meta

    def wait(self) -> None:
        """Returns when the files of a save under way are complete."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the writing threads."""
        self._manager.close()


def find(path: str | Path) -> Path:
    """The folder of one checkpoint: `path` itself, or the latest below a run or its `checkpoints/`.

    Raises:
      CheckpointError: there is none.
    """
    path = Path(path).absolute()
    is_dir = os.path.isdir  # `Path.is_dir` raises where a name is too long or a folder may not be looked into
    if is_dir(path / "net") and is_dir(path / "meta"):
        return path
    folder = path / FOLDER if is_dir(path / FOLDER) else path
    steps = [child for child in folder.iterdir() if child.name.isdigit()] if is_dir(folder) else []
    if not steps:
        what = "is not there" if not os.path.exists(path) else "holds no complete checkpoint"
        raise CheckpointError(f"{path}: {what}; give a run's --workdir, or one checkpoint, WORKDIR/{FOLDER}/STEP")
    return max(steps, key=lambda child: int(child.name))


def read_meta(folder: Path) -> dict:
    """The JSON of a checkpoint: step, config, classes, outputs, source, schedule, validation.

    Raises:
      CheckpointError: it is damaged.
    """
    try:
        return json.loads((folder / "meta" / "metadata").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder}: the checkpoint's meta cannot be read: {error}; use another step") from error


def read_arrays(folder: Path) -> dict:
    """The network's arrays as they were saved, {layer: {name: array}} and `mean_rgb`, on the default device.

    Raises:
      CheckpointError: a file is missing or damaged.
    """
    return _read(folder / "net")


def load_network(path: str | Path, *, dtype: jnp.dtype = jnp.float32) -> tuple[VGG, dict]:
    """A trained network, ready for evaluation; needs neither the config file nor the optimizer's state.

    Args:
      path: a run's workdir (its latest checkpoint) or one checkpoint's folder.
      dtype: of the computation.

    Returns:
      The network and the checkpoint's meta: `step`, `config`, `classes`, `source`, `validation`.

    Raises:
      CheckpointError: there is no checkpoint, or it is damaged.
    """
    folder = find(path)
    meta = read_meta(folder)
    config, classes = with_defaults(meta["config"]), tuple(meta["classes"])
    outputs = meta.get("outputs", len(classes))  # old checkpoints are of classification
    net = nnx.eval_shape(lambda: new_network(config, outputs, dtype))
    if outputs == len(classes):
        net.classes = classes
    graphdef, state = nnx.split(net)
    arrays = read_arrays(folder)
    _check(folder / "net", nnx.to_pure_dict(state), arrays)
    nnx.replace_by_pure_dict(state, arrays)
    return nnx.merge(graphdef, state), meta


def new_network(config: ConfigDict, outputs: int, dtype: jnp.dtype) -> VGG:
    """The network of a config, randomly initialized from its seed.

    Args:
      outputs: channels of its last layer.
      dtype: of the computation.
    """
    model = config.model
    return VGG(
        model.net,
        num_classes=outputs,
        crop=config.data.crop,
        width=model.width,
        hidden=model.hidden or None,
        dropout=model.dropout,
        batch_norm=model.batch_norm,
        init=config.init.scheme,
        dtype=dtype,
        remat=model.remat,
        rngs=nnx.Rngs(params=config.seed),
    )


def _metric(metrics: dict[str, float]) -> float:
    (value,) = metrics.values()  # older checkpoints call it accuracy
    return value


def _read(folder: Path, like: dict | None = None) -> dict:
    """The arrays of one item of a checkpoint, placed as those of `like` are, or all on the default device."""
    with ocp.StandardCheckpointer() as reader:
        try:
            saved = reader.metadata(folder).item_metadata.tree
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{folder}: not a complete checkpoint: {error}") from error
        if like:
            _check(folder, like, saved)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shape = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding if like else device)
        try:
            return reader.restore(folder, jax.tree.map(shape, like or saved))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder}: the checkpoint is damaged: {error}; use another step") from error


def _check(folder: Path, wanted: dict, saved: dict) -> None:
    """Refuses a checkpoint of another network, naming every array that is missing, unexpected or of another shape."""
    if mismatch := match(shapes_of(wanted), shapes_of(saved)):
        raise CheckpointError(f"{folder} is of another network or freezes other layers: {mismatch}")
