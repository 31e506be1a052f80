"""The programs of nets for accelerators that are not here, in a table: memory, traffic, collectives, a prediction.

    python benchmarks/compiled.py [--nets A D] [--topologies v5e:2x2 h100:8] [--programs training dense]
        [--batch 64] [--in-all 256] [--model 1 4] [--kept compiled.json]

It needs the extras tpu-compiler and gpu-compiler. A GPU's program of net D takes a quarter of a minute, a TPU's two to
seven minutes of a core; with --kept what was compiled before is not compiled again. The last column is the speed of all
chips over that of one with as many images a chip (or in all), if its row is in the table before: with the collectives
beside what the program's schedule has beside them, and in brackets beside nothing and beside everything.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from vgg_jax.commands.compile import compile_for
from vgg_jax.config import default_config
from vgg_jax.errors import ConfigError

COLUMNS = (
    "net",
    "program",
    "topology",
    "images a chip",
    "model axis",
    "memory of a chip, GB",
    "of it temporaries",
    "planned",
    "moved, MB an image",
    "GFLOP an image",
    "sent, MB a chip",
    "predicted images/s a chip",
    "share of peak, %",
    "times one chip",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nets", nargs="+", default=["A", "D"])
    parser.add_argument("--topologies", nargs="+", default=["v5e:2x2", "h100:8"])
    parser.add_argument("--programs", nargs="+", choices=["training", "dense"], default=["training"])
    parser.add_argument("--batch", nargs="*", type=int, default=[64], help="images in training, for each chip")
    parser.add_argument("--in-all", nargs="*", type=int, default=[], help="images in training, over all chips")
    parser.add_argument("--model", nargs="+", type=int, default=[1], help="chips that share the FC layers, at most")
    parser.add_argument("--kept", type=Path, help="a JSON file of what was compiled before")
    arguments = parser.parse_args()
    kept = json.loads(arguments.kept.read_text()) if arguments.kept and arguments.kept.exists() else {}
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    alone: dict[tuple, float] = {}
    for series, config, topology, program in asked_for(arguments):
        name = f"{config.model.net} {program} {topology} {config.train.batch_size} {config.mesh.model}"
        if name not in kept:
            kept[name] = figures_of(config, topology, program)
            if arguments.kept:
                arguments.kept.write_text(json.dumps(kept, indent=1) + "\n")
        figures = kept[name]
        if figures.get("chips") == 1:
            alone[series] = figures["images"] / figures["prediction"]["scheduled"]
        print("| " + " | ".join(cells(config, topology, program, figures, alone.get(series))) + " |", flush=True)


def asked_for(arguments: argparse.Namespace) -> Iterator[tuple[tuple, ConfigDict, str, str]]:
    """Series of rows that differ in the number of chips, config, topology and program of each row."""
    for net in arguments.nets:
        for program in arguments.programs:
            for in_all, images in [(False, n) for n in arguments.batch] + [(True, n) for n in arguments.in_all]:
                for topology in arguments.topologies:
                    kind, _, sides = topology.partition(":")
                    chips = math.prod(map(int, re.findall(r"\d+", sides)))
                    models = arguments.model if program == "training" else [1]
                    for model in dict.fromkeys(min(model, chips) for model in models):
                        config = default_config()
                        config.model.net, config.mesh.model = net, model
                        config.train.batch_size = images if in_all else images * chips
                        yield (kind, net, program, in_all, images), config, topology, program


def figures_of(config: ConfigDict, topology: str, program: str) -> dict:
    try:
        return compile_for(config, topology, dense=program == "dense")
    except ConfigError as error:
        return {"error": str(error).splitlines()[0]}


def cells(config: ConfigDict, topology: str, program: str, figures: dict, alone: float | None) -> list[str]:
    """A row; `alone` is one chip's images per second."""
    if "error" in figures:
        return [config.model.net, program, topology, "", str(config.mesh.model), figures["error"]]
    room, guess, chips, images = (figures[key] for key in ("memory", "prediction", "chips", "images"))
    rate, low, high = (images / guess[key] for key in ("scheduled", "worst", "best"))
    peak = guess["share_of_peak"][1] * guess["best"] / guess["scheduled"]
    times = f"{rate / alone:.2f} ({low / alone:.2f} to {high / alone:.2f})" if alone else ""
    planned = "" if program == "dense" else f"{sum(room['planned'].values()) / 1e9:.2f}"
    return [
        *(config.model.net, program, topology, f"{images / chips:g}", str(config.mesh.model)),
        f"{room['total'] / 1e9:.2f}" + ("" if room["fits"] else " (does not fit)"),
        f"{room['temporaries'] / 1e9:.2f}",
        planned,
        f"{figures['traffic_per_image'] / 1e6:.0f}",
        f"{figures['operations_per_image'] / 1e9:.1f}",
        f"{figures['sent'] / 1e6:.0f}",
        f"{rate / chips:,.0f}",
        f"{100 * peak:.0f}",
        times,
    ]


if __name__ == "__main__":
    main()
