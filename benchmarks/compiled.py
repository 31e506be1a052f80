"""The programs of nets for accelerators that are not here, in a table: memory, traffic, collectives, a prediction.

    python benchmarks/compiled.py [--nets A D] [--topologies v5e:2x2 h100:8] [--programs training dense]
        [--batch 64] [--model 1 4]

It needs the extras tpu-compiler and gpu-compiler. A TPU's program of net D takes minutes of two cores.
"""

from __future__ import annotations

import argparse
import math
import re
import time

from vgg_jax.commands.compile import compile_for
from vgg_jax.config import default_config
from vgg_jax.errors import ConfigError

COLUMNS = (
    "net",
    "program",
    "topology",
    "images",
    "model axis",
    "memory, GB",
    "temporaries, GB",
    "moved, MB an image",
    "GFLOP an image",
    "sent, MB a chip",
    "images/s a chip",
    "efficiency, %",
    "share of peak, %",
    "compiled in, s",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nets", nargs="+", default=["A", "D"])
    parser.add_argument("--topologies", nargs="+", default=["v5e:2x2", "h100:8"])
    parser.add_argument("--programs", nargs="+", choices=["training", "dense"], default=["training"])
    parser.add_argument("--batch", type=int, default=64, help="images in training, for each chip")
    parser.add_argument("--model", nargs="+", type=int, default=[1], help="chips that share the FC layers")
    arguments = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    for topology in arguments.topologies:
        chips = math.prod(map(int, re.findall(r"\d+", topology.partition(":")[2])))
        for net in arguments.nets:
            for program in arguments.programs:
                for model in arguments.model if program == "training" else [1]:
                    config = default_config()
                    config.model.net, config.mesh.model = net, model
                    config.train.batch_size = arguments.batch * chips
                    print("| " + " | ".join(row(config, topology, program)) + " |", flush=True)


def row(config, topology: str, program: str) -> list[str]:
    began = time.monotonic()
    try:
        figures = compile_for(config, topology, dense=program == "dense")
    except ConfigError as error:
        return [config.model.net, program, topology, str(error).splitlines()[0]]
    room, guess, chips = figures["memory"], figures["prediction"], figures["chips"]
    between = lambda pair, factor=1.0: " to ".join(f"{factor * value:,.0f}" for value in pair)
    return [
        *(config.model.net, program, topology, str(figures["images"]), str(config.mesh.model)),
        f"{room['total'] / 1e9:.2f}" + ("" if room["fits"] else " (does not fit)"),
        f"{room['temporaries'] / 1e9:.2f}",
        f"{figures['traffic_per_image'] / 1e6:.0f}",
        f"{figures['operations_per_image'] / 1e9:.1f}",
        f"{figures['sent'] / 1e6:.0f}",
        between(guess["images_per_second"], 1 / chips),
        between(guess["efficiency"], 100),
        between(guess["share_of_peak"], 100),
        f"{time.monotonic() - began:.0f}",
    ]


if __name__ == "__main__":
    main()
