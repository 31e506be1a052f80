"""What JAX needs to be reported before it starts on a CPU, measured (benchmarks/networks.py)."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os

import jaxlib.version

MEASURED_JAXLIB = "0.10."
"""The release on which the flag was measured; on another it may not exist, and XLA ends a process that names one."""

FLAG = "--xla_cpu_experimental_ynn_fusion_type="
"""Empty: no YNNPACK fusions, which make a train step of net D take 1.5 to 2 times as long."""

_MEASURED = jaxlib.version.__version__.startswith(MEASURED_JAXLIB)

QUICK_COMPILATION = (
    {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1} if _MEASURED else {}
)
"""Compiler options for evaluation, which has a program for every shape of bucket: XLA's older fusions, in one piece.
They run about as fast and take half the processor time to compile, which the batches under way have."""

_ACCELERATORS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm60_plugin", "jax_rocm7_plugin", "libtpu")


def set_flags() -> None:
    """Adds the flag to XLA_FLAGS unless the user set it, JAX may find an accelerator, or the release is another."""
    flags = os.environ.get("XLA_FLAGS", "")
    platforms = os.environ.get("JAX_PLATFORMS", "")
    accelerated = platforms != "cpu" and any(importlib.util.find_spec(name) for name in _ACCELERATORS)
    if FLAG.rstrip("=") in flags or accelerated or not _MEASURED:
        return
    os.environ["XLA_FLAGS"] = f"{flags} {FLAG}".strip()


def keep_memory() -> None:
    """Lets the process keep the memory that it frees, for the commands and the benchmarks.

    XLA asks for a step's activations anew each time; glibc returns such blocks to the system at once, and getting them
    back costs a page fault every 4 kB: a third of a training step of net E. Elsewhere than on glibc nothing happens.
    """
    arena_max, mmap_max, trim_threshold = -8, -4, -1  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(arena_max, 1)  # other arenas cannot hold blocks of this size
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, -1)
