"""Several processes are one: `launch/local.sh` trains, is stopped, goes on, and evaluates as a single process does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from configs.quickstart import get_config
from vgg_jax import ConfigError, processes
from vgg_jax.checkpoint import read_arrays
from vgg_jax.commands.evaluate import evaluate
from vgg_jax.commands.target import of_run
from vgg_jax.tasks.choose import make_task
from vgg_jax.train.loop import train

ROOT = Path(__file__).parent.parent
KEYS = {
    "model.width": 0.0625,
    "init.scheme": "he",
    "data.train_split": "train[:96]",
    "data.validation_split": "validation[:31]",
    "train.batch_size": 16,
    "train.steps": 8,
    "train.learning_rate": 1e-3,
    "evaluate.every": 8,
    "evaluate.split": "test[:31]",
    "evaluate.scales": (36,),
    "checkpoint.every": 4,
    "log.every": 1,
}
CONFIG = ("--config=configs/quickstart.py", *(f"--config.{key}={value}" for key, value in KEYS.items()))


def started(count, devices, *arguments):
    """A run of so many processes of so many devices each."""
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["launch/local.sh", "-n", str(count), "--", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def finished(process):
    out, said = process.communicate(timeout=300)
    assert "Traceback" not in said, said
    return process.returncode, out, said


def last(workdir):
    return read_arrays(max((workdir / "checkpoints").iterdir(), key=lambda folder: int(folder.name)))


def test_two_processes_are_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    config = get_config()
    config.update_from_flattened_dict(KEYS)
    train(config, one, make_task)
    # Two processes of two devices, over both of which the FC layers are split; one of the two is asked to stop.
    run = started(2, 2, *CONFIG, f"--workdir={two}", "--config.mesh.model=2", "--config.mesh.zero=True")
    records = two / "metrics.jsonl"
    while not records.is_file() or not records.read_text():
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGTERM)
    status, _, said = finished(run)
    assert status == 143 and said.count("stopped on request at step") == 1, said
    saved = [int(folder.name) for folder in (two / "checkpoints").iterdir()]
    assert f"stopped on request at step {max(saved)}" in said and max(saved) < 8
    # It goes on with the FC layers split over the two processes.
    status, _, said = finished(started(2, 1, *CONFIG, f"--workdir={two}", "--config.mesh.model=2"))
    assert status == 0 and said.count(f"resumed at step {max(saved)}") == 1, said
    for a, b in zip(jax.tree.leaves(last(one)), jax.tree.leaves(last(two)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max())
    status, out, _ = finished(started(2, 1, "--mode=evaluate", f"--workdir={two}"))
    rows = [line for line in out.splitlines() if line.startswith("|")]
    assert status == 0 and len(rows) == 6  # one of the processes prints
    assert rows == [line for line in evaluate([of_run(one)]).splitlines() if line.startswith("|")]
    with Image.open(two / "batch.png") as picture:
        assert min(picture.size) > 200


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
