"""Several processes that work as one: JAX's own distributed service, joined before anything else (Sec. 3.3)."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vgg_jax.errors import ConfigError, UserError

log = logging.getLogger(__name__)

PATIENCE = 300
"""Seconds that a process waits at its start for all others."""

FAREWELL = 60
"""Seconds that a process waits at its end for all others; then JAX ends all."""

MOMENT = 5
"""Seconds within which processes that fail for the same reason all do."""

Value = TypeVar("Value")

_GIVEN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join() -> None:
    """Joins the other processes of this run; afterwards `jax.devices()` are those of all, and only the first one talks.

    Where they are is in the environment: JAX_COORDINATOR_ADDRESS (HOST:PORT of the first process), JAX_NUM_PROCESSES
    and JAX_PROCESS_ID, as `launch/local.sh` sets them, or what JAX recognizes by itself: Slurm, Open MPI, Kubernetes,
    Cloud TPU.

    Raises:
      ConfigError: the environment says nothing of other processes, or these do not come.
    """
    given = [os.environ.get(name) for name in _GIVEN]
    if any(given) and not all(given):
        missing = _GIVEN[given.index(None)] if None in given else _GIVEN[given.index("")]
        raise ConfigError(f"--multihost: {missing} is not set beside {', '.join(n for n in _GIVEN if n != missing)}")
    address, count, number = given
    try:
        numbers = (int(count), int(number)) if all(given) else (None, None)
    except ValueError:
        raise ConfigError(f"--multihost: JAX_NUM_PROCESSES={count} and JAX_PROCESS_ID={number} are numbers") from None
    # JAX's own handler of SIGTERM, in C++, would take the place of ours (`vgg_jax.stopping`), and ends nothing.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            address, *numbers, initialization_timeout=PATIENCE, shutdown_timeout_seconds=FAREWELL
        )
    except Exception as error:  # of several types, by what is missing
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--multihost: {reason}\nIt is for one of several processes: started by launch/local.sh -n 2, srun, a "
            f"Kubernetes Job or on every host of a TPU slice, or with {', '.join(_GIVEN)} set"
        ) from error
    log.info("process %d of %d, with %d of %d devices", *_place())
    if jax.process_index():
        logging.getLogger("vgg_jax").setLevel(logging.WARNING)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """A context whose error ends all processes: if the others do not come to their end too, this one goes at once.

    The others notice that it is gone, and go as well. JAX's own end would wait for them, and they would wait for this
    process.
    """
    try:
        yield
    except UserError as error:
        farewell = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        farewell.start()
        farewell.join(MOMENT)
        if farewell.is_alive():
            give_up(str(error))
        raise
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # a status of XLA may be either
        reason = (str(error).splitlines() or [""])[0]
        if jax.process_count() == 1 or not re.match("[A-Z_]+: ", reason):
            raise
        give_up(
            f"another process is gone, or cannot be reached: {reason}\n"
            "Start all of them again: they go on from what is saved"
        )


def give_up(reason: str) -> NoReturn:
    """Ends this process with status 1, where it cannot go on without the others: JAX's own end would wait for them."""
    log.error("%s", reason)
    os._exit(1)


def any_process(answer: bool) -> bool:
    """Whether any process says yes; all processes get the same answer at the same step."""
    return bool(multihost_utils.process_allgather(np.asarray(answer)).any())


class AnyProcess:
    """Whether any process says yes, asked in every step and answered in the next, so that none waits for the devices.

    All processes get the same answer at the same step; one that is alone gets its own at once.
    """

    def __init__(self):
        everywhere = Mesh(np.array(jax.devices()), ("devices",))
        self._split = NamedSharding(everywhere, PartitionSpec("devices"))
        self._any = jax.jit(jnp.any, out_shardings=NamedSharding(everywhere, PartitionSpec()))
        self._before: jax.Array | None = None

    def __call__(self, answer: bool) -> bool:
        if jax.process_count() == 1:
            return answer
        one_each = jax.make_array_from_callback((jax.device_count(),), self._split, lambda _: np.array([answer]))
        before, self._before = self._before, self._any(one_each)
        return before is not None and bool(before.addressable_data(0))


def in_all(action: Callable[[], Value], otherwise: UserError) -> Value:
    """What an action gives in each process; where it is refused in one of them, all raise.

    Raises:
      UserError, OSError: the action's, where it was refused; `otherwise` in the others.
    """
    value = refusal = None
    try:
        value = action()
    except (UserError, OSError) as error:
        refusal = error
    if any_process(refusal is not None):
        raise refusal or otherwise
    return value


def by_first(action: Callable[[], Value]) -> Value:
    """Does something in the first process, for all; where it is refused, all of them raise.

    What is on a disk that they share, the first one says: the others may see it later, and would go on without it.

    Returns:
      What the action returns there, a JSON value, in all of them.

    Raises:
      UserError, OSError: the action's, in the first process; a ConfigError in the others.
    """
    refused = ConfigError("the first process cannot go on; see what it says")
    return gathered(in_all(lambda: action() if jax.process_index() == 0 else None, refused))[0]


def gathered(value: Value) -> list[Value]:
    """A JSON value of each process, in their order, in all of them.

    >>> gathered({"a.jpg": 0.1})
    [{'a.jpg': 0.1}]
    """
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.asarray(len(text)))
    rows = multihost_utils.process_allgather(np.pad(text, (0, lengths.max() - len(text))))
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def _place() -> tuple[int, int, int, int]:
    return jax.process_index(), jax.process_count(), jax.local_device_count(), jax.device_count()
