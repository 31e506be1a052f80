"""Several processes are one: they train, are disturbed, go on and evaluate as a single process does (Sec. 3.3)."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from PIL import Image

from configs.quickstart import get_config
from tests.forked import command, joined
from vgg_jax import ConfigError, checkpoint, compiler, main, processes, saved_arrays, sharding, stopping
from vgg_jax.checkpoint import read_arrays
from vgg_jax.commands import fuse
from vgg_jax.commands.evaluate import evaluate
from vgg_jax.commands.target import of_run
from vgg_jax.tasks.choose import make_task
from vgg_jax.tasks.classification import Classification
from vgg_jax.train.loop import train

ROOT = Path(__file__).parent.parent
KEYS = {
    "model.width": 0.0625,
    "init.scheme": "he",
    "data.train_split": "train[:96]",
    "data.validation_split": "validation[:31]",
    "train.batch_size": 16,
    "train.steps": 1000,
    "train.learning_rate": 1e-4,
    "train.freeze": ("conv1", "conv2", "conv3", "conv4"),
    "evaluate.every": 1000,
    "evaluate.split": "test[:31]",
    "evaluate.scales": (36,),
    "checkpoint.every": 2,
    "log.every": 1,
}
CONFIG = ("--config=configs/quickstart.py", *(f"--config.{key}={value}" for key, value in KEYS.items()))


def disturbed(workdir, number, devices, *arguments):
    """A run of two processes, of which the second is sent a signal after the next checkpoint: status and words of each.

    What does not end by it is killed when the first one has ended.
    """
    folder, before = workdir.parent, saved(workdir)
    one, two = joined(2, devices, folder, command, "--multihost", *CONFIG, f"--workdir={workdir}", *arguments)
    words = lambda: [(folder / f"said{process}.txt").read_text() for process in range(2)]
    while saved(workdir) == before:
        assert one.is_alive() and two.is_alive(), words()
        time.sleep(0.02)
    os.kill(two.pid, number)
    one.join(300)
    if number == signal.SIGSTOP:
        two.kill()
    two.join(300)
    assert not any("Traceback" in said for said in words()), words()
    return (one.exitcode, two.exitcode), words()


def trained_and_evaluated(workdir, steps):
    """A run that is left alone, in a process that is alone; it prints the tables."""
    config = get_config()
    config.update_from_flattened_dict(KEYS | {"train.steps": steps})
    train(config, workdir, make_task)
    print(evaluate([of_run(workdir)]))


def diverging(bad, *arguments):
    """The command line, where the loss of an image whose values have the sum `bad` is no number."""
    sound = Classification.loss

    def loss(self, net, batch, keys):
        total, metrics = sound(self, net, batch, keys)
        spoilt = jnp.where(batch["image"].astype(int).sum((1, 2, 3)) == bad, jnp.nan, 0).sum()
        return total + spoilt, metrics | {"loss": metrics["loss"] + spoilt}

    Classification.loss = loss
    command(*arguments)


def resuming(workdir, fault):
    """Saves two steps; the second process then does not see the last one, or cannot read it. Each notes the result.

    Then both open the network, as an evaluation does.
    """
    processes.join()
    split = sharding.replicated(sharding.device_mesh())
    full = lambda step: {"net": {"fc8": jax.make_array_from_callback((4,), split, lambda _: np.full(4, step, "f4"))}}
    with contextlib.closing(checkpoint.Checkpoints(workdir, 3)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, full(step), {"config": json.loads(get_config().to_json()), "classes": []})
        checkpoints.wait()
        steps, meta, items, totals = checkpoint._steps, checkpoint.read_meta, saved_arrays.read, saved_arrays.checksums
        if jax.process_index() == 1 and fault == "unseen":
            checkpoint._steps = lambda folder: [each for each in steps(folder) if each.name != "2"]
        if jax.process_index() == 1 and fault == "unreadable":
            checkpoint.read_meta = lambda folder: meta(folder if folder.name != "2" else folder / "nothing")
        if jax.process_index() == 1 and fault == "damaged":
            saved_arrays.read = lambda folder, *like: items(folder if folder.parent.name == "1" else workdir, *like)
        if jax.process_index() == 1 and fault == "changed":
            saved_arrays.checksums = lambda tree: totals(tree) if sharding.whole(tree["fc8"])[0] == 1 else {"fc8": 0}
        opened, of_net = checkpoint.read_newest_together(workdir, read_arrays)
        arrays, found = checkpoints.restore(full(0), lambda meta: None)
    step = np.asarray(arrays["net"]["fc8"].addressable_data(0))
    said = f"{found['step']} {step.tolist()}; {opened.name} {of_net['fc8'].tolist()}"
    (workdir / f"{jax.process_index()}.txt").write_text(said)


def joined_and_waiting(ready):
    with stopping.listening():
        processes.join()
        ready.touch()
        time.sleep(60)


def saved(workdir):
    return max(
        (int(folder.name) for folder in (workdir / "checkpoints").glob("*") if folder.name.isdecimal()), default=0
    )


def stand_in(command, script):
    """A command of the same name, for PATH."""
    command.write_text(f"#!/bin/bash\n{script}\n")
    command.chmod(0o755)


def test_two_processes_are_one_and_survive_each_others_faults(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    split, patience = "--config.mesh.model=2", "--config.mesh.patience=20"
    # Two processes of two devices, over both of which the FC layers are split; one of the two gets stuck.
    (status, _), (said, _) = disturbed(two, signal.SIGSTOP, 2, split, "--config.mesh.zero=True", patience)
    assert status == 1 and "no progress for 20 seconds (config.mesh.patience): another process is stuck" in said, said
    # They go on, with the FC layers split over the two. One of them dies, which the network notices or not.
    at = saved(two)
    (status, _), (said, _) = disturbed(two, signal.SIGKILL, 1, split, patience)
    assert status == 1 and len(re.findall("another process is (gone|stuck, or gone)", said)) == 1, said
    assert said.count(f"resumed at step {at}") == 1, said
    # They go on. One is asked to stop: both save the same step.
    at = saved(two)
    statuses, (said, _) = disturbed(two, signal.SIGTERM, 1, split)
    assert statuses == (-signal.SIGTERM, -signal.SIGTERM), said
    assert said.count(f"resumed at step {at}") == said.count(f"stopped on request at step {saved(two)}") == 1, said
    (alone,) = joined(1, 2, tmp_path, trained_and_evaluated, one, saved(two))
    alone.join(300)
    assert alone.exitcode == 0, (tmp_path / "said0.txt").read_text()
    arrays = [jax.tree.leaves(read_arrays(folder / "checkpoints" / str(saved(two)))) for folder in (one, two)]
    for a, b in zip(*arrays, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max())
    with Image.open(two / "batch.png") as picture:
        assert min(picture.size) > 200
    # The launcher of processes on one machine; one of them prints.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "XLA_FLAGS": ""}
    launched = ["launch/local.sh", "-n", "2", "--", "--mode=evaluate", f"--workdir={two}"]
    ended = subprocess.run(launched, cwd=ROOT, env=environment, capture_output=True, text=True)
    rows = [line for line in ended.stdout.splitlines() if line.startswith("|")]
    assert ended.returncode == 0 and len(rows) == 6, ended.stderr
    assert rows == [line for line in (tmp_path / "said0.txt").read_text().splitlines() if line.startswith("|")]


@pytest.mark.parametrize(("fault", "step"), [("unseen", 2), ("unreadable", 1), ("damaged", 1), ("changed", 1)])
def test_processes_open_the_same_checkpoint_whatever_each_sees(tmp_path, fault, step):
    for process in (both := joined(2, 1, tmp_path, resuming, tmp_path, fault)):
        process.join(100)
    said = [(tmp_path / f"said{number}.txt").read_text() for number in range(2)]
    assert [process.exitcode for process in both] == [0, 0], said
    resumed = [(tmp_path / f"{number}.txt").read_text() for number in range(2)]
    assert resumed == [f"{step} {[float(step)] * 4}; {step} {[float(step)] * 4}"] * 2


def test_a_joined_process_stops_on_request(tmp_path):
    (alone,) = joined(1, 1, tmp_path, joined_and_waiting, ready := tmp_path / "ready")
    while not ready.exists():
        assert alone.is_alive(), (tmp_path / "said0.txt").read_text()
        time.sleep(0.02)
    os.kill(alone.pid, signal.SIGTERM)
    alone.join(30)
    assert alone.exitcode == -signal.SIGTERM


def test_no_step_waits_for_the_answers_of_others(monkeypatch):
    alone, several = processes.AnyProcess(), processes.AnyProcess()
    assert [alone(answer) for answer in (False, True, False)] == [False, True, False]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert [several(answer) for answer in (False, True, False, False)] == [False, False, True, False]


def test_a_loss_that_is_no_number_in_one_process_stops_both_at_its_step(tmp_path):
    """Image 13 of batch 4 is read, and its loss computed, by the second of two processes alone."""
    config = get_config()
    config.update_from_flattened_dict(KEYS)
    task = make_task(config, sharding.device_mesh(), tmp_path / "other")
    with contextlib.closing(task.batches(None, 4)) as batches:
        bad = int(next(batches)["image"][13].astype(int).sum())
    workdir = tmp_path / "run"
    both = joined(2, 1, tmp_path, diverging, bad, "--multihost", *CONFIG, f"--workdir={workdir}")
    for process in both:
        process.join(300)
    said, silent = ((tmp_path / f"said{number}.txt").read_text() for number in range(2))
    assert [process.exitcode for process in both] == [2, 2], said + silent
    assert "step 5: the loss is nan" in said and "the last good checkpoint is step 4" in said, said
    assert "Traceback" not in said + silent
    listed = (workdir / "diverged.txt").read_text().splitlines()
    assert listed == task.images(4) and saved(workdir) == 4


@pytest.mark.parametrize("mistake", [ConfigError("1.jpg: not an image"), ValueError("UNAVAILABLE: connection closed")])
def test_commands_of_several_processes_end_together(mistake, monkeypatch):
    """By what one of them cannot do, and by what it hears when another one is gone."""
    ended = []

    def run(arguments):
        raise mistake

    monkeypatch.setattr(flags.FLAGS["multihost"], "value", True)
    monkeypatch.setattr(main, "MODE", SimpleNamespace(value="fuse"))
    monkeypatch.setattr(main, "MODES", {"fuse": main.Mode("any", ("multihost",))})
    monkeypatch.setattr(main, "_check_given", lambda *_: None)
    monkeypatch.setattr(fuse, "run", run)
    for name in ("keep_memory", "keep_programs"):
        monkeypatch.setattr(compiler, name, lambda: None)
    monkeypatch.setattr(processes, "join", lambda: None)
    monkeypatch.setattr(processes, "give_up", ended.append)
    monkeypatch.setattr(processes, "MOMENT", 0.01)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: time.sleep(1))  # it waits for the others
    with contextlib.suppress(ConfigError):
        main.main(["vgg_jax"])
    assert len(ended) == 1 and str(mistake) in ended[0]


def test_what_each_process_has_is_known_to_all_to_the_bit(two_processes):
    values = [{"\udcff.jpg": 0.1, "鳥": 123.68000000000001}, {}]
    assert two_processes(lambda: processes.gathered(values[jax.process_index()])) == [values] * 2
    assert two_processes(lambda: processes.by_first(lambda: values[jax.process_index()])) == [values[0]] * 2


def test_the_launcher_ends_all_when_one_ends(tmp_path):
    """The second process is stuck, the first one fails. Of the GPUs that are visible to both, each has its own."""
    stand_in(
        tmp_path / "python",
        '[ "$1" = -c ] && { echo 4321; exit; }\n'
        'echo "$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID $*"\n'
        'echo "GPU $JAX_LOCAL_DEVICE_IDS of $CUDA_VISIBLE_DEVICES"\n'
        '[ "$JAX_PROCESS_ID" = 0 ] && exit 3\n'
        "kill -STOP $$\n",
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "4,6"}
    launched = ["launch/local.sh", "-n", "2", "--", "--workdir=a b"]
    ended = subprocess.run(launched, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    shown = [f"GPU {number} of 4,6" for number in range(2)]
    shown += [f"localhost:4321 2 {number} -m vgg_jax.main --multihost --workdir=a b" for number in range(2)]
    assert ended.returncode == 3 and sorted(ended.stdout.splitlines()) == shown, ended


@pytest.mark.parametrize(
    ("status", "state", "again"),
    [(143, "RUNNING", True), (143, "COMPLETING", False), (2, "RUNNING", False), (0, "RUNNING", False)],
    ids=["asked to stop", "canceled", "failed", "finished"],
)
def test_a_slurm_job_that_was_asked_to_stop_is_queued_again(status, state, again, tmp_path):
    stand_in(tmp_path / "srun", f'echo "$*"; exit {status}')
    stand_in(tmp_path / "squeue", f"echo {state}")
    stand_in(tmp_path / "scontrol", 'echo "$*"')
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment |= {"SLURM_JOB_ID": "71", "SLURM_CPUS_PER_TASK": "6"}
    launched = ["bash", "launch/slurm.sbatch", "--workdir=a b"]
    ended = subprocess.run(launched, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    step, *queued = ended.stdout.splitlines()
    assert step.startswith("--cpus-per-task=6 --kill-on-bad-exit=0 ") and not ended.stderr, ended
    assert step.endswith(" python -m vgg_jax.main --multihost --config.data.threads=6 --workdir=a b"), ended
    assert ended.returncode == status and queued == ["requeue 71"] * again, ended


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"JAX_PROCESS_ID": "1"}, "JAX_COORDINATOR_ADDRESS is not set beside JAX_NUM_PROCESSES, JAX_PROCESS_ID"),
        (
            {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"},
            "JAX_NUM_PROCESSES=two and JAX_PROCESS_ID=0 are numbers",
        ),
    ],
)
def test_without_other_processes_it_says_how_they_are_started(given, message, monkeypatch):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        processes.join()
