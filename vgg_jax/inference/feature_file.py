"""Features in a file that NumPy reads (`numpy.load`, no pickles), written in bounded memory.

    <layer>       float32 (images, channels)   pooled, e.g. pool5
    <layer>/<i>   float32 (h, w, channels)     or maps, an array per image, e.g. pool5/0, pool5/1, ...
    images        str (images,)                their paths, or "image 17"
    about         str ()                       JSON: net, scales, pool, combine, flip, channels by layer

An .npz rather than Zarr or a folder of .npy files: it takes no dependency, one rename completes it, and one array is
read without the others. The cost: `numpy.load` reads an array whole, and does not map it.
"""

from __future__ import annotations

import array
import contextlib
import json
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from vgg_jax.files import check_replaceable, writing, written_aside


class FeatureFile:
    """A context that writes features to an .npz; it gets its name once it is complete, and its folder is made.

    Maps are written as they come. Rows first go to nameless files beside it, because an .npz takes one array at a time.

    Args:
      path: the file.
      about: how the features are made, for JSON, with their `channels` by layer and `pool`, None if maps are kept.

    Raises:
      ConfigError: it cannot be written, or there is a file that holds no features.
    """

    def __init__(self, path: Path, about: dict):
        self._path, self._about = path, about
        self._numbers = array.array("q")  # of the images, in the rows' order

    def __enter__(self) -> FeatureFile:
        check_replaceable(self._path, _holds_features)
        with contextlib.ExitStack() as stack, writing(self._path):
            partial = stack.enter_context(written_aside(self._path))
            self._archive = stack.enter_context(zipfile.ZipFile(partial, "w"))
            self._rows = {
                layer: stack.enter_context(tempfile.TemporaryFile(dir=self._path.parent))
                for layer in (self._about["channels"] if self._about["pool"] else ())
            }
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        with writing(self._path):
            self._open.__exit__(*error)

    def add(self, number: int, values: dict[str, np.ndarray]) -> None:
        """Writes an image's values by layer, the images in any order."""
        with writing(self._path):
            self._numbers.append(number)
            for layer, value in values.items():
                value = value.astype("<f4", copy=False)
                if layer in self._rows:
                    self._rows[layer].write(value)
                else:
                    self._member(f"{layer}/{number}", value.shape, [value])

    def finish(self, names: Sequence[str]) -> None:
        """Completes the file with the images' names, in the order of their numbers."""
        with writing(self._path):
            order = np.argsort(np.array(self._numbers, np.int64))
            for layer, file in self._rows.items():
                file.flush()
                shape = len(order), self._about["channels"][layer]
                rows = np.memmap(file, "<f4", "r", shape=shape) if len(order) else np.zeros(shape, "<f4")
                parts = np.array_split(order, rows.nbytes // 2**24 + 1)
                self._member(layer, shape, (rows[part] for part in parts))
            for name, value in (("images", np.array(names, np.str_)), ("about", np.array(json.dumps(self._about)))):
                self._member(name, value.shape, [value], value.dtype.str)

    def _member(self, name: str, shape: tuple[int, ...], parts: Iterable[np.ndarray], descr: str = "<f4") -> None:
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        with self._archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for part in parts:
                member.write(part.tobytes())


def _holds_features(path: Path) -> bool:
    with np.load(path, mmap_mode="r") as file:
        return "channels" in json.loads(str(file["about"]))


def table(path: Path) -> str:
    """A summary of a file of features, as text."""
    with np.load(path) as file:
        count, about = len(file["images"]), json.loads(str(file["about"]))
    of = f"{about['pool']} over the places" if about["pool"] else "maps"
    scales = ", ".join(map(str, about["scales"])) + (f" ({about['combine']})" if len(about["scales"]) > 1 else "")
    mirrored = ", with mirror images" if about["flip"] else ""
    lines = [f"{path}: {count:,} images, net {about['net']} at Q = {scales}, {of}{mirrored}", "", "layer     shape"]
    for layer, channels in about["channels"].items():
        lines += [f"{layer:<10}{(count, channels) if about['pool'] else f'{count:,} maps (h, w, {channels})'}"]
    return "\n".join(lines)
