"""The programs of a net on the accelerator of this machine, beside what was predicted of them.

    python -m benchmarks.accelerator [--net D] [--batch 256] [--parts step pools input bits dense scores] [--repeats 5]

step    the training step (colors, mirror images, dropout, update): its speed, share of the peak and memory, beside the
        prediction and the plan (docs/scale.md);
pools   the step with other forms of max-pooling's gradient;
input   the step on batches that come from the host's memory one by one, as a run's do, beside one that stays;
bits    five steps, twice from the same state: the same bits?
dense   dense evaluation in buckets of 256 x 352 pixels, with mirror images: masked at the images' borders, beside
        images that fill their bucket;
scores  those of four images and random weights in float32 and bfloat16, beside the CPU's in float32.

Contestants of a part take turns, ten steps at a time; times are medians. What XLA_FLAGS change is seen by running it
again with them.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

import vgg_jax
from vgg_jax import sharding
from vgg_jax.ahead import program
from vgg_jax.ahead.chips import CHIPS
from vgg_jax.ahead.report import report
from vgg_jax.ahead.topologies import Topology
from vgg_jax.config import default_config
from vgg_jax.inference.runner import PIXELS
from vgg_jax.inference.scorer import dense_posteriors, unpadded_posteriors
from vgg_jax.model import layers
from vgg_jax.model.from_config import computation_dtype, new_network
from vgg_jax.prefetch import prefetch
from vgg_jax.train.optimizer import krizhevsky_momentum
from vgg_jax.train.state import TrainState, new_state

CLASSES, RATE, STEPS, BUCKET = 1000, 1e-4, 10, (256, 352)
KINDS = {"H100 80GB HBM3": "h100", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e"}
"""How JAX names a device whose data sheet is known; the first that fits counts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--net", default="D")
    parser.add_argument("--batch", type=int, default=256, help="images of a training step")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    config = default_config()
    config.model.net, config.model.width, config.train.batch_size = arguments.net, arguments.width, arguments.batch
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}: net {arguments.net}, {arguments.batch} images", flush=True)
    for part in arguments.parts:
        start = time.perf_counter()
        PARTS[part](config, arguments.repeats)
        print(f"   ({part}: {time.perf_counter() - start:.0f} s)", flush=True)


def step(config: ConfigDict, repeats: int) -> None:
    device = jax.devices()[0]
    kind = next((name for named, name in KINDS.items() if named in device.device_kind), None)
    if kind:
        platform = "cuda" if device.platform == "gpu" else "tpu"
        figures = report(config, CLASSES, Topology(kind, CHIPS[kind], [device], platform))
    train = Training(config)
    images, seconds = config.train.batch_size, np.median(turns({"step": train}, repeats)["step"])
    print(f"step    {images / seconds:,.0f} images/s ({1e3 * seconds:.2f} ms)")
    if kind:
        guess, memory = figures["prediction"], figures["memory"]
        print(f"        {train.operations / seconds / CHIPS[kind].peak:.0%} of the peak; predicted", end=" ")
        print(f"{guess['images_per_second'][1]:,.0f} images/s: {1e3 * guess['products']:.2f} ms of products,", end=" ")
        print(f"{1e3 * guess['memory']:.2f} ms of memory, {1e3 * guess['apart']:.2f} of it beside no product")
        print(f"        planned {sum(memory['planned'].values()) / 1e9:.2f} GB, compiled", end=" ")
        print(f"{memory['total'] / 1e9:.2f} GB, of it temporaries {memory['temporaries'] / 1e9:.2f}")
    if used := device.memory_stats():
        print(f"        in use at most {used['peak_bytes_in_use'] / 1e9:.2f} GB, autotuning included", flush=True)


def pools(config: ConfigDict, repeats: int) -> None:
    contestants = {}
    for name, form in POOLS.items():
        with mock.patch("vgg_jax.model.vgg.rectified_max_pool", form):
            contestants[name] = Training(config)
    show("pools", turns(contestants, repeats))


def from_host(config: ConfigDict, repeats: int) -> None:
    train = Training(config)
    batches = itertools.cycle([train.new_batch(seed) for seed in range(4)])
    with prefetch(batches, lambda batch: jax.device_put(batch, train.split)) as placed:
        show("input", turns({"stays": train, "from the host": lambda: train(next(placed))}, repeats))


def bits(config: ConfigDict, repeats: int) -> None:
    train, ends = Training(config), []
    for _ in range(2):
        train.begin()
        for _ in range(5):
            train()
        ends.append([np.asarray(array) for array in jax.tree.leaves(train.state)])
    differ = sum(not np.array_equal(one, other) for one, other in zip(*ends, strict=True))
    largest = max(float(abs(one - other).max()) for one, other in zip(*ends, strict=True))
    print(f"bits    {differ} of {len(ends[0])} arrays differ, by {largest:.1e} at most", flush=True)


