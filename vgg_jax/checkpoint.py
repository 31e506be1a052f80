"""Checkpoints: everything a run is, in a form that evaluation can open without the run (Orbax).

One folder per step, `WORKDIR/checkpoints/STEP/`, written aside and renamed when complete:

    net/        every array of the network by layer: parameters, mean RGB, averages of batch normalization
    optimizer/  the velocities of the trained parameters
    meta/       JSON: step, config, class names, outputs, source and number of its images, the schedule's state, the
                last validation, the monitored metric of this step, checksums of every array and of the JSON itself

How the parameters are split into trained and frozen ones, or over devices, is not part of it. A step is saved before it
is validated; then its meta is completed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx

from vgg_jax import processes, saved_arrays
from vgg_jax.config import with_defaults
from vgg_jax.errors import CheckpointError, ConfigError
from vgg_jax.files import check_room, printable, set_aside, written_aside
from vgg_jax.model.from_config import new_network
from vgg_jax.model.vgg import VGG
from vgg_jax.saved_arrays import DamagedCheckpoint

log = logging.getLogger(__name__)

FOLDER = "checkpoints"

_UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that is being written, by Orbax, or removed

_LEAST_SLICE = 2**20
"""Bytes. Devices that all have an array save a slice each of it, and a slice is a program that has to be compiled: not
worth it below."""

Found = TypeVar("Found")


class Checkpoints:
    """The checkpoints of one run: the last `keep`, and the one of the best monitored metric.

    Saving is asynchronous: `save` returns when the arrays are copied, the files are written while training goes on.

    Args:
      workdir: the run's folder.
      keep: how many of the latest to keep.

    Raises:
      CheckpointError: here and in all that writes: the files cannot be written.
    """

    def __init__(self, workdir: Path, keep: int):
        saved_arrays.silence_the_others()
        self._folder, self._keep = (workdir / FOLDER).absolute(), keep
        array = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_LEAST_SLICE)
        kinds = ocp.type_handlers.create_type_handler_registry((jax.Array, array))
        trees = {name: ocp.PyTreeCheckpointHandler(type_handler_registry=kinds) for name in ("net", "optimizer")}
        self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(**trees, meta=ocp.JsonCheckpointHandler()))
        processes.by_first(self._prepare)

    def _prepare(self) -> None:
        with self._writing():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()  # of a run that was killed

    @property
    def latest(self) -> int | None:
        """The last complete checkpoint's step, or None."""
        return next((int(folder.name) for folder in _steps(self._folder)), None)

    @property
    def best(self) -> int | None:
        """The step of the best monitored metric, or None before the first validation."""
        metrics = {int(folder.name): _metric(folder) for folder in _steps(self._folder)}
        measured = [(metric, step) for step, metric in metrics.items() if metric is not None]
        return max(measured)[1] if measured else None

    def save(self, step: int, arrays: dict[str, dict], meta: dict) -> None:
        """Saves a step.

        Args:
          step: the updates done.
          arrays: trees of arrays by the names of their folders, `net` and `optimizer`.
          meta: JSON values; see the module.

        Raises:
          ConfigError: there is no room on the disk.
        """
        self.wait()
        with self._writing():
            self._remove_unfinished()  # of a save that failed: it takes the room of this one
        size = sum(array.nbytes for array in jax.tree.leaves(arrays))
        elsewhere = ConfigError(f"{self._folder}: another process sees no room for step {step}")
        # In all, or those that see room would wait for the others.
        processes.in_all(lambda: check_room(self._folder, size, f"the checkpoint of step {step}"), elsewhere)
        items = {name: ocp.args.PyTreeSave(tree) for name, tree in arrays.items()}
        meta = meta | {"step": step, "checksums": {name: saved_arrays.checksums(tree) for name, tree in arrays.items()}}
        items["meta"] = ocp.args.JsonSave(_sealed(meta))
        with self._writing():
            self._writer.save(self._folder / str(step), args=ocp.args.Composite(**items))

    def complete(self, step: int, meta: dict, metric: float) -> None:
        """Adds to a saved step what its validation gave.

        Args:
          step: the updates done.
          meta: the values that have changed since it was saved.
          metric: the monitored metric at this step; higher is better.
        """
        self.wait()
        if jax.process_index() == 0:
            folder = self._folder / str(step)
            meta = _sealed(read_meta(folder) | meta | {"metric": metric})
            with self._writing(), written_aside(_meta_file(folder)) as partial:
                partial.write_text(json.dumps(meta))

    def restore(self, like: dict[str, dict], check: Callable[[dict], None]) -> tuple[dict[str, dict], dict]:
        """The arrays and meta of the latest checkpoint that is not damaged.

        Damaged ones after it are named in the log and set aside, because the run will save these steps again. Several
        processes take the same one, as in `read_newest_together`.

        Args:
          like: trees as they were saved; they give structure, shapes and shardings.
          check: is given the meta first; raises if the run cannot go on from it.

        Raises:
          CheckpointError: it holds another network, or velocities of other layers; or all are damaged.
        """

        def read(folder: Path) -> tuple[dict[str, dict], dict]:
            meta = _by_all(read_meta)(folder)
            check(meta)
            items = lambda folder: {name: saved_arrays.read(folder / name, tree) for name, tree in like.items()}
            trees = _by_all(items)(folder)
            # Together: some arrays lie in parts on several processes.
            there = {name: saved_arrays.checksums(tree) for name, tree in trees.items()}
            _by_all(lambda folder: [saved_arrays.compare(folder / name, there[name], meta) for name in there])(folder)
            return trees, meta

        folders = _found_by_first(self._folder)
        found, restored = _first_readable(folders, read)
        damaged = folders[: folders.index(found)]
        with self._writing():
            for folder in damaged if jax.process_index() == 0 else ():
                log.warning("%s is kept as %s", folder, set_aside(folder).name)
        return restored

    def wait(self) -> None:
        """Returns when the files of a save under way are complete, and what is not kept any longer is removed."""
        with self._writing():
            self._writer.wait_until_finished()
            self._remove_unfinished()
            best = self.best
            for folder in _steps(self._folder)[self._keep :] if jax.process_index() == 0 else ():
                if int(folder.name) != best:
                    # Renamed first: what a kill leaves is half a checkpoint, and its name says so.
                    shutil.rmtree(folder.rename(folder.with_name(f"{folder.name}{_UNFINISHED}")))

    @contextlib.contextmanager
    def failures_logged(self, allowed: bool) -> Iterator[None]:
        """A context in which a checkpoint that cannot be written is a warning, if that is allowed."""
        try:
            yield
        except (CheckpointError, ConfigError) as error:
            if not allowed:
                raise
            log.warning("%s\nThe run goes on without it; the last one is of step %s", error, self.latest or "none")

    def close(self) -> None:
        """Waits, and ends the writing threads."""
        with self._writing():
            self._writer.close()

    def _remove_unfinished(self) -> None:
        for unfinished in self._folder.glob(f"*{_UNFINISHED}*") if jax.process_index() == 0 else ():
            # Threads of a save that failed may be writing still: what they add goes with the next one.
            shutil.rmtree(unfinished, ignore_errors=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Says what failed in a line; Orbax's and TensorStore's errors are of any type and length."""
        try:
            yield
        except Exception as error:
            raise CheckpointError(
                f"{self._folder}: a checkpoint cannot be written: {saved_arrays.reason(error)}"
            ) from error


def find(path: str | Path) -> list[Path]:
    """The folders of the checkpoints that `path` names: itself, or all below a run or its `checkpoints/`, newest first.

    Raises:
      CheckpointError: there is none.
    """
    path = Path(path).absolute()
    is_dir = os.path.isdir  # `Path.is_dir` raises where a name is too long or a folder may not be looked into
    if is_dir(path / "net") or is_dir(path / "meta"):
        return [path]
    folders = _steps(path / FOLDER if is_dir(path / FOLDER) else path)
    if not folders:
        what = "is not there" if not os.path.exists(path) else "holds no complete checkpoint"
        shown = printable(str(path))
        raise CheckpointError(f"{shown}: {what}; give a run's --workdir, or one checkpoint, WORKDIR/{FOLDER}/STEP")
    return folders


def read_newest(path: str | Path, read: Callable[[Path], Found]) -> tuple[Path, Found]:
    """The checkpoint that `path` names, or of a run's the latest that is not damaged; damaged ones are logged.

    Args:
      path: as in `find`.
      read: makes something of a checkpoint's folder: `read_network`, `read_arrays`.

    Returns:
      Its folder, and what was made of it.

    Raises:
      CheckpointError: there is none, or none that is not damaged.
    """
    return _first_readable(find(path), read)


def read_newest_together(path: str | Path, read: Callable[[Path], Found]) -> tuple[Path, Found]:
    """As `read_newest`, in all processes of a run at once.

    They take the checkpoint that the first one finds and all can read: what they see of a shared disk may differ.
    """
    return _first_readable(_found_by_first(path), _by_all(read))


def _found_by_first(path: str | Path) -> list[Path]:
    below = processes.by_first(lambda: [os.path.relpath(folder, path) for folder in find(path)])
    return [Path(os.path.abspath(os.path.join(path, folder))) for folder in below]


def _by_all(read: Callable[[Path], Found]) -> Callable[[Path], Found]:
    """A function that reads a checkpoint; what one of several processes cannot read is damaged for all."""
    elsewhere = lambda folder: DamagedCheckpoint(f"{folder} cannot be read by another process")
    return lambda folder: processes.in_all(lambda: read(folder), elsewhere(folder))


def _first_readable(folders: list[Path], read: Callable[[Path], Found]) -> tuple[Path, Found]:
    for folder, before in itertools.pairwise(folders):
        try:
            return folder, read(folder)
        except DamagedCheckpoint as error:
            log.warning("%s; the one before is used, step %s", error, before.name)
    try:
        return folders[-1], read(folders[-1])
    except DamagedCheckpoint as error:
        raise DamagedCheckpoint(f"{error}; use another step or run") from error


def read_meta(folder: Path) -> dict:
    """The JSON of a checkpoint: step, config, classes, outputs, source, schedule, validation.

    Raises:
      DamagedCheckpoint: it is not there, or not as it was written.
    """
    try:
        meta = json.loads(_meta_file(folder).read_bytes())
        with_defaults(meta["config"])
        kinds = {"step": int, "classes": list, "schedule": dict, "validation": dict}
        faults = [key for key, kind in kinds.items() if not isinstance(meta.get(key, {}), kind)]
    except Exception as error:  # of any type, for any bytes
        raise DamagedCheckpoint(
            f"{folder} is damaged: its meta cannot be read: {saved_arrays.reason(error)}"
        ) from error
    if faults or meta.get("checksum") not in (None, _sealed(meta)["checksum"]):  # old ones have no checksum
        raise DamagedCheckpoint(f"{folder} is damaged: its meta is not what was saved")
    return meta


def read_arrays(folder: Path) -> dict:
    """The network's arrays as they were saved, {layer: {name: array}} and `mean_rgb`, on the default device.

    Raises:
      DamagedCheckpoint: a file is missing or damaged.
    """
    return _network_arrays(folder, read_meta(folder))


def read_network(folder: Path) -> tuple[VGG, dict]:
    """The network of one checkpoint's folder, and the meta; see `load_network`."""
    meta = read_meta(folder)
    arrays = _network_arrays(folder, meta)
    config, classes = with_defaults(meta["config"]), tuple(meta["classes"])
    outputs = meta.get("outputs", len(classes))  # old checkpoints are of classification
    net = nnx.eval_shape(lambda: new_network(config, outputs, jnp.float32))
    if outputs == len(classes) and config.task == "classification":  # as many outputs may be boxes
        net.classes = classes
    graphdef, state = nnx.split(net)
    saved_arrays.check(folder / "net", nnx.to_pure_dict(state), arrays)
    nnx.replace_by_pure_dict(state, arrays)
    return nnx.merge(graphdef, state), meta


def _network_arrays(folder: Path, meta: dict) -> dict:
    arrays = saved_arrays.read(folder / "net")
    saved_arrays.compare(folder / "net", saved_arrays.checksums(arrays), meta)
    return arrays


def load_network(path: str | Path) -> tuple[VGG, dict]:
    """A trained network, ready for evaluation; needs neither the config file nor the optimizer's state.

    Args:
      path: a run's workdir (its latest checkpoint that is not damaged) or one checkpoint's folder.

    Returns:
      The network and the checkpoint's meta: `step`, `config`, `classes`, `source`, `validation`.

    Raises:
      CheckpointError: there is no checkpoint, or it is damaged.
    """
    return read_newest(path, read_network)[1]


def _steps(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    steps = [child for child in folder.iterdir() if child.name.isdecimal()] if os.path.isdir(folder) else []
    return sorted(steps, key=lambda child: -int(child.name))


def _meta_file(folder: Path) -> Path:
    return folder / "meta" / "metadata"


def _metric(folder: Path) -> float | None:
    """The monitored metric of a step, if it was measured and can be read."""
    old = folder / "metrics" / "metrics"  # {"metric": value} in a file of its own, or {"accuracy": value}
    try:
        (value,) = json.loads(old.read_bytes()).values() if old.exists() else [read_meta(folder).get("metric")]
    except (OSError, ValueError, AttributeError):
        return None
    return value if isinstance(value, int | float) else None


def _sealed(meta: dict) -> dict:
    """A checkpoint's JSON values with a checksum of all the others."""
    meta = {key: value for key, value in meta.items() if key != "checksum"}
    return meta | {"checksum": zlib.crc32(json.dumps(meta, sort_keys=True).encode())}
