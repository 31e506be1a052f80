"""Dense evaluation of photographs of many shapes: ours beside one jitted call per image, 50 crops, and PyTorch.

    python -m benchmarks.dense                       100 JPEGs of ImageNet-like sizes, made from scikit-learn's two
    python -m benchmarks.dense --folder=PATH         the JPEG files below a folder
    python -m benchmarks.dense --width=1 --images=40 --parts cold torch

Every contestant goes from files to posteriors: Q = 256, the image and its mirror image. The naive way is a jitted call
per image, at the image's own shape. A cold pass compiles what it needs (JAX's compilation cache is off) in a process of
its own; the other passes have all programs. On a CPU a program with Winograd's tiles runs faster and compiles longer:
the naive way is timed with them and without. Contestants take turns, so that a busy machine slows all alike. Ours is
faster by the median of the ratios of neighboring runs; it is cheaper by that of processor time, which a machine's
other work hardly changes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # contestants share the GPU's memory

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

import vgg_jax
from benchmarks.input import jpegs
from vgg_jax import compiler
from vgg_jax.data.decode import decode
from vgg_jax.data.files import FileSource
from vgg_jax.data.pipeline import scaled_images
from vgg_jax.data.rescaling import rescale
from vgg_jax.inference.scorer import eval_views, posterior_runner, posteriors

SCALE, CLASSES = 256, 1000
PARTS = {
    "cold": ["naive", "naive, lax"],
    "warm": ["naive", "naive, lax"],
    "crops": ["50 crops"],
    "torch": ["torch"],
}
"""Who runs against ours."""

Times = tuple[float, float]
"""Seconds on the clock, and of processor time."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="JPEG files lie below it; by default they are made")
    parser.add_argument("--images", type=int, default=100, help="how many of them, evenly spaced")
    parser.add_argument("--net", default="D")
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
        return
    with tempfile.TemporaryDirectory() as made:
        if arguments.folder is None:
            arguments.folder = Path(made)
            make_photographs(arguments.folder, arguments.images)
        files = files_of(arguments)
        shapes = len({rescale(decode(file.read_bytes()), SCALE).shape for file in files})
        print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}: net {arguments.net}, width {arguments.width:g}")
        print(f"{len(files)} images of {shapes} shapes at Q = {SCALE}, load {os.getloadavg()[0]:.1f}", flush=True)
        for part in arguments.parts:
            show(part, measure(part, arguments), len(files))


def measure(part: str, arguments: argparse.Namespace) -> dict[str, list[Times]]:
    """The times of every contestant's passes, which take turns."""
    names = [*PARTS[part], "ours"]
    rounds = []
    if part == "cold":
        for _ in range(arguments.repeats):
            rounds.append({})
            for name in names:
                with worker(name, arguments) as ask:
                    rounds[-1][name] = ask()
    else:
        with contextlib.ExitStack() as workers:
            ask = {name: workers.enter_context(worker(name, arguments)) for name in names}
            for again in ask.values():
                again()
            rounds = [{name: again() for name, again in ask.items()} for _ in range(arguments.repeats)]
    return {name: [times[name] for times in rounds] for name in names}


def show(part: str, measured: dict[str, list[Times]], images: int) -> None:
    print(f"\n| {part} | s | images/s | ours is faster by | cheaper by |\n|---|---|---|---|---|")
    for name, times in measured.items():
        seconds = np.median(times, 0)[0]
        cells = ["", ""]
        if name in PARTS[part]:
            ratios = np.array(times) / np.array(measured["ours"])
            spread = zip(np.median(ratios, 0), ratios.min(0), ratios.max(0), strict=True)
            cells = [f"{middle:.2f} ({least:.2f} to {most:.2f})" for middle, least, most in spread]
        print(f"| {name} | {seconds:.2f} | {images / seconds:.1f} | {cells[0]} | {cells[1]} |", flush=True)


