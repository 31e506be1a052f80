"""Which of the paper's networks a file holds (Table 1), and everything in it that does not fit.

The shapes say the width, the units of fc6 and fc7, the classes and, by fc6's window, the crop. Every network is
compared with the file; the one with the fewest faults is meant. If it has any, they are reported all at once.
"""

from __future__ import annotations

import dataclasses
import math
from numbers import Integral

import numpy as np

from vgg_jax.errors import CheckpointError, ConfigError
from vgg_jax.model import specs
from vgg_jax.model.match import match
from vgg_jax.weights.layouts import Layout, outputs_and_inputs, stored_shape


@dataclasses.dataclass(frozen=True)
class Hints:
    """What the caller says of the network; None is left to the file.

    Attributes:
      net: the paper's letter or an alias.
      partial: whether whole layers may be missing.
      num_classes, hidden, crop: for a file that lacks the layers with these sizes.

    Raises:
      ConfigError: one of the latter is no positive whole number.
    """

    net: str | None = None
    partial: bool = False
    num_classes: int | None = None
    hidden: int | None = None
    crop: int | None = None

    def __post_init__(self):
        for name in ("num_classes", "hidden", "crop"):
            size = getattr(self, name)
            if size is not None and (not isinstance(size, Integral) or size < 1):
                raise ConfigError(f"{name}={size!r}: a whole number from 1 on, or None for what the file says")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network by its arguments, and where in the file its tensors are.

    Attributes:
      spec, batch_norm: as in `vgg_jax.VGG`, and so are width, hidden, num_classes and crop.
      table: {our name: the file's name} of all its tensors.
      shapes: {our name: shape here} of all its tensors, kernels (h, w, i, o).
      absent: layers of which the file has no tensor.
      missing: their tensors, a phrase each.
      faults: everything else that does not fit, a phrase each.
    """

    spec: specs.Spec
    batch_norm: bool
    table: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    absent: tuple[str, ...]
    missing: list[str]
    faults: list[str]
    width: float
    hidden: int
    num_classes: int
    crop: int

    def __str__(self) -> str:
        norm = " with batch normalization" if self.batch_norm else ""
        return (
            f"net {self.spec.name}{norm}, width {self.width:g}, {self.hidden} hidden units, "
            f"{self.num_classes} classes, crop {self.crop}"
        )


def identified(source: str, tensors: dict[str, np.ndarray], layout: Layout, hints: Hints) -> Architecture:
    """The network that a file holds, whole or, if the hints allow it, in part.

    Args:
      source: the file's name, for the message.
      tensors: everything in the file; only shapes and dtypes are looked at.
      layout: its format's.
      hints: what the caller says of the network.

    Raises:
      CheckpointError: no network fits; the message names every missing, unexpected and mis-shaped tensor of the
        nearest one. Or several do.
      ConfigError: `hints.net` is no network, or the hints contradict the file.
    """
    # A-LRN has A's tensors: only the caller can tell.
    candidates = [specs.spec_of(hints.net)] if hints.net else [s for s in specs.SPECS.values() if not s.lrn]
    norms = (False, True) if layout.batch_norm else (False,)
    fits = [_compared(tensors, layout, spec, norm, hints) for spec in candidates for norm in norms]
    if not any(theirs in tensors for fit in fits for theirs in fit.table.values()):
        some = ", ".join([*list(tensors)[:5], *["..."] * (len(tensors) > 5)])
        expected = ", ".join(list(fits[0].table.values())[:3])
        raise CheckpointError(
            f"{source}: no tensor of a VGG among the {len(tensors)} in it ({some}); expected {expected}, ...; it is of "
            "another network"
        )
    nearest = min(fits, key=lambda fit: (len(fit.faults) + (not hints.partial) * len(fit.absent), len(fit.absent)))
    _check(source, nearest, hints)
    others = [fit.spec.name for fit in fits if not fit.faults and fit.batch_norm == nearest.batch_norm]
    if len(others) > 1 and set(nearest.absent) & set(nearest.spec.convolutions):
        raise CheckpointError(
            f"{source}: lacks {', '.join(nearest.absent)} and could be of net {' or '.join(others)}; say which: "
            f"net={others[0]!r}"
        )
    return nearest


def _compared(
    tensors: dict[str, np.ndarray], layout: Layout, spec: specs.Spec, batch_norm: bool, hints: Hints
) -> Architecture:
    """The file compared with one network."""
    table = layout.names(spec, batch_norm)
    kernels = {layer: tensors[name] for layer in spec.layers() if (name := table[f"{layer}/kernel"]) in tensors}
    axes = {layer: layout.axes(layer, kernels[layer].ndim if layer in kernels else None) for layer in spec.layers()}
    kernel_sizes = {layer: outputs_and_inputs(axes[layer], kernel.shape) for layer, kernel in kernels.items()}
    sizes = _sizes(spec, kernel_sizes, hints)
    shapes = spec.parameter_shapes(batch_norm=batch_norm, **sizes)

    layers = {ours: ours.split("/")[0] for ours in table}
    present = {layers[ours] for ours, theirs in table.items() if theirs in tensors}
    label = {theirs: theirs if theirs == ours else f"{theirs} ({ours})" for ours, theirs in table.items()}
    expected = {
        theirs: stored_shape(axes[layers[ours]], shapes[ours]) if ours.endswith("/kernel") else shapes[ours]
        for ours, theirs in table.items()
    }
    mismatch = match(expected, {name: tensor.shape for name, tensor in tensors.items()})
    missing, faults = [], []
    for ours, theirs in table.items():
        if theirs in mismatch.missing:
            phrases = faults if layers[ours] in present else missing
            phrases.append(f"missing {label[theirs]}, {expected[theirs]}")
        elif theirs in mismatch.reshaped:
            faults.append(f"{label[theirs]} is {tensors[theirs].shape}, expected {expected[theirs]}")
        elif not (tensors[theirs].dtype.kind == "f" or tensors[theirs].dtype.name == "bfloat16"):
            faults.append(f"{label[theirs]} is {tensors[theirs].dtype}, expected floating-point numbers")
    faults += [f"unexpected {name}, {shape}" for name, shape in mismatch.unexpected.items()]
    absent = tuple(layer for layer in spec.layers(batch_norm) if layer not in present)
    return Architecture(spec, batch_norm, table, shapes, absent, missing, faults, **sizes)


def _sizes(spec: specs.Spec, kernels: dict[str, tuple[int, int] | None], hints: Hints) -> dict[str, float]:
    """Width, hidden units, classes and crop: as the kernels in the file have them, else as hinted, else the paper's.

    Args:
      kernels: (outputs, inputs of one output) of the layers in the file; None for one of another rank.
    """
    found = {layer: kernel for layer, kernel in kernels.items() if kernel}
    width = _width({row.channels: found[layer][0] for layer, row in spec.convolutions.items() if layer in found})
    deepest = specs.scaled(list(spec.convolutions.values())[-1].channels, width)
    fc6, fc7, fc8 = map(found.get, specs.FULLY_CONNECTED)
    in_file = {
        "num_classes": fc8 and fc8[0],
        "hidden": fc6[0] if fc6 else fc7[0] if fc7 else fc8 and fc8[1],
        "crop": fc6 and spec.stride * math.isqrt(fc6[1] // deepest),
    }
    default = {"num_classes": 1000, "hidden": specs.scaled(specs.HIDDEN_UNITS, width), "crop": 224}
    return {"width": width} | {name: size or getattr(hints, name) or default[name] for name, size in in_file.items()}


def _check(source: str, fit: Architecture, hints: Hints) -> None:
    """Raises if a network does not fit the file, or the hints contradict it."""
    faults = fit.faults + (not hints.partial) * fit.missing
    if fit.faults:
        way_out = "give a file of one of the paper's nets, or say which net it is with net="
    else:
        way_out = (
            f"partial=True initializes the layers that are missing at random, {', '.join(fit.absent)}; features up to "
            "pool5 need the convolutions alone"
        )
    if faults:
        raise CheckpointError(f"{source} is nearest to {fit}, and is not it: {'; '.join(faults)}. {way_out}")
    for name in ("num_classes", "hidden", "crop"):
        wanted, found = getattr(hints, name), getattr(fit, name)
        if wanted and wanted != found:
            raise ConfigError(f"{name}={wanted}, but {source} is {fit}; leave {name} out")


def _width(channels: dict[int, int]) -> float:
    """The width that gives most layers their channels.

    Args:
      channels: {channels in Table 1: channels in the file}.
    """
    if not channels:
        return 1.0
    choices = [there / here for here, there in sorted(channels.items(), reverse=True)]
    low = max((there - 0.5) / here for here, there in channels.items())
    high = min((there + 0.5) / here for here, there in channels.items())
    choices.append((low + high) / 2)
    return max(choices, key=lambda w: (w > 0) * sum(specs.scaled(here, w) == there for here, there in channels.items()))
