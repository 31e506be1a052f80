"""Thousands of mutated inputs, each taken or refused in a line: nothing else is raised, and nothing crashes or hangs.

    python -m tests.torture.mutated_inputs --count=10000

Images, weights of every format, checkpoints, posteriors, configs, overrides and paths go to the functions that the
commands call. Input number N is a function of the seed and of N alone: `--first=N --count=1` repeats it, except that
PyTorch and Orbax write no file twice with the same bytes. Ctrl-C ends early, with the table of what was done so far. If
the process itself dies, `number` in its folder, /tmp/vgg_jax_*, says of which input.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import faulthandler
import importlib.util
import logging
import random
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.torture.inputs import SHARES, Attempt, attempts_of, kind_of
from vgg_jax.errors import UserError
from vgg_jax.progress import Progress

SECONDS = 60
"""Longer than any input takes."""

MOST_LINES = 2
"""Of a message: what is wrong, and the way out."""


@dataclasses.dataclass
class Report:
    """What became of the inputs.

    Attributes:
      taken, refused: how many of each kind.
      failures: (number, kind, what happened).
    """

    taken: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    refused: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    failures: list[tuple[int, str, str]] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        rows = [
            (kind, self.taken[kind], self.refused[kind]) for kind in SHARES if self.taken[kind] + self.refused[kind]
        ]
        rows += [("all", self.taken.total(), self.refused.total())]
        lines = [f"{'inputs':<18}{'taken':>8}{'refused':>9}", *(f"{kind:<18}{a:>8,}{b:>9,}" for kind, a, b in rows)]
        lines += [f"\ninput {number}, {kind}: {what}" for number, kind, what in self.failures]
        return "\n".join([*lines, f"\n{len(self.failures)} failures"])


def torture(folder: Path, numbers: Sequence[int], seed: int = 0, kinds: Sequence[str] = tuple(SHARES)) -> Report:
    """Gives the program the inputs of these numbers.

    Args:
      folder: an empty one, for files.
      numbers: consecutive.
      seed: of all inputs.
      kinds: those that are tried; the others' numbers are left out.
    """
    report, progress = Report(), Progress("inputs", first=numbers[0])
    with contextlib.ExitStack() as at_end:
        at_end.enter_context(_quiet())
        attempts = attempts_of(kinds, folder, numbers, seed, at_end)
        at_end.enter_context(contextlib.suppress(KeyboardInterrupt))
        for number in numbers:
            kind = kind_of(number)
            if kind in kinds:
                (folder / "number").write_text(str(number))
                _judge(report, number, kind, attempts[kind], random.Random(f"{seed}/{number}"))
            progress(number + 1, numbers[-1] + 1, f"{len(report.failures)} failures")
    progress.clear()
    return report


def _judge(report: Report, number: int, kind: str, attempt: Attempt, chance: random.Random) -> None:
    try:
        with _limited(SECONDS):
            attempt(number, chance)
        report.taken[kind] += 1
    except UserError as error:
        report.refused[kind] += 1
        if not 1 <= len(str(error).splitlines()) <= MOST_LINES:
            report.failures.append((number, kind, f"a message that is not a line or two: {error}"))
    except KeyboardInterrupt:
        raise
    except BaseException:
        report.failures.append((number, kind, traceback.format_exc()))


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Interrupts what takes longer, if it is Python, and ends the process otherwise."""

    def ring(*_):
        raise TimeoutError(f"no end in {seconds} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + 60, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings and no log of what is refused."""
    logging.disable(logging.CRITICAL)
    argv = sys.argv
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        sys.argv = argv
        logging.disable(logging.NOTSET)


def run() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="how many inputs")
    parser.add_argument("--first", type=int, default=0, help="the first one's number")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    faulthandler.enable()
    kinds = [kind for kind in SHARES if kind != "PyTorch" or importlib.util.find_spec("torch")]
    with tempfile.TemporaryDirectory(prefix="vgg_jax_") as folder:
        report = torture(Path(folder), range(given.first, given.first + given.count), given.seed, kinds)
    print(report)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(run())
