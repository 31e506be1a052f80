"""Does the memory of a training process grow? Its resident set over many steps, validations and checkpoints.

    python benchmarks/host_memory.py --steps=10000

A narrow net A on digits, with a checkpoint before every validation. The slope is that of a straight line by least
squares through the steps after the first tenth, in which programs are compiled and pools fill.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from vgg_jax.configs.quickstart import get_config
from vgg_jax.tasks.choose import make_task
from vgg_jax.train.loop import train

SAMPLES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--validations", type=int, default=100)
    given = parser.parse_args()
    config = get_config()
    config.model.width, config.train.batch_size = 0.0625, 8
    config.train.steps, config.evaluate.every = given.steps, given.steps // given.validations
    config.data.train_split, config.data.validation_split = "train[:400]", "validation[:16]"
    config.schedule.kind, config.schedule.boundaries, config.train.learning_rate = "fixed", (), 1e-3
    config.log.every, config.checkpoint.every = 50, given.steps
    resident, every = [], max(1, given.steps // SAMPLES)

    def measured(config, mesh, workdir):
        task = make_task(config, mesh, workdir)
        read = task.batches

        def batches(net, start: int) -> Iterator[dict]:
            with contextlib.closing(read(net, start)) as stream:
                for number, batch in enumerate(stream, start):
                    if number % every == 0:
                        resident.append((number, psutil.Process().memory_info().rss))
                    yield batch

        task.batches = batches
        return task

    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder), measured)
    steps, sizes = np.array(resident).T
    late = steps >= given.steps // 10
    slope, _ = np.polyfit(steps[late], sizes[late], 1)
    megabytes = sizes / 1e6
    print(f"{given.steps:,} steps, {given.validations} validations: {slope:,.0f} bytes a step")
    for step in range(0, len(steps), max(1, len(steps) // 10)):
        print(f"step {steps[step]:6,}: {megabytes[step]:8,.1f} MB")
    print(f"at the end: {megabytes[-1]:,.1f} MB")


if __name__ == "__main__":
    main()
