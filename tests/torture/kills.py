"""A small run that is killed at random moments ends with the bits of a run that was left alone.

    python -m tests.torture.kills --count=200
    python -m tests.torture.kills --count=20 --pair

The run trains the FC layers on kept activations, with validations and checkpoints, and is evaluated: the same two
commands are given again and again, and killed by SIGKILL, SIGTERM or Ctrl-C in a phase that is drawn, at a moment in it
that is drawn. When both have come to their end, everything that they wrote is compared with the undisturbed run's, and
another run begins, until there were as many kills as were asked for. With --pair a run is of two processes, both of
which are killed at once by SIGKILL.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import logging as absl_logging

from tests import forked
from vgg_jax.checkpoint import read_arrays, read_meta
from vgg_jax.commands.workdir import MARK, RUN

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
PHASES = ("imports", "colors", "cached features", "compiling", "steps", "validation", "saving", "evaluation")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STEPS, VALIDATED = 60, 20
TRAIN = (
    "--config=configs/quickstart.py",
    "--config.model.width=0.0625",
    "--config.data.train_split=train[:400]",
    "--config.data.validation_split=validation[:100]",
    "--config.train.freeze=('conv1', 'conv2', 'conv3', 'conv4', 'conv5')",
    "--config.train.cached_views=4",
    "--config.train.batch_size=16",
    f"--config.train.steps={STEPS}",
    f"--config.evaluate.every={VALIDATED}",
    "--config.checkpoint.every=10",
    "--config.log.every=1",
)
EVALUATE = ("--mode=evaluate", "--config.evaluate.split=test[:100]", "--config.evaluate.scales=(36,)")
PATIENCE = 60  # seconds until a process that was asked to stop counts as deaf


class Kill(NamedTuple):
    """A signal, and when it comes."""

    number: signal.Signals
    phase: str
    moment: float
    """The fraction of the phase that has passed, from 0 to 1."""


class Ended(NamedTuple):
    """How a process ended."""

    status: int
    said: str
    phases: dict[str, float]
    """The seconds between the first and the last sight of each phase."""
    killed_in: str
    """The phase, or "" if it came to its end by itself."""
    stopping: float
    """The seconds from the signal to the end."""


class Pair:
    """Two processes that are one run, in the place of `subprocess.Popen`.

    Args:
      arguments: of the command line.
      folder: what the first one says goes to its file `said0.txt`.
    """

    def __init__(self, arguments: Sequence[str], folder: Path):
        self._processes = forked.joined(2, 1, folder, forked.command, "--multihost", *arguments)
        self.pid = self._processes[0].pid

    def poll(self) -> int | None:
        """The status of the first process when both have ended."""
        return None if any(process.exitcode is None for process in self._processes) else self.returncode

    @property
    def returncode(self) -> int | None:
        return self._processes[0].exitcode

    def wait(self, timeout: float | None = None) -> None:
        for process in self._processes:
            process.join(timeout)

    def kill(self) -> None:
        for process in self._processes:
            process.kill()

    def send_signal(self, number: int) -> None:
        for process in self._processes:
            os.kill(process.pid, number)


def drawn(seed: int, signals: Sequence[signal.Signals] = SIGNALS) -> Iterator[Kill]:
    """Kills without end."""
    draws = random.Random(seed)
    while True:
        yield Kill(draws.choice(signals), draws.choice(PHASES), draws.random())


def torture(
    kills: Iterable[Kill], folder: Path, show: Callable[[str], None] = print, *, pair: bool = False
) -> collections.Counter:
    """Kills runs until no kill is left, and compares each run with one that was left alone.

    Args:
      kills: the next one waits until its phase comes, in this run or in another.
      folder: where the runs go.
      show: is given a line on every kill and every run.
      pair: whether a run is of two processes.

    Returns:
      How many kills there were, by (phase, signal).

    Raises:
      AssertionError: a run ended otherwise than the one that was left alone, or a process did not stop as it should.
    """
    kills, counts = iter(kills), collections.Counter()
    alone, killed, phases = folder / "alone", folder / "killed", {}
    for command in (TRAIN, EVALUATE):
        phases |= _finished(_attempt(command, alone, None, {}, pair)).phases
    kill = next(kills, None)
    while kill:
        commands, began = [TRAIN, EVALUATE], counts.total()
        while commands:
            ended = _attempt(commands[0], killed, kill, phases, pair)
            if not ended.killed_in:
                phases |= _finished(ended).phases  # shorter ones, since compiled programs were kept
                del commands[0]
                continue
            _check_stopped(kill, ended)
            counts[ended.killed_in, kill.number.name] += 1
            show(f"{counts.total():4}  {kill.number.name} in {ended.killed_in}: ended after {ended.stopping:.1f} s")
            kill = next(kills, None)
        check_same(alone, killed)
        show(f"      done after {counts.total() - began} kills: every bit and record as in the run that was left alone")
        shutil.rmtree(killed)
    return counts


def check_same(a: Path, b: Path) -> None:
    """Compares what two runs have left: the last checkpoint, the records, the tables and the posteriors."""
    assert {entry.name for entry in b.iterdir()} <= {*RUN, MARK}
    assert _rows(a) == _rows(b)
    last = [folder / "checkpoints" / str(STEPS) for folder in (a, b)]
    assert read_meta(last[0]) == read_meta(last[1])
    x, y = map(read_arrays, last)
    assert jax.tree.structure(x) == jax.tree.structure(y)
    assert jax.tree.all(jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), x, y))
    (x,), (y,) = (folder.rglob("tables.csv") for folder in (a, b))
    assert x.read_text() == y.read_text()
    (x,), (y,) = (folder.rglob("dense.npz") for folder in (a, b))
    with np.load(x) as x, np.load(y) as y:
        assert all(np.array_equal(x[name], y[name]) for name in ("posteriors", "labels", "images"))


def _rows(workdir: Path) -> list[dict]:
    """The records, without the two figures that are times."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    timed = "train_images_per_second", "train_input_wait"
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