def dense(config: ConfigDict, repeats: int) -> None:
    graphdef, state = nnx.split(new_network(config, CLASSES, computation_dtype(config)))
    count = PIXELS["accelerator"] // (BUCKET[0] * BUCKET[1])
    rng = np.random.default_rng(0)
    images = jax.device_put(rng.integers(0, 256, (count, *BUCKET, 3), np.uint8))
    sizes = jax.device_put(np.stack([np.full(count, 256), rng.integers(321, 353, count)], 1).astype(np.int32))
    full = jax.jit(lambda state, images: unpadded_posteriors(nnx.merge(graphdef, state), images, flip=True))
    masked = jax.jit(lambda state, *batch: dense_posteriors(nnx.merge(graphdef, state), *batch, flip=True)["posterior"])
    contestants = {"not masked": lambda: full(state, images), "masked": lambda: masked(state, images, sizes)}
    show("dense", turns(contestants, repeats), count)


def scores(config: ConfigDict, repeats: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, config.data.crop, config.data.crop, 3), np.uint8)
    cpu, here = jax.devices("cpu")[0], jax.devices()[0]
    new = functools.partial(vgg_jax.VGG, config.model.net, width=config.model.width, init="he", conv="lax")
    with jax.default_device(cpu):
        parameters = jax.device_get(nnx.state(new(rngs=nnx.Rngs(0))))

    def computed(dtype: jnp.dtype, device: jax.Device, precision: str | None) -> np.ndarray:
        graphdef = nnx.graphdef(nnx.eval_shape(lambda: new(dtype=dtype, rngs=nnx.Rngs(0))))
        with jax.default_device(device), jax.default_matmul_precision(precision):
            run = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))
            return np.asarray(run(parameters, images), np.float64)

    expected = computed(jnp.float32, cpu, "highest")
    for dtype, precision in ((jnp.float32, None), (jnp.float32, "highest"), (jnp.bfloat16, None)):
        difference = computed(dtype, here, precision) - expected
        relative = np.linalg.norm(difference) / np.linalg.norm(expected)
        print(f"scores  {jnp.dtype(dtype).name}, precision {precision}: {relative:.1e} from the CPU's", flush=True)


class Training:
    """The training step of a config, on a random batch that stays on the device; a call does one."""

    def __init__(self, config: ConfigDict):
        self.config, self.mesh = config, sharding.device_mesh(devices=jax.devices()[:1])
        self.split = sharding.split_batch(self.mesh)
        made = program.training_step(config, CLASSES, self.mesh)
        self.operations = made.operations * made.images
        self.compiled = made.traced.lower().compile()
        self.state: TrainState | None = None
        self.batch = jax.device_put(self.new_batch(0), self.split)
        self.rate = sharding.place_number(RATE, self.mesh)

    def begin(self) -> None:
        config = self.config
        optimizer = krizhevsky_momentum(config.train.momentum, config.train.weight_decay)
        self.state = None
        net = new_network(config, CLASSES, computation_dtype(config))
        self.state = sharding.place_state(new_state(net, (), optimizer)[1], self.mesh)

    def new_batch(self, seed: int) -> dict[str, np.ndarray]:
        rng, count, side = np.random.default_rng(seed), self.config.train.batch_size, self.config.data.crop
        images = rng.integers(0, 256, (count, side, side, 3), np.uint8)
        return {
            "image": images,
            "label": rng.integers(0, CLASSES, count, np.int32),
            "mask": np.ones(count, np.float32),
        }

    def __call__(self, batch: dict[str, jax.Array] | None = None) -> jax.Array:
        if self.state is None:
            self.begin()
        self.state, metrics = self.compiled(self.state, batch or self.batch, self.rate)
        return metrics["loss"]


def turns(contestants: dict[str, Callable[[], jax.Array]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds of a step of each, `repeats` times, after a turn that does not count."""
    seconds = {name: [] for name in contestants}
    for number in range(repeats + 1):
        for name, run in contestants.items():
            jax.block_until_ready(run())
            start = time.perf_counter()
            jax.block_until_ready([run() for _ in range(STEPS)])
            if number:
                seconds[name].append((time.perf_counter() - start) / STEPS)
    return {name: np.array(times) for name, times in seconds.items()}


def show(part: str, seconds: dict[str, np.ndarray], images: int = 0) -> None:
    """Each contestant's time, over the first one's in neighboring turns."""
    first = next(iter(seconds.values()))
    for name, times in seconds.items():
        ratio = times / first
        speed = f", {images / np.median(times):,.0f} images/s" if images else ""
        print(
            f"{part:7} {name:14} {1e3 * np.median(times):8.2f} ms{speed}, {np.median(ratio):.3f} "
            f"({ratio.min():.3f} to {ratio.max():.3f}) times as long as {next(iter(seconds))}",
            flush=True,
        )


def reduce_window(x: jax.Array) -> jax.Array:
    """Flax's, which is XLA's: its gradient is a scatter."""
    return layers.relu(nnx.max_pool(x, (2, 2), (2, 2)))


def slices(x: jax.Array) -> jax.Array:
    """The maximum of four slices, with JAX's gradient."""
    return layers.relu(functools.reduce(jnp.maximum, [x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]))


PARTS = {"step": step, "pools": pools, "input": from_host, "bits": bits, "dense": dense, "scores": scores}
POOLS = {"ours": layers.rectified_max_pool, "reduce_window": reduce_window, "slices": slices}


if __name__ == "__main__":
    main()
