"""Localization: the merging of boxes, and dense boxes beside dense classification (Appendix A).

    python -m benchmarks.localization                  both parts
    taskset -c 0 python -m benchmarks.localization --parts merge        on one core
    python -m benchmarks.localization --parts dense --width=1 --images=20

Boxes are random, around one object or all over the image: their programs are compiled before, and the median of the
repeats counts. Dense boxes are a net's with four outputs per class, at Q = 384 with the mirror image, and of the five
best classes merged; dense classification is that of the same net with one output per class. Both begin at arrays in
memory and take turns; boxes are as fast by the median of the ratios of neighboring runs.

On a CPU time is the process's own, of all its threads, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

import vgg_jax
from vgg_jax import compiler
from vgg_jax.inference.merge import MATCHES, merge

SCALE, CLASSES = 384, 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", default=["merge", "dense"], choices=["merge", "dense"])
    parser.add_argument("--net", default="D")
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    compiler.keep_memory()
    device, load = jax.devices()[0].device_kind, os.getloadavg()[0]
    print(f"{device}, jax {jax.__version__}, load {load:.1f}, {len(os.sched_getaffinity(0))} cores", flush=True)
    if "merge" in arguments.parts:
        merging(arguments.repeats)
    if "dense" in arguments.parts:
        dense(arguments)


def seconds(function: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    begin = clock()
    function()
    return clock() - begin


def merging(repeats: int) -> None:
    """The time to merge sets of boxes, by match score."""
    rng = np.random.default_rng(0)
    print("\n| boxes | match | ms | left |\n|---|---|---|---|")
    for sets, count in ((1, 600), (5, 120), (1, 10_000)):
        for where, room in (("one object", 0.2), ("all over", 3.0)):
            low = rng.uniform(0, room, (sets, count, 2))
            boxes = np.concatenate([low, low + rng.uniform(0.2, 0.6, (sets, count, 2))], 2) / (room + 0.6)
            for match in MATCHES:
                run = lambda boxes=boxes, match=match: [merge(some, np.ones(len(some)), match, 0.2) for some in boxes]
                left = sum(len(found) for found, _ in run())
                middle = np.median([seconds(run) for _ in range(repeats)])
                print(f"| {sets} x {count:,}, {where} | {match} | {1e3 * middle:.2f} | {left:,} |", flush=True)


def dense(arguments: argparse.Namespace) -> None:
    """Images a second of dense classification and of dense boxes, and their ratio."""
    rng = np.random.default_rng(0)
    photographs = [rng.integers(0, 256, shape, np.uint8) for shape in ((384, 512, 3), (512, 384, 3))]
    images = [photographs[number % 2] for number in range(arguments.images)]
    new = lambda outputs: vgg_jax.VGG(
        arguments.net, num_classes=outputs, width=arguments.width, init="he", rngs=nnx.Rngs(0)
    )
    scorer, boxes = vgg_jax.Scorer(new(CLASSES), (SCALE,)), new(4 * CLASSES)
    posteriors = rng.dirichlet(np.ones(CLASSES), len(images))
    ours = {
        "classification": lambda: scorer(images),
        "boxes": lambda: vgg_jax.localize(boxes, images, posteriors, scales=(SCALE,)),
    }
    for run in ours.values():
        run()
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    times = np.array([[seconds(run, clock) for run in ours.values()] for _ in range(arguments.repeats)])
    print(f"\nnet {arguments.net}, width {arguments.width:g}, {len(images)} images at Q = {SCALE}")
    for name, middle in zip(ours, np.median(times, 0), strict=True):
        print(f"{name}: {len(images) / middle:.2f} images/s")
    ratios = times[:, 0] / times[:, 1]
    print(f"boxes at {np.median(ratios):.2f} of classification's ({ratios.min():.2f} to {ratios.max():.2f})")


if __name__ == "__main__":
    main()
