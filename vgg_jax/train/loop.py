"""The training run: from a config to a trained network, resumable at every step (Sec. 3.1, 3.3).

The loop knows no task: it is reported a loss, a function that evaluates, and what to feed. Everything random and the
position in the data are functions of the step, so a run that was interrupted ends with the same bits as one that was
not.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vgg_jax import compiler, sharding
from vgg_jax.checkpoint import Checkpoints, new_network
from vgg_jax.config import validate
from vgg_jax.data.source import Source
from vgg_jax.errors import UserError
from vgg_jax.model.specs import spec_of
from vgg_jax.model.vgg import VGG
from vgg_jax.tasks.cached_features import Views, check_frozen
from vgg_jax.train.crops import Crops
from vgg_jax.train.initialize import initialize
from vgg_jax.train.metric_writer import MetricWriter, Progress
from vgg_jax.train.optimizer import krizhevsky_momentum
from vgg_jax.train.plots import save_batch, save_curves
from vgg_jax.train.preemption import stop_requests
from vgg_jax.train.schedule import make_schedule
from vgg_jax.train.state import check_freeze, new_state
from vgg_jax.train.step import image_keys, make_train_step
from vgg_jax.train.throughput import StartUp, Throughput

log = logging.getLogger(__name__)


class Diverged(UserError):
    """The loss or the gradient is no longer a number."""


class Task(Protocol):
    """What a network is trained for; `vgg_jax.tasks` has them."""

    source: Source
    validation_source: Source
    classes: Sequence[str]
    monitor: str  # the metric of its evaluation that the schedule follows

    def loss(self, net: VGG, images: jax.Array, batch: dict, keys: jax.Array) -> tuple[jax.Array, dict]:
        """See `vgg_jax.train.step.Loss`."""

    def evaluator(self, graphdef: nnx.GraphDef) -> Callable[[nnx.State, nnx.State], dict[str, float]]:
        """A function of a state's `trainable` and `rest` to its metrics on the held-out images."""


