"""A compiled program in figures, and in lines (Sec. 3.3)."""

from __future__ import annotations

import jax
from ml_collections import ConfigDict

from vgg_jax.ahead import hlo, program
from vgg_jax.ahead.collectives import collectives
from vgg_jax.ahead.roofline import roofline
from vgg_jax.ahead.schedule import waiting
from vgg_jax.ahead.topologies import Topology
from vgg_jax.ahead.traffic import traffic, traffic_without_products
from vgg_jax.errors import ConfigError
from vgg_jax.model.from_config import computation_dtype
from vgg_jax.sharding import device_mesh
from vgg_jax.train import memory


def report(config: ConfigDict, outputs: int, where: Topology, *, dense: bool = False) -> dict:
    """Compiles a config's program, and says what it needs and how fast it could be.

    Args:
      config: a valid one.
      outputs: channels of the network's last layer.
      where: the accelerators.
      dense: dense evaluation instead of the training step.

    Returns:
      Figures that JSON takes; bytes and seconds.

    Raises:
      ConfigError: it does not divide over the chips, or the compiler finds no room for it.
    """
    chip, chips, mesh = where.chip, len(where.devices), device_mesh(config.mesh.model, where.devices)
    if chip.host and config.mesh.model > chip.host:  # there they are one slice, in a run a slice for each host
        raise ConfigError(
            f"config.mesh.model={config.mesh.model}: at most the {chip.host} chips of a host share the FC layers"
        )
    dtype = computation_dtype(config, "accelerator")
    if dense:
        made = program.dense_evaluation(config, outputs, mesh)
        planned = {"parameters": sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(made.state))}
        change = "config.evaluate.batch_size"
    else:
        made = program.training_step(config, outputs, mesh)
        plan = memory.plan(config, made.state, mesh, dtype.itemsize, chip.lanes)
        capacity = 0.9 * min(plan.total, chip.memory)
        change = memory.ways_out(config, made.state, mesh, dtype.itemsize, chip.lanes, capacity)
        planned = plan._asdict()
    try:
        compiled = made.compile(where.platform)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
        raise ConfigError(f"--topology={where.name}: does not fit: {reason}; change {change}") from error
    module, on_gpu = hlo.parse(compiled.as_text()), where.platform == "cuda"
    # Of a GPU's program XLA's cost analysis leaves out what cuDNN and cuBLAS compute.
    cost = {} if on_gpu else compiled.cost_analysis() or {}
    needed, exchanged = compiled.memory_analysis(), collectives(module, chips)
    flops = cost.get("flops") or made.operations * made.images / chips
    moved = cost.get("bytes accessed") or traffic(module)
    line = roofline(chip, flops, moved, exchanged, traffic_without_products(module) if on_gpu else 0)
    at_peak = made.operations * made.images / chips / chip.peak
    arguments = needed.argument_size_in_bytes
    total = arguments + needed.output_size_in_bytes - needed.alias_size_in_bytes + needed.temp_size_in_bytes
    return {
        "net": config.model.net,
        "program": made.name,
        "topology": where.name,
        "chips": chips,
        "model_axis": config.mesh.model,
        "images": made.images,
        "side": made.side,
        "dtype": dtype.name,
        "jax": jax.__version__,
        "memory": {
            "planned": {name: int(size) for name, size in planned.items()},
            "arguments": arguments,
            "temporaries": needed.temp_size_in_bytes,
            "total": total,
            "of": int(chip.memory),
            "fits": total <= chip.memory,
            "change": change,
        },
        "operations_per_image": flops * chips / made.images,
        "traffic_per_image": moved * chips / made.images,
        "collectives": [each._asdict() | {"sent": each.sent} for each in exchanged],
        "sent": sum(each.sent for each in exchanged),
        "prediction": {
            **line._asdict(),
            "best": line.best,
            "worst": line.worst,
            "scheduled": line.alone + waiting(module, chip, chips),
            "images_per_second": [made.images / line.worst, made.images / line.best],
            "efficiency": [line.alone / line.worst, line.alone / line.best],
            "share_of_peak": [at_peak / line.worst, at_peak / line.best],
            "days": None if dense else [config.train.steps * time / 86400 for time in (line.best, line.worst)],
        },
    }


def lines(figures: dict) -> str:
    """What `report` gives, to be read."""
    room, guess, chips = figures["memory"], figures["prediction"], figures["chips"]
    low, high = guess["images_per_second"]
    text = [
        "net {net}, {program}, {images} images of {side[0]} x {side[1]}, {dtype}, "
        "on {topology}, {chips} in all, model axis {model_axis}".format(**figures),
        "memory of a chip: "
        + ", ".join(f"{name} {_mega(size)}" for name, size in room["planned"].items())
        + " (planned)",
        f"  compiled: {_mega(room['total'])} of {_mega(room['of'])}, of it temporaries {_mega(room['temporaries'])}: "
        + ("fits" if room["fits"] else f"does not fit; change {room['change']}"),
        f"an image: {figures['operations_per_image'] / 1e9:.3g} GFLOP, {_mega(figures['traffic_per_image'])} moved",
        *(
            f"{each['kind']} among {each['group']}: {each['count']} of {_mega(each['bytes'])} a step, "
            f"each chip sends {_mega(each['sent'])}"
            for each in figures["collectives"][:8]
        ),
        "prediction, from the data sheet (collectives hidden behind nothing, or behind all the rest):",
        f"  products {_milli(guess['products'])}, memory {_milli(guess['memory'])}"
        + (f" ({_milli(guess['apart'])} of it in kernels without products)" if guess["apart"] else "")
        + f", interconnect {_milli(guess['interconnect'])}",
        f"  a step {_milli(guess['worst'])} to {_milli(guess['best'])}, {_milli(guess['scheduled'])} with what the "
        "schedule has beside the collectives",
        f"  {low:,.0f} to {high:,.0f} images/s, {low / chips:,.0f} to {high / chips:,.0f} per chip; "
        f"share of peak {_percent(guess['share_of_peak'])}; efficiency {_percent(guess['efficiency'])}",
    ]
    if guess["days"]:
        text.append("  all steps of the config: {:.2f} to {:.2f} days".format(*guess["days"]))
    return "\n".join(text)


def _mega(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def _milli(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"


def _percent(fractions: list[float]) -> str:
    return " to ".join(f"{100 * fraction:.0f} %" for fraction in fractions)
