"""Processes that a test starts at once: forked from one that has imported everything, and computed nothing."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *(f"vgg_jax.{name}" for name in ("main", "commands.train", "data._tensorflow", "data.jpeg", "data.digits")),
        *("clu.metric_writers", "matplotlib.pyplot", "sklearn"),
    ]
)


def joined(count: int, devices: int, folder: Path, function: Callable, *arguments) -> list[ForkServerProcess]:
    """Starts processes that find each other, as those of `launch/local.sh` do.

    Args:
      count: of the processes.
      devices: of each.
      folder: what the n-th one says goes to its file `said{n}.txt`.
      function: is called in each, with the arguments.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    # Only the first process keeps compiled programs: JAX lets the others compile theirs in every run.
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment["XLA_FLAGS"] = flags
    processes = []
    for number in range(count):
        own = environment | {"JAX_PROCESS_ID": str(number)}
        given = own, folder / f"said{number}.txt", function, arguments
        processes.append(_CONTEXT.Process(target=_call, args=given, daemon=True))
        processes[-1].start()
    return processes


def command(*arguments: str) -> None:
    """The command line, in a process of `joined`."""
    from vgg_jax.main import run

    sys.argv = ["vgg_jax", *arguments]
    run()


def _call(environment: dict[str, str], said: Path, function: Callable, arguments: tuple) -> None:
    with said.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.update(environment)
    try:
        function(*arguments)
    except Exception:
        traceback.print_exc()
        raise
    finally:
        atexit._run_exitfuncs()  # JAX leaves the others; multiprocessing ends without