class Inputs(Protocol):
    """What the update is fed: fresh crops (`crops`), or frozen convolutions' output on fixed views (`views`)."""

    batch: dict[str, jax.ShapeDtypeStruct]
    """The arrays of a global batch that the update reads: `image`, `label`, `mask`."""

    def stream(self, net: VGG, start: int) -> Iterator[dict[str, np.ndarray]]:
        """This process's shares of the batches from the `start`-th on, with `problems` and `close()`.

        Args:
          net: the network as it is before the update `start`.
        """

    def augment(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """A batch's `image` as it goes into the network."""

    def remaining(self, net: VGG) -> Callable[..., jax.Array]:
        """The part of the network that is still before a batch's `image`; called as the network is."""

    def first_seen(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """RGB around 0..255 of the first images of batch 0, as the network sees them."""


def train(config: ConfigDict, workdir: Path, make_task: Callable[[ConfigDict], Task]) -> dict[str, float]:
    """Trains by a config until its schedule ends, or goes on with the run that `workdir` holds.

    Args:
      config: a complete config, `vgg_jax.config.default_config()` and what differs.
      workdir: the run's folder: checkpoints, metrics.jsonl, tensorboard, batch.png, curves.png.
      make_task: what to train for, `vgg_jax.tasks.classification.Classification`.

    Returns:
      The last validation's metrics as fractions, `top1` and `top5` among them; empty if there was none.

    Raises:
      UserError: the config, the data or the checkpoint cannot be used, or the loss is no longer finite.
    """
    start_up = StartUp()
    validate(config)
    check_freeze(spec_of(config.model.net), tuple(config.train.freeze))
    if config.train.cached_views:
        check_frozen(config)
    mesh = sharding.device_mesh()
    batch_size = config.train.batch_size
    sharding.check_batch_size("config.train.batch_size", batch_size, mesh.size, config.train.microbatches)
    workdir.mkdir(parents=True, exist_ok=True)
    with start_up.part("sources"):
        task = make_task(config)
    log.info("training on %s; validation on %s", task.source.describe(), task.validation_source.describe())
    with start_up.part("colours"):
        colors = _colors(config, task.source, workdir)
    views = config.train.cached_views
    inputs = Views(config, task.source, colors, mesh, workdir) if views else Crops(config, task.source, colors)
    return Run(config, workdir, mesh, task, inputs, colors.mean, start_up).until_done()


class Run:
    """One process's part in a training run."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        mesh: Mesh,
        task: Task,
        inputs: Inputs,
        mean_rgb: tuple[float, float, float],
        start_up: StartUp,
    ):
        self.config, self.workdir, self.mesh, self.start_up = config, workdir, mesh, start_up
        self.task, self.inputs = task, inputs
        self.first_process = jax.process_index() == 0
        self.schedule = make_schedule(config)
        optimizer = krizhevsky_momentum(config.train.momentum, config.train.weight_decay)
        self.checkpoints = Checkpoints(workdir, config.checkpoint.keep)
        with start_up.part("network"):
            # A run that goes on has all it needs in its checkpoint, the mean RGB too.
            new = len(task.classes), computation_dtype(config)
            if self.checkpoints.latest is None:
                net = initialize(config, new[0], mean_rgb, new[1])
            else:
                net = new_network(config, *new)
            self.graphdef, state = new_state(net, tuple(config.train.freeze), optimizer)
            self.state = jax.device_put(state, sharding.replicated(mesh))
        self.validation: dict[str, float] = {}
        with start_up.part("checkpoint"):
            self.step = self._resume()
        self._describe(net)
        update = make_train_step(
            self.graphdef,
            lambda net, *batch: task.loss(inputs.remaining(net), *batch),
            optimizer,
            inputs.augment,
            seed=config.seed,
            microbatches=config.train.microbatches,
        )
        self.update = compiler.jit(update, donate_argnums=0)
        self.evaluate = task.evaluator(self.graphdef)

    def until_done(self) -> dict[str, float]:
        """Trains to the end, or until the process is asked to stop."""
        if self.step >= self.config.train.steps or self.schedule.finished:
            log.info("already finished at step %d; the checkpoints are in %s", self.step, self.workdir)
            return self.validation
        with contextlib.ExitStack() as at_end:
            at_end.callback(self.checkpoints.close)
            stop = at_end.enter_context(stop_requests())
            aside = at_end.enter_context(ThreadPoolExecutor(1))
            compiled = aside.submit(self._compile)  # while the input starts and reads the first batches
            with self.start_up.part("input"):
                net = nnx.merge(self.graphdef, self.state.trainable, self.state.rest)
                stream = self.inputs.stream(net, self.step)
            at_end.callback(stream.close)
            self.metric_writer = MetricWriter(self.workdir, self.step, write=self.first_process)
            at_end.callback(self.metric_writer.close)
            batches = at_end.enter_context(sharding.prefetch(stream, self._place))
            with self.start_up.part("first batch"):
                first = next(batches)
            with self.start_up.part("compiling, beyond these"):
                update = compiled.result()
            picture = aside.submit(self._picture, first) if self.step == 0 and self.first_process else None
            self._train(itertools.chain([first], batches), stream.problems, update, stop)
            if picture:
                log.info("the first batch as the network saw it: %s", picture.result())
        if self.first_process:
            log.info("learning curves: %s", save_curves(self.workdir))
        self._report_unreadable(stream.problems | self.evaluate.problems)
        return self.validation

    def _train(self, batches, problems: dict[str, str], update, stop) -> None:
        config, steps = self.config, self.config.train.steps
        replicated = sharding.replicated(self.mesh)
        progress, pace = Progress(self.step, steps, config.train.batch_size), Throughput(config.train.batch_size)
        pending, reported = None, set()
        batch = next(batches)
        while True:
            rate = self.schedule.rate_at(self.step)
            self.state, metrics = update(self.state, batch, jax.device_put(np.float32(rate), replicated))
            self.step += 1
            # The metrics of a step are fetched when the next one is under way, so the devices never wait for the host.
            if pending:
                pace.add(self._checked(*pending))
            pending = self.step, metrics
            if self.start_up.running:
                jax.block_until_ready(metrics)
                log.info("%s", self.start_up.summary())

            done = self.step == steps
            evaluating = done or self.step % config.evaluate.every == 0
            if self.step % config.log.every == 0 or evaluating:
                pace.add(self._checked(*pending))
                pending = None
                values = pace.means() | {"train_rate": rate}
                self.metric_writer.metrics(self.step, **values)
                progress.show(self.step, values)
                pace.restart()
            accuracy = None
            if evaluating:
                accuracy = self._validate(progress)
                done = done or self.schedule.finished
                pace.restart()
            stopping = sharding.agreed(stop.is_set())
            if done or stopping or self.step % config.checkpoint.every == 0:
                if pending:  # nothing is saved that was not looked at
                    pace.add(self._checked(*pending))
                    pending = None
                self.checkpoints.save(self.state, self._meta(), accuracy)
            for where in set(problems) - reported:
                progress.clear()
                log.warning("left out: %s: %s", where, problems[where])
                reported.add(where)
            if done or stopping:
                break
            with pace.waiting():
                batch = next(batches)
        progress.clear()
        self.checkpoints.wait()
        if stopping and not done:
            log.info(
                "stopped on request at step %d, saved in %s; the same command goes on from there",
                self.step,
                self.workdir,
            )

    def _validate(self, progress: Progress) -> float:
        began = time.monotonic()
        metrics = self.evaluate(self.state.trainable, self.state.rest)
        self.validation = metrics | {"step": self.step}
        accuracy = metrics[self.task.monitor]
        self.metric_writer.metrics(self.step, **{f"validation_{name}": value for name, value in metrics.items()})
        decision = self.schedule.observe(self.step, accuracy)
        progress.clear()
        log.info(
            "step %d: validation top-1 %.2f %%, top-5 %.2f %%, loss %.4f on %d images (%.1f s)",
            *(self.step, 100 * metrics["top1"], 100 * metrics["top5"], metrics["loss"], metrics["images"]),
            time.monotonic() - began,
        )
        if decision:
            log.info("step %d: %s", self.step, decision)
        return accuracy

    def _checked(self, step: int, metrics: dict[str, jax.Array]) -> dict[str, float]:
        """A step's metrics on the host; raises Diverged if they are no numbers."""
        values = {name: float(value) for name, value in metrics.items()}
        if not all(math.isfinite(values[name]) for name in ("loss", "gradient_norm")):
            kept = (
                f"the last good checkpoint is step {self.checkpoints.latest}"
                if self.checkpoints.latest
                else "no checkpoint was saved yet"
            )
            raise Diverged(
                f"step {step}: the loss is {values['loss']} and the gradient's norm {values['gradient_norm']}; "
                f"{kept} ({self.workdir}).\nA lower config.train.learning_rate "
                f"(now {self.config.train.learning_rate}), a warm-up "
                "(config.schedule.warmup_steps) or config.init.scheme='he' usually helps."
            )
        return values

    def _compile(self):
        split, whole = sharding.split_batch(self.mesh), sharding.replicated(self.mesh)
        batch = {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=split)
            for name, array in self.inputs.batch.items()
        }
        return self.update.lower(self.state, batch, jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)).compile()

    def _place(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return sharding.place_batch({name: batch[name] for name in self.inputs.batch}, self.mesh)

    def _picture(self, batch: dict[str, jax.Array]) -> Path:
        # The first process's devices hold the first images of the global batch.
        shown = {
            name: np.concatenate([np.asarray(shard.data) for shard in batch[name].addressable_shards])[:32]
            for name in ("image", "label")
        }
        pixel_keys = jax.vmap(lambda key: jax.random.split(key, 2)[0])(
            image_keys(self.config.seed, 0, len(shown["label"]))
        )
        images = np.asarray(self.inputs.first_seen(jnp.asarray(shown["image"]), pixel_keys))
        path = self.workdir / "batch.png"
        save_batch(path, images, shown["label"], self.task.classes)
        return path

    def _meta(self) -> dict:
        return {
            "step": self.step,
            "config": json.loads(self.config.to_json()),
            "classes": list(self.task.classes),
            "source": self.task.source.name,
            "schedule": self.schedule.state,
            "validation": self.validation,
        }

    def _resume(self) -> int:
        if self.checkpoints.latest is None:
            return 0
        self.state, meta = self.checkpoints.restore(self.state)
        self.schedule.restore(meta["schedule"])
        self.validation = meta["validation"]
        log.info("resumed at step %d from %s", meta["step"], self.workdir)
        now, then = (dict(_flat(config)) for config in (json.loads(self.config.to_json()), meta["config"]))
        changed = [f"{key}: {then.get(key)} -> {now[key]}" for key in now if now[key] != then.get(key)]
        if changed:
            log.warning("the config has changed since: %s", "; ".join(changed))
        return meta["step"]

    def _describe(self, net) -> None:
        trained = sum(array.size for array in jax.tree.leaves(self.state.trainable))
        count = net.spec.parameter_count(len(self.task.classes), net.crop, net.width, net.batch_norm, net.hidden)
        device = jax.devices()[0]
        log.info(
            "net %s, %d weight layers, %s parameters (%s trained), mean RGB %s, %s on %d x %s",
            *(net.spec.name, net.spec.weight_layers, f"{count:,}", f"{trained:,}"),
            [round(float(value), 2) for value in self.state.rest["mean_rgb"][...]],
            *(net.dtype.name, self.mesh.size, device.device_kind),
        )

    def _report_unreadable(self, problems: dict[str, str]) -> None:
        if problems:
            path = self.workdir / "unreadable.txt"
            path.write_text("".join(f"{where}: {reason}\n" for where, reason in sorted(problems.items())))
            log.warning("%d images could not be read and were left out; they are listed in %s", len(problems), path)


def computation_dtype(config: ConfigDict) -> jnp.dtype:
    """float32 or bfloat16, as `config.model.dtype` says; `auto` is bfloat16 wherever it is not emulated."""
    if config.model.dtype == "auto":
        return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    return jnp.dtype(config.model.dtype)


def _colors(config: ConfigDict, source, workdir: Path):
    """Mean RGB and principal colours of the training set: ImageNet's, or computed and kept in the workdir."""
    from vgg_jax.data.statistics import IMAGENET, color_statistics

    if config.data.statistics == "imagenet":
        return IMAGENET
    return color_statistics(
        source, cache=workdir / "colors.json", threads=config.data.threads, on_error=config.data.on_error
    )


def _flat(config: dict, prefix: str = "config."):
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
