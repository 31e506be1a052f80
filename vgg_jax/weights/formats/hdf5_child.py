"""The child of `hdf5.py`: copies the arrays of an HDF5 file to an `.npz`. It imports nothing of this package.

python -P hdf5_child.py FILE.h5 COPY.npz MAX_TENSOR MAX_FILE
"""

from __future__ import annotations

import math
import sys
import zipfile
from collections.abc import Iterator

REFUSED = 3
"""The exit status when the file is at fault; the reason is on standard error."""

DEEPEST, MOST = 8, 4000
"""Levels of groups, and objects. Keras has five levels and a few hundred objects."""


class Refused(Exception):
    """The file holds what no file of weights does."""


def datasets(group) -> Iterator[tuple[str, object]]:
    """(path, dataset) of everything under a group that lies in this file."""
    import h5py

    seen, stack = 0, [("", group, 0)]
    while stack:
        prefix, group, depth = stack.pop()
        for name in sorted(group):
            path, seen = f"{prefix}{name}", seen + 1
            if seen > MOST or depth > DEEPEST:
                raise Refused(f"over {MOST} objects or {DEEPEST} levels of groups: damaged, hostile or no weights")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise Refused(f"{path} is a link, perhaps to another file: not followed")
            item = group[name]
            if isinstance(item, h5py.Group):
                stack.append((f"{path}/", item, depth + 1))
            elif isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
                yield path, item


def main(source: str, target: str, max_tensor: int, max_file: int) -> None:
    import h5py
    import numpy as np

    left = max_file
    with h5py.File(source, "r") as file, zipfile.ZipFile(target, "w") as copy:
        for path, dataset in datasets(file):
            if dataset.external or dataset.is_virtual:
                raise Refused(f"{path} lies in another file: not followed")
            if dataset.shape is None:
                raise Refused(f"{path} is empty: damaged")
            size = math.prod(dataset.shape) * dataset.dtype.itemsize
            left -= size
            if size > max_tensor or left < 0:
                raise Refused(
                    f"{path} declares the shape {dataset.shape}, more than a VGG can hold: damaged or hostile"
                )
            with copy.open(f"{path}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, dataset[()], allow_pickle=False)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    except Exception as error:  # whatever the library raises, the file is at fault
        print(f"{type(error).__name__}: {error}".removeprefix("Refused: "), file=sys.stderr)
        sys.exit(REFUSED)
