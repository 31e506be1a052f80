"""The command line: a killed run, and every mistake as a message without a traceback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from vgg_jax.checkpoint import read_arrays
from vgg_jax.train import metric_writer

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "TFDS_DATA_DIR": "no-such-folder"}


def command(*arguments):
    return [sys.executable, "-m", "vgg_jax.main", *map(str, arguments)]


def run(*arguments):
    return subprocess.run(command(*arguments), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.train.bach_size=3"], "config.train.bach_size: no such key; did you mean 'train.batch_size'?"),
        (["--config.train.batch_size=many"], "--config.train.batch_size=many: invalid literal"),
        (["--config.data.crop=50"], "config.data.crop=50 is not a multiple of 32, the net's stride; use 32 or 64"),
        (["--config.data.source=foldr:x"], "config.data.source='foldr:x': no such source; did you mean 'folder'?"),
        (["--config.data.source=folder:no/such"], "no/such"),
        (["--config.data.source=tfds:imagenet2012"], "To see training run right now: make quickstart"),
        (["--config.init.from_run=no-such-run"], "no-such-run: is not there; give a run's --workdir"),
        (["--config=configs/vgg20.py"], "No such file or directory: 'configs/vgg20.py'; there are finetune, folder,"),
        (["--config=configs/vgg19.py:s512"], "no stage 's512'; there are s256"),
        (["--mode=evalute"], "--mode=evalute: value should be one of <train|evaluate|predict|features|fuse>"),
        (["--mode=evaluate", "--checkpoint=no-such-run"], "no-such-run: is not there"),
        (["--mode=evaluate", "--config.evaluate.scale=many"], "--config.evaluate.scale=many: invalid literal"),
        (["--wrkdir=x"], "Unknown command line flag 'wrkdir'. Did you mean: workdir"),
        (["stray"], "what is 'stray'? Flags look like"),
        (["--stack"], "--mode=train does not take --stack; it takes --config, --workdir"),
        (
            ["--mode=predict", "--out=f.npz", "a.jpg"],
            "--mode=predict does not take --out; it takes --config",
        ),
        (["--mode=fuse", "a.npz", "b.npz"], "--mode=fuse does not take --config; it takes no flags"),
        (["--mode=predict"], "--mode=predict takes images, folders or patterns"),
        (["--mode=predict", "--checkpoint=A,B", "README.md"], "--checkpoint=A and --checkpoint=B: this mode takes one"),
    ],
)
def test_a_mistake_is_a_message_and_no_traceback(arguments, message, tmp_path):
    defaults = ["--config=configs/quickstart.py"] if not any("--config=" in given for given in arguments) else []
    result = run(*defaults, f"--workdir={tmp_path}/run", *arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def test_without_config_or_folder_the_command_says_what_to_type():
    result = run()
    assert result.returncode == 2 and "vgg_jax --config=vgg16 --workdir=runs/D" in result.stderr
    assert "make quickstart" in result.stderr and "Traceback" not in result.stderr


RUN = [
    "--config=configs/quickstart.py",
    "--config.model.width=0.0625",
    "--config.data.train_split=train[:200]",
    "--config.data.validation_split=validation[:40]",
    "--config.train.batch_size=16",
    "--config.train.steps=60",
    "--config.evaluate.every=20",
    "--config.checkpoint.every=10",
    "--config.log.every=1",
]


def test_a_run_killed_at_an_arbitrary_step_ends_as_if_it_had_not_been(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result = run(*RUN, f"--workdir={whole}")
    assert result.returncode == 0, result.stderr
    for most in (17, 38):  # SIGKILL twice, between checkpoints
        process = subprocess.Popen(
            command(*RUN, f"--workdir={killed}"),
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and process.poll() is None:
            rows = metric_writer.read(killed)
            if rows and rows[-1]["step"] >= most:
                break
            time.sleep(0.005)
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (killed / "checkpoints/60").exists()
    result = run(*RUN, f"--workdir={killed}")
    assert result.returncode == 0 and "resumed at step" in result.stderr
    a, b = (read_arrays(folder / "checkpoints/60") for folder in (whole, killed))
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))
    rows = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (whole, killed)
    ]
    losses = [{row["step"]: row["train_loss"] for row in part if "train_loss" in row} for part in rows]
    assert losses[0] == losses[1] and list(losses[1]) == sorted(losses[1])


def test_sigterm_saves_and_exits_cleanly(tmp_path):
    process = subprocess.Popen(
        command(*RUN, f"--workdir={tmp_path}", "--config.train.steps=100000"),
        cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (tmp_path / "metrics.jsonl").exists():
        time.sleep(0.05)
    while time.monotonic() < deadline and len((tmp_path / "metrics.jsonl").read_text().splitlines()) < 3:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, reported = process.communicate(timeout=240)
    assert process.returncode == 0 and "stopped on request at step" in reported and "Traceback" not in reported
    step = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert f"at step {step}" in reported
