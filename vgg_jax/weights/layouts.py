"""How families of files name the tensors and lay them out.

Our names are LAYER/ARRAY: conv1_1/kernel, conv1_1/bias, bn1_1/scale, /bias, /mean, /var, fc6/kernel ... Our kernels are
(h, w, inputs, outputs), those of fc6, fc7 and fc8 too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from vgg_jax.model import specs

FULLY_CONNECTED = ("fc6", "fc7", "fc8")


@dataclasses.dataclass(frozen=True)
class Layout:
    """One family's table of names, and the layouts of its kernels.

    A layout is written as its axes, flattened ones in brackets: `o(ihw)` is a matrix (outputs, inputs * h * w).

    Attributes:
      names: a net's tensors, {our name: their name}, for its spec and whether it has batch normalization.
      convolution: the layout of the convolutions' kernels.
      dense: the layouts fc6, fc7 and fc8 may have; the file's rank chooses.
      batch_norm: whether there are such files of nets with batch normalization.
    """

    names: Callable[[specs.Spec, bool], dict[str, str]]
    convolution: str
    dense: tuple[str, ...]
    batch_norm: bool = True

    def layout(self, ours: str, rank: int | None = None) -> str:
        """The layout of a kernel, by our name and the rank it has in the file."""
        choices = self.dense if ours.startswith("fc") else (self.convolution,)
        return next((layout for layout in choices if _rank(layout) == rank), choices[0])


def layers(spec: specs.Spec, batch_norm: bool) -> list[str]:
    """All layers with parameters, in order: conv1_1, bn1_1, ..., fc8."""
    names = []
    for convolution in spec.convolutions:
        names += [convolution, convolution.replace("conv", "bn")] if batch_norm else [convolution]
    return [*names, *FULLY_CONNECTED]


def arrays(layer: str) -> tuple[str, ...]:
    """Names of a layer's arrays."""
    return ("scale", "bias", "mean", "var") if layer.startswith("bn") else ("kernel", "bias")


def by_our_names(spec: specs.Spec, batch_norm: bool) -> dict[str, str]:
    """The table of a file that uses our names."""
    return {f"{layer}/{array}": f"{layer}/{array}" for layer in layers(spec, batch_norm) for array in arrays(layer)}


OURS = Layout(by_our_names, convolution="hwio", dense=("hwio",))


def stored_shape(layout: str, hwio: tuple[int, int, int, int]) -> tuple[int, ...]:
    """The shape in the file of a kernel that is (h, w, i, o) here.

    >>> stored_shape("o(ihw)", (7, 7, 512, 4096))
    (4096, 25088)
    """
    h, w, i, o = hwio
    return {"hwio": (h, w, i, o), "oihw": (o, i, h, w), "(hwi)o": (h * w * i, o), "o(ihw)": (o, i * h * w)}[layout]


def outputs_and_inputs(layout: str, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(o, h * w * i) of a kernel in the file, or None if its rank is not the layout's."""
    if len(shape) != _rank(layout) or 0 in shape:
        return None
    outputs = shape[0] if layout[0] == "o" else shape[-1]
    return outputs, int(np.prod(shape, dtype=object)) // outputs


def as_hwio(array: np.ndarray, layout: str, hwio: tuple[int, int, int, int]) -> np.ndarray:
    """A kernel of the file as (h, w, i, o); the inverse of `stored_shape`, a view where it can be."""
    h, w, i, o = hwio
    if layout[0] == "o":
        return array.reshape(o, i, h, w).transpose(2, 3, 1, 0)
    return array.reshape(hwio)


def _rank(layout: str) -> int:
    return 2 if "(" in layout else 4
