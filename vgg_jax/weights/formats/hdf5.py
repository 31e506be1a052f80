"""HDF5, read by another process.

A damaged HDF5 file can crash the HDF5 library, or hold it forever: of random mutations of a small one, the 68th did
the first and the 314th the second (HDF5 1.14.6). So a child opens the file and copies its arrays to an `.npz`, which is
read here. It protects from accidents; what a file could make the library execute, the child would.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from vgg_jax.errors import CheckpointError
from vgg_jax.weights.formats import hdf5_child, npz
from vgg_jax.weights.raw_checkpoint import MAX_FILE, MAX_TENSOR

SECONDS = 15.0
"""How long the child may take for any file."""

BYTES_PER_SECOND = 10e6
"""And for its bytes, on a slow disk."""


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of floating-point numbers in a file by their paths in it.

    Raises:
      CheckpointError: the file is damaged, declares arrays larger than any VGG's, or links to other files.
    """
    with tempfile.TemporaryDirectory(prefix="vgg_jax_") as folder:
        copy = Path(folder) / "arrays.npz"
        # -P: this folder holds modules named like packages.
        command = [sys.executable, "-P", hdf5_child.__file__, str(path), str(copy), str(MAX_TENSOR), str(MAX_FILE)]
        try:
            child = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=SECONDS + path.stat().st_size / BYTES_PER_SECOND,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "HDF5_PLUGIN_PATH": folder},
            )
        except subprocess.TimeoutExpired as error:
            raise CheckpointError(f"{path}: the HDF5 library finds no end in it: damaged; download it again") from error
        if child.returncode < 0:
            raise CheckpointError(f"{path}: crashes the HDF5 library: damaged; download it again")
        if child.returncode == hdf5_child.REFUSED:
            raise CheckpointError(f"{path}: {child.stderr.strip()}")
        if child.returncode:
            raise CheckpointError(f"{path}: the HDF5 reader ended with {child.stderr.strip()[-500:]}")
        return npz.arrays(copy)
