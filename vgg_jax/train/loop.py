"""The training run: from a config to a trained network, resumable at every step (Sec. 3.1, 3.3).

The loop knows no task: what is read, minimized and measured is the task's (`vgg_jax.train.task`), and metrics are names
here. Everything random and the position in the data are functions of the step, so a run that was interrupted ends with
the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vgg_jax import compiler, processes, sharding
from vgg_jax.checkpoint import Checkpoints
from vgg_jax.config import validate
from vgg_jax.errors import UserError
from vgg_jax.files import drawing, printable
from vgg_jax.model.from_config import computation_dtype, new_network
from vgg_jax.model.specs import spec_of
from vgg_jax.prefetch import prefetch
from vgg_jax.progress import Progress
from vgg_jax.stopping import deferred_stop, request_from_elsewhere, stoppable
from vgg_jax.train import memory, resume
from vgg_jax.train.initialize import initialize
from vgg_jax.train.metric_writer import MetricWriter, as_text
from vgg_jax.train.optimizer import krizhevsky_momentum
from vgg_jax.train.plots import save_batch, save_curves
from vgg_jax.train.schedule import Schedule, make_schedule
from vgg_jax.train.state import TrainState, arrays_of, check_freeze, new_state, with_arrays
from vgg_jax.train.step import image_keys, make_train_step, trace_step
from vgg_jax.train.task import Task
from vgg_jax.train.throughput import StartUp, Throughput
from vgg_jax.train.watchdog import Watchdog

log = logging.getLogger(__name__)


class Diverged(UserError):
    """The loss or the gradient is no longer a number."""


def train(config: ConfigDict, workdir: Path, make_task: Callable[[ConfigDict, Mesh, Path], Task]) -> dict[str, float]:
    """Trains by a config until its schedule ends, or goes on with the run that `workdir` holds.

    Args:
      config: a complete config, `vgg_jax.config.default_config()` and what differs.
      workdir: the run's folder: checkpoints, metrics.jsonl, tensorboard, batch.png, curves.png.
      make_task: what to train for, a function of the config, the mesh of all devices and the workdir:
        `vgg_jax.tasks.choose.make_task`.

    Returns:
      The last validation's metrics by name, and its `step`; empty if there was none.

    Raises:
      Stopped: after SIGTERM or Ctrl-C, what was done is saved.
      UserError: the config, the data or the checkpoint cannot be used, or the loss is no longer finite.
    """
    start_up = StartUp()
    validate(config)
    check_freeze(spec_of(config.model.net), tuple(config.train.freeze))
    mesh, steps, batch_size = sharding.device_mesh(config.mesh.model), config.train.steps, config.train.batch_size
    sharding.check_batch_size("config.train.batch_size", batch_size, mesh.size, config.train.microbatches)
    workdir.mkdir(parents=True, exist_ok=True)
    first_process = jax.process_index() == 0
    with contextlib.ExitStack() as at_end:
        with start_up.part("data"):
            task = make_task(config, mesh, workdir)
            resume.check_processes(config, task)
        with start_up.part("network"):
            checkpoints = at_end.enter_context(contextlib.closing(Checkpoints(workdir, config.checkpoint.keep)))
            saved = lambda: f"step {checkpoints.latest or 'none'} is saved in {workdir}"
            watchdog = at_end.enter_context(contextlib.closing(Watchdog(config.mesh.patience, saved)))
            schedule = make_schedule(config)
            optimizer = krizhevsky_momentum(config.train.momentum, config.train.weight_decay)
            graphdef, state, step, validation = _begun(
                config, workdir, task, mesh, optimizer, schedule, checkpoints, watchdog
            )
            watchdog.progressed()
        _describe(graphdef, state, mesh)
        itemsize = computation_dtype(config).itemsize
        memory.check(config, state, mesh, itemsize)
        at_end.enter_context(memory.out_of_memory_named(config, state, mesh, itemsize))
        finished = lambda: step >= steps or schedule.finished
        # A checkpoint comes before the validation of its step: one whose validation is missing is validated first.
        due = lambda: step and (finished() or step % config.evaluate.every == 0)
        unvalidated = lambda: due() and validation.get("step") != step
        if finished() and not unvalidated():
            log.info("already finished at step %d; the checkpoints are in %s", step, workdir)
            return validation

        aside = at_end.enter_context(ThreadPoolExecutor(1))
        compiling = aside.submit(_compiled, config, task, mesh, graphdef, optimizer, state)  # while the input starts
        with start_up.part("input"), watchdog.apart():
            batches = at_end.enter_context(_placed_batches(task, _network(graphdef, state), step, mesh))
        with start_up.part("first batch"):
            batch = next(batches)
        with start_up.part("compiling, beyond these"):
            update = compiling.result()
            watchdog.progressed()
        preview = aside.submit(_save_preview, task, batch, config.seed, workdir) if not step and first_process else None
        begun = {"train": step, "validation": validation.get("step", 0)}
        write = at_end.enter_context(contextlib.closing(MetricWriter(workdir, begun, write=first_process)))
        throughput = Throughput(batch_size, functools.partial(_check_finite, config, task, checkpoints, workdir))
        progress, reported, first_step = Progress("step", first=step, seconds=0), set(), step + 1
        asked_to_stop = at_end.enter_context(deferred_stop("the step under way is saved"))
        batches, stopping = itertools.chain([batch], batches), False
        any_process = processes.AnyProcess()
        spare = lambda: config.checkpoint.on_error == "skip" and not (stopping or finished())

        while True:
            if unvalidated() and not stopping:
                with checkpoints.failures_logged(spare()):
                    checkpoints.wait()
                write.flush()
                elsewhere = stoppable() if jax.process_count() == 1 else watchdog.apart()  # saved; others would wait
                metrics = _validate(task, _network(graphdef, state), step, schedule, write, progress, elsewhere)
                validation = metrics | {"step": step}
                if checkpoints.latest == step:
                    meta = {"schedule": schedule.state, "validation": validation}
                    with checkpoints.failures_logged(spare()):
                        checkpoints.complete(step, meta, metrics[task.monitor])
                throughput.restart()
            for name in set(task.problems) - reported:
                progress.clear()
                log.warning("left out: %s: %s", name, task.problems[name])
                reported.add(name)
            if stopping or finished():
                break
            with throughput.waiting():
                batch = next(batches)
            rate = schedule.rate_at(step)
            state, metrics = update(state, batch, sharding.place_number(rate, mesh))
            step += 1
            throughput.add(step, metrics)
            if step == first_step:
                throughput.fetch()
                log.info("%s", start_up.summary())
            if unvalidated() or step % config.log.every == 0:
                metrics = {"learning_rate": rate} | throughput.report()
                write(step, "train", metrics)
                progress(step, steps, as_text(metrics))
                throughput.restart()
            stopping = any_process(asked_to_stop())
            if stopping and not asked_to_stop():
                request_from_elsewhere()
            watchdog.progressed()
            if unvalidated() or stopping or step % config.checkpoint.every == 0:
                throughput.fetch()  # nothing is saved that was not checked
                meta = resume.about(config, task) | {"schedule": schedule.state, "validation": validation}
                with checkpoints.failures_logged(spare()):
                    checkpoints.save(step, arrays_of(state), meta)

        progress.clear()
        checkpoints.wait()
        if stopping:
            log.info("stopped on request at step %d, saved in %s; the same command goes on from there", step, workdir)
        if preview:
            with drawing(workdir / "batch.png"):
                log.info("the first batch as the network saw it: %s", preview.result())
    if first_process:
        with drawing(workdir / "curves.png"):
            log.info("learning curves: %s", save_curves(workdir))
    _report_problems(task.problems, workdir)
    return validation


def _begun(
    config: ConfigDict,
    workdir: Path,
    task: Task,
    mesh: Mesh,
    optimizer,
    schedule: Schedule,
    checkpoints: Checkpoints,
    watchdog: Watchdog,
) -> tuple[nnx.GraphDef, TrainState, int, dict[str, float]]:
    """The network's structure, its state on the devices, the step and the last validation: of step 0, or as saved.

    The schedule is restored too.
    """
    outputs, dtype = task.outputs, computation_dtype(config)
    resuming = processes.by_first(lambda: checkpoints.latest is not None)
    # When resuming, only the shapes count: a checkpoint has all arrays, the mean RGB too.
    with watchdog.apart():  # published weights may have to be downloaded
        net = new_network(config, outputs, dtype) if resuming else initialize(config, outputs, task.mean_rgb, dtype)
    graphdef, state = new_state(net, tuple(config.train.freeze), optimizer)
    state = sharding.place_state(state, mesh, zero=config.mesh.zero)
    if not resuming:
        return graphdef, state, 0, {}
    arrays, meta = checkpoints.restore(arrays_of(state), functools.partial(resume.check, config, task))
    step = meta["step"]
    schedule.restore(meta.get("schedule", {}))
    log.info("resumed at step %d from %s", step, workdir)
    resume.report_changes(config, meta)
    return graphdef, with_arrays(state, arrays, step), step, meta.get("validation", {})


@contextlib.contextmanager
def _placed_batches(task: Task, net: nnx.Module, step: int, mesh: Mesh) -> Iterator[Iterator[dict[str, jax.Array]]]:
    """The batches from a step on, on the devices."""
    place = lambda batch: sharding.place_batch({name: batch[name] for name in task.batch_shapes}, mesh)
    with contextlib.closing(task.batches(net, step)) as stream, prefetch(stream, place) as batches:
        yield batches


def _validate(
    task: Task,
    net: nnx.Module,
    step: int,
    schedule: Schedule,
    write: MetricWriter,
    progress: Progress,
    elsewhere: AbstractContextManager,
) -> dict[str, float]:
    """The metrics of a step's validation, which are written, and observed by the schedule.

    Args:
      elsewhere: the context of the evaluation, which takes long.
    """
    began = time.monotonic()
    with elsewhere:
        metrics = task.evaluate(net)
    write(step, "validation", metrics)
    progress.clear()
    log.info("step %d: validation %s (%.1f s)", step, as_text(metrics), time.monotonic() - began)
    if decision := schedule.observe(step, metrics[task.monitor]):
        log.info("step %d: validation %s: %s", step, task.monitor, decision)
    return metrics


def _network(graphdef: nnx.GraphDef, state: TrainState) -> nnx.Module:
    return nnx.merge(graphdef, state.trainable, state.rest)


def _compiled(config, task: Task, mesh: Mesh, graphdef, optimizer, state: TrainState) -> Callable:
    """The update, compiled for the batches of the task."""
    update = make_train_step(graphdef, task.loss, optimizer, seed=config.seed, microbatches=config.train.microbatches)
    return trace_step(update, state, task.batch_shapes, mesh, compiler.jit).lower().compile()


def _save_preview(task: Task, batch: dict[str, jax.Array], seed: int, workdir: Path) -> Path:
    """Writes the first images of batch 0 as the network sees them."""
    parts = {name: sorted(array.addressable_shards, key=lambda part: part.index) for name, array in batch.items()}
    local = {name: np.concatenate([np.asarray(part.data) for part in parts[name]])[:32] for name in parts}
    keys = image_keys(seed, 0, len(batch["mask"]))
    keys = jnp.concatenate([keys[part.index] for part in parts["mask"]])[:32]
    path = workdir / "batch.png"
    save_batch(path, *task.preview(local, keys))
    return path


def _check_finite(
    config: ConfigDict, task: Task, checkpoints: Checkpoints, workdir: Path, step: int, metrics: Mapping[str, float]
) -> None:
    """Ends a run whose loss or gradient is no longer a number, before it is saved; all processes see the same ones."""
    loss, norm = metrics["loss"], metrics["gradient_norm"]
    if not (math.isfinite(loss) and math.isfinite(norm)):
        with checkpoints.failures_logged(True):
            checkpoints.wait()
        saved = checkpoints.latest
        kept = f"the last good checkpoint is step {saved}" if saved else "no checkpoint was saved yet"
        listed, names = workdir / "diverged.txt", list(map(printable, task.images(step - 1)))
        if jax.process_index() == 0:
            listed.write_text("\n".join(names) + "\n")
        raise Diverged(
            f"step {step}: the loss is {loss} and the gradient's norm {norm}; {kept} ({workdir}).\n"
            f"The {len(names)} images of its batch are listed in {listed}, the first is {names[0]}.\n"
            f"A lower config.train.learning_rate (now {config.train.learning_rate}), a warm-up "
            "(config.schedule.warmup_steps) or config.init.scheme='he' usually helps."
        )


def _describe(graphdef: nnx.GraphDef, state: TrainState, mesh: Mesh) -> None:
    net = _network(graphdef, state)
    count, trained = (sum(a.size for a in jax.tree.leaves(s)) for s in (nnx.state(net, nnx.Param), state.trainable))
    log.info(
        "net %s, %d weight layers, %s parameters (%s trained), mean RGB %s, %s on %d x %s",
        *(net.spec.name, net.spec.weight_layers, f"{count:,}", f"{trained:,}"),
        [round(float(value), 2) for value in net.mean_rgb[...]],
        *(net.dtype.name, mesh.size, jax.devices()[0].device_kind),
    )


def _report_problems(problems: Mapping[str, str], workdir: Path) -> None:
    """Lists what any of the processes, each of which reads its share, left out."""
    problems = {name: reason for share in processes.gathered(dict(problems)) for name, reason in share.items()}
    if problems and jax.process_index() == 0:
        path = workdir / "unreadable.txt"
        path.write_text("".join(f"{printable(name)}: {reason}\n" for name, reason in sorted(problems.items())))
        log.warning("%d images could not be read and were left out; they are listed in %s", len(problems), path)
