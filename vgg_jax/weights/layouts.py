"""How families of files name the tensors and lay them out.

Our names are LAYER/ARRAY, as `Spec.parameter_shapes` has them, and our kernels (h, w, inputs, outputs), those of fc6,
fc7 and fc8 too. An order of axes is written as `hwio` or `o(ihw)`: brackets flatten, so this is a matrix (outputs,
inputs * h * w).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from vgg_jax.model.specs import FULLY_CONNECTED, Spec


@dataclasses.dataclass(frozen=True)
class Layout:
    """One family's table of names, and the axes of its kernels.

    Attributes:
      names: a net's tensors, {our name: their name}, for its spec and whether it has batch normalization.
      convolution: the axes of the convolutions' kernels.
      dense: the axes that fc6, fc7 and fc8 may have; the file's rank chooses.
      batch_norm: whether there are such files of nets with batch normalization.
    """

    names: Callable[[Spec, bool], dict[str, str]]
    convolution: str
    dense: tuple[str, ...]
    batch_norm: bool = True

    def axes(self, layer: str, rank: int | None = None) -> str:
        """The axes of a layer's kernel, whose rank in the file this is."""
        choices = self.dense if layer in FULLY_CONNECTED else (self.convolution,)
        return next((axes for axes in choices if _rank(axes) == rank), choices[0])


def renamed(
    spec: Spec, batch_norm: bool, layers: Mapping[str, str], arrays: Mapping[str, str], between: str = "/"
) -> dict[str, str]:
    """{our name: their name} of all tensors, out of {our layer: theirs} and {our array: theirs}."""
    names = {name: name.split("/") for name in spec.parameter_shapes(batch_norm=batch_norm)}
    return {name: f"{layers[layer]}{between}{arrays[array]}" for name, (layer, array) in names.items()}


def our_names(spec: Spec, batch_norm: bool) -> dict[str, str]:
    """The table of a file that uses our names."""
    return {name: name for name in spec.parameter_shapes(batch_norm=batch_norm)}


OURS = Layout(our_names, convolution="hwio", dense=("hwio",))


def stored_shape(axes: str, hwio: tuple[int, int, int, int]) -> tuple[int, ...]:
    """The shape in the file of a kernel that is (h, w, i, o) here.

    >>> stored_shape("o(ihw)", (7, 7, 512, 4096))
    (4096, 25088)
    """
    h, w, i, o = hwio
    return {"hwio": (h, w, i, o), "oihw": (o, i, h, w), "(hwi)o": (h * w * i, o), "o(ihw)": (o, i * h * w)}[axes]


def outputs_and_inputs(axes: str, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(o, h * w * i) of a kernel in the file, or None if its rank is another."""
    if len(shape) != _rank(axes) or 0 in shape:
        return None
    outputs = shape[0] if axes[0] == "o" else shape[-1]
    return outputs, int(np.prod(shape, dtype=object)) // outputs


def as_hwio(array: np.ndarray, axes: str, hwio: tuple[int, int, int, int]) -> np.ndarray:
    """A kernel of the file as (h, w, i, o); the inverse of `stored_shape`, a view where it can be."""
    h, w, i, o = hwio
    if axes[0] == "o":
        return array.reshape(o, i, h, w).transpose(2, 3, 1, 0)
    return array.reshape(hwio)


def _rank(axes: str) -> int:
    return 2 if "(" in axes else 4
