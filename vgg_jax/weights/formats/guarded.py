"""HDF5 and MATLAB's `.mat`, read by another process.

A damaged HDF5 file can crash the HDF5 library, or hold it forever: of random mutations of a small one, the 68th did
the first and the 314th the second (HDF5 1.14.6). So a child opens the file and copies its arrays to an `.npz`, which is
read here. It protects from accidents, not from attacks: whatever a file makes a library execute, the child executes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from vgg_jax import npz_file
from vgg_jax.errors import CheckpointError
from vgg_jax.weights.formats import guarded_child
from vgg_jax.weights.raw_checkpoint import MAX_FILE

SECONDS = 15.0
"""How long the child may take for any file."""

BYTES_PER_SECOND = 10e6
"""And for its bytes, on a slow disk."""


def read(path: Path, kind: str) -> dict[str, np.ndarray]:
    """All arrays in a file by their paths in it.

    Args:
      path: of the file.
      kind: "HDF5", of which the arrays of floating-point numbers are read, or "MATLAB", of which all numbers and
        strings are, `FIELD/INDEX/...`: a struct of one element has no index, a cell of strings is one array.

    Raises:
      CheckpointError: the file is damaged, declares arrays larger than any VGG's, or links to other files.
    """
    with tempfile.TemporaryDirectory(prefix="vgg_jax_") as folder:
        copy = Path(folder) / "arrays.npz"
        # -P: this folder holds modules named like packages.
        command = [sys.executable, "-P", guarded_child.__file__, kind, str(path), str(copy), str(MAX_FILE)]
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
            raise CheckpointError(
                f"{path}: the {kind} library finds no end in it: damaged; download it again"
            ) from error
        if child.returncode < 0:
            raise CheckpointError(f"{path}: crashes the {kind} library: damaged; download it again")
        if child.returncode:
            last = (child.stderr.splitlines() or ["no message"])[-1]
            raise CheckpointError(f"{path}: the {kind} reader refuses it: {last[-500:]}")
        return npz_file.arrays(copy)
