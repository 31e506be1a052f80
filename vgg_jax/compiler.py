"""How the package's own programs are compiled and keep memory on a CPU, as measured with benchmarks/networks.py.

Nothing here happens at import: flags and environment stay the user's, and so do the user's own programs.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path

import jax

log = logging.getLogger(__name__)

FAST = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""Without the fusions of YNNPACK, with which a training step of net D takes 1.5 to 2 times as long."""

QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
"""For evaluation, which has a program for every shape of bucket: XLA's older fusions, in one piece. They run about as
fast and take half the processor time to compile, which the batches under way have."""

CACHE_SIZE = 2**30
"""Bytes of compiled programs that are kept. The smoke stage of net A has 0.4 MB of them."""


def jit(fun: Callable, *, quick: bool = False, **arguments) -> Callable:
    """`jax.jit` with the compiler options that suit this package's programs; only a CPU has any.

    It serves functions of your own around a network too:

        score = compiler.jit(lambda net, images: net(images).mean((1, 2)))

    It starts JAX's backend, so call it in a function and not while a module is imported. JAX takes options for the
    outermost function alone: inside a function that is compiled or differentiated use `jax.jit`.

    Args:
      fun: as `jax.jit` has it.
      quick: whether it is compiled so often that compilation should be quick.
      arguments: others of `jax.jit`.

    >>> float(jit(lambda x: x + 1)(1.0))
    2.0
    """
    options = FAST | (QUICK if quick else {}) if jax.default_backend() == "cpu" else {}
    known = {name: value for name, value in options.items() if _is_known(name, value)}
    return jax.jit(fun, compiler_options=known or None, **arguments)


@functools.cache
def _is_known(name: str, value: str | bool | int) -> bool:
    """Whether this release of XLA has an option: it refuses to compile with one that it lacks."""
    try:
        jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
    except Exception as error:  # of a type that differs between releases
        log.info("compiled without %s=%r, which this release of XLA refuses: %s", name, value, error)
        return False
    return True


def keep_programs() -> None:
    """Lets JAX keep compiled programs in the user's cache folder, for the commands: the second start is quick.

    What was used longest ago goes when there are more than `CACHE_SIZE` bytes. A folder that the user chose
    (JAX_COMPILATION_CACHE_DIR) is left as it is, and JAX_ENABLE_COMPILATION_CACHE=0 does without. JAX keys a program by
    its code, its options, the release of XLA and the devices, a CPU by its instruction set.

    Several processes with GPUs keep none, call it after they have joined: each tries out a share of the convolutions
    for all, so one that has its program already would leave the others waiting.
    """
    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return
    if jax.distributed.is_initialized() and jax.process_count() > 1 and jax.default_backend() == "gpu":
        return
    import filelock

    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vgg_jax"
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lockfile", timeout=10):  # JAX's own
            # JAX writes a program and then the time of its use: without it, the process was killed while it wrote.
            for program in folder.glob("*-cache"):
                if not program.with_name(program.name.removesuffix("cache") + "atime").exists():
                    program.unlink()
    except (OSError, RuntimeError) as error:  # no such place, or no home
        log.warning("compiled programs are not kept: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", CACHE_SIZE)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def keep_memory() -> None:
    """Lets the process keep the memory that it frees, for the commands and the benchmarks.

    XLA allocates a step's activations in every step; glibc returns such blocks to the system at once, and getting them
    back costs a page fault every 4 kB: a third of a training step of net E. Elsewhere than on glibc nothing happens.
    """
    arena_max, mmap_max, trim_threshold = -8, -4, -1  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(arena_max, 1)  # other arenas cannot hold blocks of this size
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, -1)
