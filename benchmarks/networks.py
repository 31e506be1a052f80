"""Times vgg_jax beside PyTorch: the forward pass and the training step of nets A, D and E.

    python benchmarks/networks.py [--nets A D E] [--batch 8] [--repeats 5]

Both libraries get their best: on the CPU float32, all cores and, in PyTorch, channels_last; on a GPU bfloat16 and, in
PyTorch, channels_last, autocast, torch.compile, convolutions that are tried out and the fused update. A training step
is the loss, its gradients and the update with momentum and weight decay, without dropout. Each library has a process of
its own, set up as its user finds it (vgg_jax as its commands do), and they take turns, so that a busy machine slows
both alike. A ratio above 1 says that vgg_jax is the faster by that factor: it is the median of the ratios of
neighboring runs. On a GPU whose peak is known its share is printed too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the GPU's memory.

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import vgg_jax
from vgg_jax import compiler
from vgg_jax.tasks.classification import classification_loss
from vgg_jax.train.optimizer import krizhevsky_momentum
from vgg_jax.train.state import new_state
from vgg_jax.train.step import make_train_step

CROP, CLASSES, RATE, MOMENTUM, DECAY = 224, 1000, 1e-4, 0.9, 5e-4
WORKERS = ("vgg_jax", "torch")
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second, from NVIDIA's data sheets."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nets", nargs="+", default=["A", "D", "E"])
    parser.add_argument("--batch", type=int, default=0, help="images; by default 8 on a CPU, 256 on a GPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.nets[0], arguments.batch)
        return
    on_gpu, kind = jax.default_backend() == "gpu", jax.devices()[0].device_kind
    batch = arguments.batch or (256 if on_gpu else 8)
    print(f"{kind}, {batch} images, jax {jax.__version__}, torch {torch.__version__}")
    print(f"XLA_FLAGS={os.environ.get('XLA_FLAGS', '')!r}")
    for net in arguments.nets:
        with contextlib.ExitStack() as workers:
            ask = {name: workers.enter_context(worker(name, net, batch)) for name in WORKERS}
            for task, operations in operations_of(net, batch).items():
                # Two rounds first, for compilation and memory.
                rounds = [[ask[name](task) for name in WORKERS] for _ in range(arguments.repeats + 2)]
                mine, other = np.array(rounds[2:]).T
                line = f"{net} {task:8} vgg_jax {np.median(mine):8.4f} s   torch {np.median(other):8.4f} s"
                line += (
                    f"   ratio {np.median(other / mine):.2f} ({(other / mine).min():.2f} to {(other / mine).max():.2f})"
                )
                peak = next((peak for name, peak in PEAKS.items() if name in kind), None)
                if peak:
                    shares = [operations / np.median(times) / peak for times in (mine, other)]
                    line += f"   of peak {shares[0]:.0%} and {shares[1]:.0%}"
                print(line, flush=True)


@contextlib.contextmanager
def worker(name: str, net: str, batch: int) -> Iterator[Callable[[str], float]]:
    """A process for one library and net; the function runs a task in it and gives the seconds it took."""
    command = [sys.executable, __file__, "--worker", name, "--nets", net, "--batch", str(batch)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:

        def ask(task: str) -> float:
            process.stdin.write(task + "\n")
            return float(process.stdout.readline())

        yield ask
        process.stdin.close()


def work(name: str, net: str, batch: int) -> None:
    """What a worker does: one task per line, until there are no more."""
    on_gpu = torch.cuda.is_available()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, CROP, CROP, 3), np.uint8)
    labels = rng.integers(0, CLASSES, batch, np.int32)
    if name == "vgg_jax":
        compiler.keep_memory()  # as the commands do
        tasks = ours_of(net, images, labels, on_gpu)
    else:
        torch.set_num_threads(os.cpu_count())
        tasks = theirs_of(net, images, labels, on_gpu)
    for line in sys.stdin:
        start = time.perf_counter()
        tasks[line.strip()]()
        print(time.perf_counter() - start, flush=True)


def ours_of(net: str, images: np.ndarray, labels: np.ndarray, on_gpu: bool) -> dict[str, Callable]:
    """vgg_jax's two tasks, as functions that return when the work is done."""
    dtype = jnp.bfloat16 if on_gpu else jnp.float32
    module = vgg_jax.VGG(net, num_classes=CLASSES, crop=CROP, dropout=0.0, dtype=dtype, rngs=nnx.Rngs(0))
    optimizer = krizhevsky_momentum(MOMENTUM, DECAY)
    graphdef, state = new_state(module, (), optimizer)
    loss = lambda net, batch, keys: classification_loss(net(batch["image"], keys=keys), batch)
    update = make_train_step(graphdef, loss, optimizer, seed=0)
    update = compiler.jit(update, donate_argnums=0)
    forward = compiler.jit(lambda trainable, rest, images: nnx.merge(graphdef, trainable, rest)(images))
    batch = jax.device_put({"image": images, "label": labels, "mask": np.ones(len(labels), np.float32)})

    def train():
        nonlocal state
        state, metrics = update(state, batch, RATE)
        jax.block_until_ready((state, metrics))

    return {
        "forward": lambda: forward(state.trainable, state.rest, batch["image"]).block_until_ready(),
        "training": train,
    }


def theirs_of(net: str, images: np.ndarray, labels: np.ndarray, on_gpu: bool) -> dict[str, Callable]:
    """PyTorch's two tasks on the same net, as functions that return when the work is done."""
    device = "cuda" if on_gpu else "cpu"
    torch.backends.cudnn.benchmark = True  # it tries convolutions out, as XLA does
    images = (
        torch.tensor(images, device=device).permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
    )
    images -= torch.tensor([123.68, 116.779, 103.939], device=device)[:, None, None]
    labels = torch.tensor(labels, device=device, dtype=torch.long)
    module = torch_net(net).to(device, memory_format=torch.channels_last)
    model = torch.compile(module) if on_gpu else module
    optimizer = torch.optim.SGD(module.parameters(), RATE, MOMENTUM, weight_decay=DECAY, fused=on_gpu)
    mixed = torch.autocast("cuda", torch.bfloat16) if on_gpu else contextlib.nullcontext()
    wait = torch.cuda.synchronize if on_gpu else lambda: None

    def forward():
        with torch.no_grad(), mixed:
            model(images)
        wait()

    def train():
        optimizer.zero_grad(set_to_none=True)
        with mixed:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        wait()

    return {"forward": forward, "training": train}


def torch_net(net: str) -> torch.nn.Sequential:
    nn, layers, channels = torch.nn, [], 3
    for stage in vgg_jax.SPECS[net].stages:
        for row in stage:
            layers += [nn.Conv2d(channels, row.channels, row.size, padding="same"), nn.ReLU(inplace=True)]
            channels = row.channels
        layers += [nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(channels * (CROP // 32) ** 2, 4096), nn.ReLU(inplace=True)]
    layers += [nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Linear(4096, CLASSES)]
    return nn.Sequential(*layers)


def operations_of(net: str, batch: int) -> dict[str, float]:
    """Additions and multiplications of both tasks as the layers are defined; no gradient goes to the images."""
    counts, channels, side = [], 3, CROP
    for stage in vgg_jax.SPECS[net].stages:
        for row in stage:
            counts += [2 * batch * (side * row.size) ** 2 * channels * row.channels]
            channels = row.channels
        side //= 2
    counts += [2 * batch * n for n in (channels * side**2 * 4096, 4096 * 4096, 4096 * CLASSES)]
    return {"forward": sum(counts), "training": 3 * sum(counts) - counts[0]}


if __name__ == "__main__":
    main()
