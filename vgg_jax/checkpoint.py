"""Checkpoints: everything a run is, in a form that evaluation can open without the run (Orbax).

One folder a step, `WORKDIR/checkpoints/STEP/`, written aside and renamed when complete:

    net/        every array of the network by layer: parameters, mean RGB, averages of batch normalisation
    optimizer/  the velocities of the trained parameters
    meta/       JSON: step, config, class names, source, the schedule's state, the last validation

How the parameters are split into trained and frozen ones, or over devices, is not part of it.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from flax import nnx
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers as policies

from vgg_jax.config import with_defaults
from vgg_jax.errors import CheckpointError
from vgg_jax.model.vgg import VGG
from vgg_jax.train.state import TrainState

FOLDER = "checkpoints"


class Checkpoints:
    """The checkpoints of one run: the last `keep`, and the one of the best validation accuracy.

    Saving is asynchronous: `save` returns when the arrays are copied, the files are written while training goes on.

    Args:
      workdir: the run's folder.
      keep: how many of the latest to keep.
    """

    def __init__(self, workdir: Path, keep: int):
        def accuracy(metrics: dict) -> float:
            return metrics["accuracy"]

        best = policies.BestN(get_metric_fn=accuracy, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            best_fn=accuracy,
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
        """The step of the best validation accuracy, or None before the first validation."""
        return self._manager.best_step()

    def save(self, state: TrainState, meta: dict, accuracy: float | None) -> None:
        """Saves a step, unless it is saved already.

        Args:
          state: the run's state after `meta["step"]` updates.
          meta: JSON values; see the module.
          accuracy: the validation accuracy at this step, if it was measured.
        """
        if self.latest == meta["step"]:
            return
        items = ocp.args.Composite(
            net=ocp.args.StandardSave(_arrays(state)),
            optimizer=ocp.args.StandardSave(_velocities(state)),
            meta=ocp.args.JsonSave(meta),
        )
        self._manager.save(meta["step"], args=items, metrics=None if accuracy is None else {"accuracy": accuracy})

    def restore(self, state: TrainState) -> tuple[TrainState, dict]:
        """The latest checkpoint.

        Args:
          state: a state of this run at any step; it gives structure, shapes and shardings.

        Returns:
          The state and the checkpoint's meta.

        Raises:
          CheckpointError: it holds another network, or velocities of other layers.
        """
        folder = Path(self._manager.directory) / str(self.latest)
        meta = read_meta(folder)
        whole = nnx.merge_state(state.trainable, state.rest)
        nnx.replace_by_pure_dict(whole, _read(folder / "net", _arrays(state)))
        trained = {path for path, _ in nnx.to_flat_state(state.trainable)}
        trainable, rest = nnx.split_state(whole, lambda path, _: path in trained, ...)
        trace = optax.tree.get(state.optimizer, "trace")
        nnx.replace_by_pure_dict(trace, _read(folder / "optimizer", _velocities(state)))
        step = jax.device_put(jnp.asarray(meta["step"], jnp.int32), state.step.sharding)
        return TrainState(step, trainable, rest, optax.tree.set(state.optimizer, trace=trace)), meta

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
    if (path / "net").is_dir() and (path / "meta").is_dir():
        return path
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    steps = [child for child in folder.iterdir() if child.name.isdigit()] if folder.is_dir() else []
    if not steps:
        what = "is not there" if not path.exists() else "holds no complete checkpoint"
        raise CheckpointError(f"{path}: {what}; give a run's --workdir, or one checkpoint, WORKDIR/{FOLDER}/STEP")
    return max(steps, key=lambda child: int(child.name))


def read_meta(folder: Path) -> dict:
    """The JSON of a checkpoint: step, config, classes, source, schedule, validation.

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
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    saved = _saved(folder / "net")
    return _read(folder / "net", jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), saved))


def load_network(path: str | Path, *, dtype: jnp.dtype = jnp.float32) -> tuple[VGG, dict]:
    """A trained network, ready for evaluation; needs neither the config file nor the optimiser's state.

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
    config = with_defaults(meta["config"])
    net = nnx.eval_shape(lambda: new_network(config, len(meta["classes"]), dtype))
    net.classes = tuple(meta["classes"])
    graphdef, state = nnx.split(net)
    arrays = read_arrays(folder)
    _audit(folder / "net", nnx.to_pure_dict(state), arrays)
    nnx.replace_by_pure_dict(state, arrays)
    return nnx.merge(graphdef, state), meta


def new_network(config: ConfigDict, num_classes: int, dtype: jnp.dtype) -> VGG:
    """The network of a config, drawn from its seed."""
    model = config.model
    return VGG(
        model.net,
        num_classes=num_classes,
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


def _arrays(state: TrainState) -> dict:
    return nnx.to_pure_dict(nnx.merge_state(state.trainable, state.rest))


def _velocities(state: TrainState) -> dict:
    return nnx.to_pure_dict(optax.tree.get(state.optimizer, "trace"))


def _saved(folder: Path) -> dict:
    """Shapes of the arrays in one item of a checkpoint."""
    with ocp.StandardCheckpointer() as reader:
        try:
            return reader.metadata(folder).item_metadata.tree
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{folder}: not a complete checkpoint: {error}") from error


def _read(folder: Path, like: dict) -> dict:
    """The arrays of one item, placed as those of `like` are."""
    _audit(folder, like, _saved(folder))
    target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like)
    with ocp.StandardCheckpointer() as reader:
        try:
            return reader.restore(folder, target)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder}: the checkpoint is damaged: {error}; use another step") from error


def _audit(folder: Path, wanted: dict, saved: dict) -> None:
    """Refuses a checkpoint of another network, naming every array that is missing, unexpected or of another shape."""
    wanted, saved = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in _leaves(tree)}
        for tree in (wanted, saved)
    )
    faults = [f"missing {name}" for name in wanted if name not in saved]
    faults += [f"unexpected {name}" for name in saved if name not in wanted]
    faults += [
        f"{name} is {saved[name]}, here {shape}" for name, shape in wanted.items() if saved.get(name, shape) != shape
    ]
    if faults:
        raise CheckpointError(f"{folder} is of another network or freezes other layers: " + "; ".join(faults))


def _leaves(tree: dict) -> list:
    return jax.tree_util.tree_leaves_with_path(tree)