def _attempt(command: Sequence[str], workdir: Path, kill: Kill | None, phases: dict[str, float], pair: bool) -> Ended:
    """Runs a command until its end, or until the kill's phase has come and lasted for its part of the usual time."""
    said, sent, now, seen, last, heard = workdir.with_name("said0.txt"), 0.0, "", {}, {}, False
    arguments = [f"--workdir={workdir}", *command]
    with said.open("wb") as file:
        alone = [sys.executable, "-m", "vgg_jax.main", *arguments]
        process = (
            Pair(arguments, said.parent)
            if pair
            else subprocess.Popen(alone, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=file)
        )
    try:
        while process.poll() is None:
            time.sleep(0.005)
            listens = _listens(process.pid)
            if heard and not listens:  # the command is done, and the interpreter ends
                continue
            heard = listens
            now = "evaluation" if command is EVALUATE else _phase(said.read_text(), workdir)
            last[now] = time.monotonic()
            seen.setdefault(now, last[now])
            due = kill and kill.phase in seen and last[now] - seen[kill.phase] >= kill.moment * phases[kill.phase]
            if due and (kill.number == signal.SIGKILL or listens):
                sent = time.monotonic()
                process.send_signal(kill.number)
                process.wait(PATIENCE)
                break
    finally:
        process.kill()
        process.wait()
    lasted = {phase: last[phase] - seen[phase] for phase in seen}
    return Ended(process.returncode, said.read_text(), lasted, now if sent else "", time.monotonic() - sent)


def _phase(said: str, workdir: Path) -> str:
    """What a training does, by what it has said and written so far."""
    if "first step after" not in said:
        if "training on" not in said:
            return "imports"
        if "weight layers" not in said:
            return "colors"
        return "cached features" if "computing the frozen" in said and "computed in" not in said else "compiling"
    if list(workdir.glob("checkpoints/*.orbax-checkpoint-tmp*")):
        return "saving"
    step = max(map(int, re.findall(rf"step (\d+)/{STEPS}", said)), default=0)
    return "validation" if step and step % VALIDATED == 0 and f"step {step}: validation" not in said else "steps"


def _listens(pid: int) -> bool:
    """Whether a process has come so far that it handles SIGTERM."""
    try:
        caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    except FileNotFoundError:  # it has ended just now, and was not this process's own
        return False
    return bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def _finished(ended: Ended) -> Ended:
    assert ended.status == 0 and "Traceback" not in ended.said, ended.said
    return ended


def _check_stopped(kill: Kill, ended: Ended) -> None:
    """That a process ended by the signal and said so in one line, unless it was at its end anyway."""
    if kill.number == signal.SIGKILL:
        return
    name = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}[kill.number]
    assert "Traceback" not in ended.said, ended.said
    assert ended.status in (-kill.number, 0), (kill, ended)
    assert ended.said.count(f"{name}: stopping") == 1 or ended.status == 0, (kill, ended)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="of the kills")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--pair", action="store_true", help="kill runs of two processes")
    given = parser.parse_args()
    absl_logging.set_verbosity(absl_logging.FATAL)  # of Orbax, as the commands do
    with tempfile.TemporaryDirectory() as folder:
        ENVIRONMENT["XDG_CACHE_HOME"] = folder  # of compiled programs: the user's own is not for what is killed
        os.environ.update(ENVIRONMENT)
        show = lambda line: print(line, flush=True)
        signals = (signal.SIGKILL,) if given.pair else SIGNALS
        kills = itertools.islice(drawn(given.seed, signals), given.count)
        counts = torture(kills, Path(folder), show, pair=given.pair)
    names = [number.name for number in signals]
    print(f"\n{'killed in':<18}" + "".join(f"{name:>9}" for name in names))
    for phase in PHASES:
        print(f"{phase:<18}" + "".join(f"{counts[phase, name]:>9}" for name in names))


if __name__ == "__main__":
    main()
