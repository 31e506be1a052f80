"""Descriptors beside the scorer: images a second from files, at the same scales (App. B).

    python -m benchmarks.descriptors                                  photographs of ImageNet-like sizes, made
    python -m benchmarks.descriptors --folder=PATH --images=500 --width=1 --scales 256 384 512
    python -m benchmarks.descriptors --memory 10000 20000 --net=A --width=0.0625 --scales 64 --layer=pool5

Both read the same files, at the same scales, with mirror images, and take turns; the first round compiles and does not
count. The store's features are written to a new folder each time, one scale after the other; the scorer gives dense
posteriors. The ratio is of neighboring runs, by the clock and by processor time, which a machine's other work hardly
changes.

With --memory the store alone is filled, with so many images, which are the photographs under so many names: the largest
memory of the process's own, without the mapped arrays, which the system may write out (Linux).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import vgg_jax
from benchmarks.dense import files_of, make_photographs
from vgg_jax.data.files import FileSource
from vgg_jax.data.pipeline import scaled_images
from vgg_jax.inference.pooled_features import kept_features
from vgg_jax.inference.scorer import eval_views, posterior_runner, posteriors, scales_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="JPEG files lie below it; by default they are made")
    parser.add_argument("--images", type=int, default=100, help="how many of them, evenly spaced")
    parser.add_argument("--net", default="D")
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--layer", default="relu7")
    parser.add_argument("--scales", type=int, nargs="+", default=[256, 384])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="+", help="of the store, for so many images, one after the other")
    arguments = parser.parse_args()
    net = vgg_jax.VGG(arguments.net, width=arguments.width, rngs=nnx.Rngs(0))
    with tempfile.TemporaryDirectory() as made:
        if arguments.folder is None:
            arguments.folder = Path(made)
            make_photographs(arguments.folder, arguments.images)
        source, scales = FileSource(files_of(arguments)), arguments.scales
        if arguments.memory:
            show_memory(net, source, scales, arguments.layer, arguments.memory)
            return
        ways = {
            "scorer": lambda: score(net, source, scales),
            "store": lambda: keep(net, source, scales, arguments.layer),
        }
        seconds = [{name: timed(way) for name, way in ways.items()} for _ in range(arguments.repeats + 1)][1:]
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}: net {arguments.net}, width {arguments.width:g}")
    print(f"{len(source)} images at Q = {', '.join(map(str, scales))}, with mirror images")
    for name in ways:
        clock, processor = np.median([times[name] for times in seconds], axis=0) / len(source)
        print(f"{name}: {1 / clock:.2f} images a second, {processor:.3f} s of processor time an image")
    for place, what in enumerate(("the clock", "processor time")):
        ratios = sorted(times["scorer"][place] / times["store"][place] for times in seconds)
        print(f"store / scorer by {what}: {np.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def score(net: vgg_jax.VGG, source: FileSource, scales: list[int]) -> None:
    views = eval_views(["dense"], scales)
    runner = posterior_runner(net)
    with scaled_images(source, range(len(source)), scales_of(views)) as examples:
        count = sum(1 for _ in posteriors(runner, examples, views))
    assert count == len(source) * len(scales)


def keep(net: vgg_jax.VGG, source: FileSource, scales: list[int], layer: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert kept_features(Path(folder), net, source, [layer], scales).there.all()


def show_memory(net: vgg_jax.VGG, source: FileSource, scales: list[int], layer: str, counts: list[int]) -> None:
    keep(net, source, scales, layer)  # compiles
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            names = [f"{folder}/{number:07}.jpg" for number in range(count)]
            for number, name in enumerate(names):
                os.symlink(source.files.paths[number % len(source)], name)
            with largest_memory() as largest:
                keep(net, FileSource(names), scales, layer)
        print(f"{count:,} images: {largest[0] / 1e3:.1f} MB at most, {largest[1] / 1e3:.1f} before", flush=True)


@contextlib.contextmanager
def largest_memory():
    """The process's own memory in kB: the largest so far of what is measured a hundred times a second, the first."""
    own = lambda: int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text()).group(1))
    largest, ended = [own()] * 2, threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            largest[0] = max(largest[0], own())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield largest
    finally:
        ended.set()
        thread.join()


def timed(way) -> np.ndarray:
    """Seconds on the clock, and of processor time."""
    seconds = lambda: np.array([time.perf_counter(), sum(os.times()[:2])])
    began = seconds()
    way()
    return seconds() - began


if __name__ == "__main__":
    main()