@contextlib.contextmanager
def worker(name: str, arguments: argparse.Namespace) -> Iterator[Callable[[], Times]]:
    """A process for one contestant; the function makes it pass over the images and gives the times it took."""
    options = [f"--{key}={getattr(arguments, key)}" for key in ("folder", "images", "net", "width")]
    command = [sys.executable, "-m", "benchmarks.dense", "--worker", name, *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:

        def ask() -> Times:
            process.stdin.write("\n")
            return tuple(map(float, process.stdout.readline().split()))

        yield ask
        process.stdin.close()


def work(arguments: argparse.Namespace) -> None:
    """What a worker does: a pass over the images for every line, until there are no more."""
    compiler.keep_memory()  # as the commands do
    jax.config.update("jax_enable_compilation_cache", False)
    name, files = arguments.worker, files_of(arguments)
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    options = {"width": arguments.width, "num_classes": CLASSES, "dtype": dtype}
    options |= {"conv": "lax"} if name == "naive, lax" else {}
    net = vgg_jax.VGG(arguments.net, **options, rngs=nnx.Rngs(0))
    if name == "torch":
        evaluate = torch_of(net)
    elif name.startswith("naive"):
        evaluate = one_by_one(net)
    else:
        evaluate = ours(net, "crops" if name == "50 crops" else "dense")
    for _ in sys.stdin:
        start = time.perf_counter(), time.process_time()
        remark = evaluate(files)
        print(time.perf_counter() - start[0], time.process_time() - start[1], flush=True)
    if remark:
        print(f"{name}: {remark}", file=sys.stderr)


def ours(net: vgg_jax.VGG, protocol: str) -> Callable[[list[Path]], str]:
    importlib.import_module("vgg_jax.data.jpeg")  # TensorFlow, before the clock runs as JAX was and torch is
    views = eval_views([protocol], [SCALE])
    runner = posterior_runner(net)

    def evaluate(files: list[Path]) -> str:
        with scaled_images(FileSource(files), range(len(files)), [SCALE]) as examples:
            count = sum(1 for _ in posteriors(runner, examples, views))
        assert count == len(files)
        return f"{runner.batcher.shapes} programs, {runner.batcher.waste:.1%} of the pixels wasted"

    return evaluate


def one_by_one(net: vgg_jax.VGG) -> Callable[[list[Path]], None]:
    """The naive way: a jitted function, called on every image at its own shape."""
    graphdef, state = nnx.split(net)

    @jax.jit
    def posterior(state, image):
        scores = nnx.merge(graphdef, state)(jnp.stack([image, image[:, ::-1]])).mean((1, 2))
        return jax.nn.softmax(scores).mean(0)

    def evaluate(files: list[Path]) -> None:
        for file in files:
            np.asarray(posterior(state, rescale(decode(file.read_bytes()), SCALE)))

    return evaluate


def torch_of(net: vgg_jax.VGG) -> Callable[[list[Path]], None]:
    """PyTorch in channels_last, on a GPU in bfloat16, one image at a time."""
    import torch

    on_gpu = torch.cuda.is_available()
    device, channels_last = "cuda" if on_gpu else "cpu", torch.channels_last
    mean = torch.tensor(np.asarray(net.mean_rgb[...]), device=device)[:, None, None]
    layers = []
    for stage in range(1, len(net.spec.stages) + 1):
        for number in range(1, len(net.spec.stages[stage - 1]) + 1):
            layers += [getattr(net, f"conv{stage}_{number}"), "relu"]
        layers += ["pool"]
    layers += [net.fc6, "relu", net.fc7, "relu", net.fc8]

    def as_torch(layer) -> torch.nn.Module:
        if isinstance(layer, str):
            return torch.nn.ReLU(inplace=True) if layer == "relu" else torch.nn.MaxPool2d(2)
        height, width, inputs, outputs = layer.kernel.shape
        padding = height // 2 if layer.padding == "SAME" else 0
        return torch.nn.Conv2d(inputs, outputs, (height, width), padding=padding)

    model = torch.nn.Sequential(*map(as_torch, layers)).to(device, memory_format=channels_last).eval()
    mixed = torch.autocast("cuda", torch.bfloat16) if on_gpu else contextlib.nullcontext()

    def evaluate(files: list[Path]) -> None:
        with torch.inference_mode(), mixed:
            for file in files:
                image = torch.tensor(rescale(decode(file.read_bytes()), SCALE), device=device).permute(2, 0, 1)
                views = (torch.stack([image, image.flip(2)]).float() - mean).contiguous(memory_format=channels_last)
                model(views).float().mean((2, 3)).softmax(1).mean(0).cpu()

    return evaluate


def files_of(arguments: argparse.Namespace) -> list[Path]:
    files = jpegs(arguments.folder)
    places = np.linspace(0, len(files) - 1, min(arguments.images, len(files))).round().astype(int)
    return [files[place] for place in places]


def make_photographs(folder: Path, count: int) -> None:
    """Parts of two photographs in ImageNet-like sizes: three in four of the four usual ones, the rest of any."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    usual, draw = [(500, 375), (375, 500), (500, 333), (333, 500)], np.random.default_rng(0)
    for number in range(count):
        kind = draw.choice(5, p=[0.45, 0.12, 0.12, 0.05, 0.26])
        aspect, smaller = np.exp(draw.normal(0.15, 0.35)), draw.integers(200, 700)
        size = usual[kind] if kind < 4 else (round(smaller * max(aspect, 1)), round(smaller * max(1 / aspect, 1)))
        left, top = draw.integers(0, 100, 2)
        part = photographs[number % 2].crop((left, top, left + 500, top + 320)).resize(size, Image.Resampling.BICUBIC)
        file = io.BytesIO()
        part.save(file, "JPEG", quality=95)
        (folder / f"{number:03}.jpg").write_bytes(file.getvalue())


if __name__ == "__main__":
    main()
