"""Seconds from the command to the first finished step, by part, and what `import vgg_jax` adds to JAX and Flax.

    python benchmarks/startup.py [--config=quickstart] [--repeats 3]

Every run is a process of its own; the first and the last part tell how busy the machine was. The run itself reports
its parts in its log; here they are collected, and the median run is printed: of first starts, with an empty cache of
compiled programs, and of second ones, which find in it what the first one compiled.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

IMPORTS = {
    "jax and flax.nnx": "import jax; from flax import nnx",
    "vgg_jax too": "import jax; from flax import nnx; import vgg_jax",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    times = {name: [] for name in IMPORTS}
    starts = {"first": [], "second": []}
    for _ in range(arguments.repeats):
        for name, code in IMPORTS.items():
            timed = f"import time; began = time.perf_counter(); {code}; print(time.perf_counter() - began)"
            times[name].append(float(subprocess.check_output([sys.executable, "-c", timed], text=True)))
        with tempfile.TemporaryDirectory() as cache:
            for lines in starts.values():
                lines.append(first_step(arguments.config, cache))
    medians = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    print(f"import jax and flax.nnx: {medians['jax and flax.nnx']:.2f} s")
    print(f"import vgg_jax adds: {medians['vgg_jax too'] - medians['jax and flax.nnx']:.2f} s")
    for name, lines in starts.items():
        print(f"{name} start: {sorted(lines, key=seconds)[len(lines) // 2]}")


def first_step(config: str, cache: str) -> str:
    """The line of a new run's log that says where the start-up went, with this folder as the user's cache."""
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vgg_jax.main", f"--config={config}", f"--workdir={folder}/run"]
        steps = ["--config.train.steps=1", "--config.schedule.kind=fixed", "--config.schedule.boundaries=()"]
        subprocess.run([*command, *steps], check=True, capture_output=True, env=environment)
        log = (Path(folder) / "run" / "log.txt").read_text()
    return re.search(r"first step after [^;]*", log).group()


def seconds(line: str) -> float:
    return float(re.search(r"after ([\d.]+) s", line).group(1))


if __name__ == "__main__":
    main()
