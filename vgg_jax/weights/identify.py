"""Which of the paper's networks a file holds (Table 1), and everything in it that does not fit.

The shapes say the width, the units of fc6 and fc7, the classes and, by fc6's window, the crop. Every network is held
against the file; the one with the fewest faults is meant. If it has any, they are reported all at once.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from vgg_jax.errors import CheckpointError, ConfigError
from vgg_jax.model import specs
from vgg_jax.weights.layouts import FULLY_CONNECTED, Layout, arrays, layers, outputs_and_inputs, stored_shape


@dataclasses.dataclass(frozen=True)
class Hints:
    """What the caller says of the network; None is left to the file.

    Attributes:
      net: the paper's letter or an alias.
      partial: whether whole layers may be missing.
      num_classes, hidden, crop: for a file that lacks the layers which tell them.
    """

    net: str | None = None
    partial: bool = False
    num_classes: int | None = None
    hidden: int | None = None
    crop: int | None = None


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network by its arguments, and where in the file its tensors are.

    Attributes:
      spec, batch_norm, width, hidden, num_classes, crop: as in `vgg_jax.VGG`.
      table: {our name: the file's name} of all its tensors.
      shapes: {our name: shape here} of all its tensors, kernels (h, w, i, o).
      absent: layers of which the file has no tensor.
      faults: everything else that does not fit, a phrase each.
    """

    spec: specs.Spec
    batch_norm: bool
    width: float
    hidden: int
    num_classes: int
    crop: int
    table: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    absent: tuple[str, ...]
    faults: tuple[str, ...]

    def __str__(self) -> str:
        norm = " with batch normalization" if self.batch_norm else ""
        return (
            f"net {self.spec.name}{norm}, width {self.width:g}, {self.hidden} hidden units, "
            f"{self.num_classes} classes, crop {self.crop}"
        )


def identified(source: str, tensors: dict[str, np.ndarray], naming: Layout, asked: Hints) -> Architecture:
    """The network a file holds, whole or, if that is asked for, in part.

    Args:
      source: the file's name, for the message.
      tensors: everything in the file; only shapes and dtypes are looked at.
      naming: its format's table.
      asked: what the caller says of the network.

    Raises:
      CheckpointError: no network fits; the message names every missing, unexpected and mis-shaped tensor of the
        nearest one. Or several do.
      ConfigError: `asked.net` is no network, or `asked` contradicts the file.
    """
    # A-LRN has A's tensors: it must be asked for.
    candidates = [specs.spec_of(asked.net)] if asked.net else [s for s in specs.SPECS.values() if not s.lrn]
    norms = (False, True) if naming.batch_norm else (False,)
    fits = [_fit(tensors, naming, spec, norm, asked) for spec in candidates for norm in norms]
    if not any(theirs in tensors for fit in fits for theirs in fit.table.values()):
        some = ", ".join([*list(tensors)[:5], *["..."] * (len(tensors) > 5)])
        expected = ", ".join(list(fits[0].table.values())[:3])
        raise CheckpointError(
            f"{source}: no tensor of a VGG among the {len(tensors)} in it ({some}); expected {expected}, ...; it is of "
            "another network"
        )

    def disagreement(fit: Architecture) -> tuple[int, int]:
        return len(fit.faults) + (0 if asked.partial else len(fit.absent)), len(fit.absent)

    nearest = min(fits, key=disagreement)
    _refuse(source, nearest, naming, asked)
    if any(layer.startswith("conv") for layer in nearest.absent):
        others = [fit.spec.name for fit in fits if not fit.faults and fit.batch_norm == nearest.batch_norm]
        if len(others) > 1:
            raise CheckpointError(
                f"{source}: lacks {', '.join(nearest.absent)} and could be of net {' or '.join(others)}; say which: "
                f"net={others[0]!r}"
            )
    return nearest


