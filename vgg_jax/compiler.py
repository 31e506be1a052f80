"""How the package's own programs are compiled and keep memory on a CPU, as measured with benchmarks/networks.py.

Nothing here happens at import: flags and environment stay the user's, and so do the user's own programs.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
from collections.abc import Callable

import jax

log = logging.getLogger(__name__)

FAST = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""Without the fusions of YNNPACK, with which a training step of net D takes 1.5 to 2 times as long."""

QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
"""For evaluation, which has a program for every shape of bucket: XLA's older fusions, in one piece. They run about as
fast and take half the processor time to compile, which the batches under way have."""


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
