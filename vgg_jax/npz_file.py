"""The arrays of an `.npz` that may be damaged or hostile."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from vgg_jax.errors import CheckpointError


def arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an `.npz`, without the help of pickle.

    Raises:
      CheckpointError: it is no zip; or a member is no array of numbers or strings, or is cut short.
    """
    found = {}
    if path.is_file() and not zipfile.is_zipfile(path):  # NumPy would take it for a pickle, and advise to load that
        raise CheckpointError(f"{path} is no .npz")
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        for name in file.files:
            try:
                array = file[name]
            except Exception as error:  # also a shape that does not fit into memory
                raise CheckpointError(f"{path}: {name} cannot be read: {error}") from error
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiubU":
                kind = array.dtype if isinstance(array, np.ndarray) else "bytes"
                raise CheckpointError(f"{path}: {name} is an array of {kind}, expected numbers")
            found[name] = array
    return found