def _fit(
    tensors: dict[str, np.ndarray], naming: Layout, spec: specs.Spec, batch_norm: bool, asked: Hints
) -> Architecture:
    """The file held against one network."""
    table = naming.names(spec, batch_norm)

    def size(layer: str) -> tuple[int, int] | None:
        tensor = tensors.get(table[f"{layer}/kernel"])
        layout = None if tensor is None else naming.layout(layer, tensor.ndim)
        return layout and outputs_and_inputs(layout, tensor.shape)

    channels = {row.channels: found[0] for layer, row in spec.convolutions.items() if (found := size(layer))}
    width = _width(channels)
    fc6, fc7, fc8 = (size(layer) for layer in FULLY_CONNECTED)
    hidden = fc6[0] if fc6 else fc7[0] if fc7 else fc8[1] if fc8 else None
    deepest = specs.scaled(list(spec.convolutions.values())[-1].channels, width)
    window = math.isqrt(fc6[1] // deepest) if fc6 else None
    in_file = {
        "num_classes": fc8[0] if fc8 else None,
        "hidden": hidden,
        "crop": spec.stride * window if window else None,
    }
    default = {"num_classes": 1000, "hidden": specs.scaled(specs.HIDDEN_UNITS, width), "crop": 224}
    sizes = {name: found or getattr(asked, name) or default[name] for name, found in in_file.items()}
    shapes = _shapes(spec, batch_norm, width, sizes)

    absent = tuple(
        layer
        for layer in layers(spec, batch_norm)
        if not any(table[f"{layer}/{array}"] in tensors for array in arrays(layer))
    )
    faults = []
    for ours, theirs in table.items():
        shape = _expected(naming, ours, shapes[ours], tensors.get(theirs))
        label = theirs if theirs == ours else f"{theirs} ({ours})"
        if theirs not in tensors:
            if ours.split("/")[0] not in absent:
                faults.append(f"missing {label}, {shape}")
        elif tensors[theirs].shape != shape:
            faults.append(f"{label} is {tensors[theirs].shape}, expected {shape}")
        elif not (tensors[theirs].dtype.kind == "f" or tensors[theirs].dtype.name == "bfloat16"):
            faults.append(f"{label} is {tensors[theirs].dtype}, expected floating-point numbers")
    known = set(table.values())
    faults += [f"unexpected {name}, {tensor.shape}" for name, tensor in tensors.items() if name not in known]
    return Architecture(
        spec, batch_norm, width, table=table, shapes=shapes, absent=absent, faults=tuple(faults), **sizes
    )


def _refuse(source: str, fit: Architecture, naming: Layout, asked: Hints) -> None:
    """Raises if a network does not fit, or is not as asked."""
    missing = [
        f"missing {fit.table[ours]}{'' if fit.table[ours] == ours else f' ({ours})'}, "
        f"{_expected(naming, ours, fit.shapes[ours], None)}"
        for layer in fit.absent
        for ours in (f"{layer}/{array}" for array in arrays(layer))
    ]
    if fit.faults or (missing and not asked.partial):
        if fit.faults:
            way_out = "give a file of one of the paper's nets, or say which net it is with net="
        else:
            way_out = (
                f"partial=True draws the layers that are missing, {', '.join(fit.absent)}; so does "
                "training with config.init.weights, and --mode=features needs the convolutions alone"
            )
        faults = [*fit.faults, *([] if asked.partial else missing)]
        raise CheckpointError(f"{source} is nearest to {fit}, and is not it: {'; '.join(faults)}. {way_out}")
    for name in ("num_classes", "hidden", "crop"):
        wanted, found = getattr(asked, name), getattr(fit, name)
        if wanted and wanted != found:
            raise ConfigError(f"{name}={wanted}, but {source} is {fit}; leave {name} out")


def _shapes(spec: specs.Spec, batch_norm: bool, width: float, sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """The shape here of every tensor."""
    shapes, channels = {}, 3
    for name, row in spec.convolutions.items():
        outputs = specs.scaled(row.channels, width)
        shapes |= {f"{name}/kernel": (row.size, row.size, channels, outputs), f"{name}/bias": (outputs,)}
        if batch_norm:
            norm = name.replace("conv", "bn")
            shapes |= {f"{norm}/{array}": (outputs,) for array in arrays(norm)}
        channels = outputs
    window, hidden = sizes["crop"] // spec.stride, sizes["hidden"]
    kernels = {
        "fc6": (window, window, channels, hidden),
        "fc7": (1, 1, hidden, hidden),
        "fc8": (1, 1, hidden, sizes["num_classes"]),
    }
    for name, kernel in kernels.items():
        shapes |= {f"{name}/kernel": kernel, f"{name}/bias": kernel[-1:]}
    return shapes


def _expected(naming: Layout, ours: str, shape: tuple[int, ...], tensor: np.ndarray | None) -> tuple[int, ...]:
    """The shape in the file of a tensor."""
    if not ours.endswith("/kernel"):
        return shape
    return stored_shape(naming.layout(ours, None if tensor is None else tensor.ndim), shape)


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
