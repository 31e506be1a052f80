"""The child of `guarded.py`: copies the arrays of a file to an `.npz`. It imports nothing of this package.

python -P guarded_child.py HDF5|MATLAB FILE COPY.npz MAX_FILE
"""

from __future__ import annotations

import contextlib
import math
import sys
import zipfile
from collections.abc import Iterator

import numpy as np

DEEPEST, MOST = 16, 10_000
"""Levels of groups, cells and structs, and objects. Keras has five levels and a few hundred objects."""

OVERHEAD = 2**31
"""Bytes of address space that the libraries may take beside the arrays."""


class Refused(Exception):
    """The file holds what no file of weights does."""


def hdf5(source: str) -> Iterator[tuple[str, object, int]]:
    """Everything under the root that lies in this file: its groups, and its datasets of floating-point numbers."""
    import h5py

    with h5py.File(source, "r") as file:
        stack = [("", file, 0)]
        while stack:
            prefix, group, depth = stack.pop()
            for name in sorted(group):
                path = f"{prefix}{name}"
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise Refused(f"{path} is a link, perhaps to another file: not followed")
                item = group[name]
                if isinstance(item, h5py.Group):
                    stack.append((f"{path}/", item, depth + 1))
                elif not isinstance(item, h5py.Dataset) or item.dtype.kind != "f":
                    continue
                elif item.external or item.is_virtual:
                    raise Refused(f"{path} lies in another file: not followed")
                elif item.shape is None:
                    raise Refused(f"{path} is empty: damaged")
                yield path, item, depth


def matlab(source: str) -> Iterator[tuple[str, object, int]]:
    """All variables: structs and cells, and in them arrays of numbers or of strings. Sparse matrices are left out."""
    import scipy.io

    variables = scipy.io.loadmat(source)
    stack = [(name, value, 0) for name, value in variables.items() if not name.startswith("__")]
    while stack:
        path, value, depth = stack.pop()
        if not isinstance(value, np.ndarray):
            continue
        items = list(value.ravel("F"))[: MOST + 1] if value.dtype.hasobject else []
        if value.dtype.names:
            places = [path] if len(items) == 1 else [f"{path}/{index}" for index in range(len(items))]
            fields = value.dtype.names
            stack += [
                (f"{place}/{name}", item[name], depth + 1) for place, item in zip(places, items) for name in fields
            ]
        elif all(isinstance(item, np.ndarray) and item.dtype.kind == "U" and item.size <= 1 for item in items):
            if value.dtype.hasobject:
                value = np.array([str(item[0]) if item.size else "" for item in items], str)
        else:
            stack += [(f"{path}/{index}", item, depth + 1) for index, item in enumerate(items)]
        yield path, value, depth


def main(kind: str, source: str, target: str, max_file: int) -> None:
    with contextlib.suppress(ImportError, ValueError):  # not every system has such a limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (2 * max_file + OVERHEAD,) * 2)
    left = max_file
    with zipfile.ZipFile(target, "w") as copy:
        for count, (path, array, depth) in enumerate(KINDS[kind](source)):
            if count >= MOST or depth > DEEPEST:
                raise Refused(f"over {MOST} objects or {DEEPEST} levels of them: damaged, hostile or no weights")
            if not hasattr(array, "dtype") or array.dtype.hasobject:
                continue
            left -= math.prod(array.shape) * array.dtype.itemsize
            if left < 0:
                raise Refused(f"{path} declares the shape {array.shape}, more than a VGG can hold: damaged or hostile")
            with copy.open(f"{path}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array[()], allow_pickle=False)


KINDS = {"HDF5": hdf5, "MATLAB": matlab}
"""Readers of a file: each gives (path, object, level) of all that is in it."""

if __name__ == "__main__":
    try:
        main(*sys.argv[1:4], int(sys.argv[4]))
    except Exception as error:  # whatever the library raises, the file is at fault
        if not isinstance(error, Refused):
            error = f"{type(error).__name__}: {' '.join(str(error).split())}; cut short or damaged: download it again"
        sys.exit(str(error))
