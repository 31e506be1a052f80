"""The command line: every mistake is a message without a traceback. `tests.torture.kills` has runs that are killed."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

import vgg_jax.main  # noqa: F401 (it says how a tuple is parsed)
from vgg_jax.config import validate

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "TFDS_DATA_DIR": "no-such-folder"}


def run(*arguments):
    command = [sys.executable, "-m", "vgg_jax.main", *arguments]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


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
        ([f"--config={'x' * 300}"], "File name too long"),
        (["--config=configs/vgg19.py:s512"], "no stage 's512'; there are s256"),
        (
            ["--mode=evalute"],
            "--mode=evalute: value should be one of <train|evaluate|predict|features|transfer|compile|fuse>",
        ),
        (["--mode=evaluate", "--checkpoint=no-such-run"], "no-such-run: is not there"),
        (["--mode=evaluate", "--config.evaluate.scale=many"], "--config.evaluate.scale=many: invalid literal"),
        ([f"--workdir={os.fsdecode(bytes([255]))}"], "\\udcff: the folder of a run has a name in UTF-8"),
        (["--wrkdir=x"], "Unknown command line flag 'wrkdir'. Did you mean: workdir"),
        (["--multihost"], "--multihost: coordinator_address should be defined.\nIt is for one of several processes:"),
        (["stray"], "what is 'stray'? Flags look like"),
        (["--stack"], "--mode=train does not take --stack; it takes --config, --workdir"),
        (
            ["--mode=predict", "--out=f.npz", "a.jpg"],
            "--mode=predict does not take --out; it takes --config",
        ),
        (["--mode=fuse", "a.npz", "b.npz"], "--mode=fuse does not take --config; it takes no flags"),
        (["--mode=predict"], "--mode=predict takes images, folders or patterns"),
        (["--mode=predict", f"--workdir={'x' * 300}", "README.md"], "xxx: is not there; give a run's --workdir"),
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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("assert False", "AssertionError()"),
        ("config = {}", "get_config() returns nothing"),
        ("return None.keys", "'NoneType' object has no attribute 'keys'"),
        ("return default_config().train.bach_size", "no such key: 'bach_size' Did you mean \"batch_size\""),
    ],
)
def test_a_config_file_that_gives_no_config_is_named(line, message, tmp_path):
    (tmp_path / "mine.py").write_text(f"from vgg_jax.config import default_config\n\ndef get_config():\n    {line}\n")
    result = run(f"--config={tmp_path}/mine.py")
    assert result.returncode == 2 and result.stderr.startswith(f"--config={tmp_path}/mine.py: {message}")


def test_who_reads_no_further_sees_no_traceback():
    command = [sys.executable, "-m", "vgg_jax.main", "--help"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, **pipes) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 141 and not said


def config_of(arguments):
    """The config and the overrides of a command line."""
    values = flags.FlagValues()
    given = ["main", *(argument for argument in arguments if argument.startswith("--config"))]
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # how ml_collections imports a config file
        values(given)
    return holder.value, values["config"].override_values


def test_of_a_key_that_is_given_twice_the_last_one_counts():
    given = ["--config=configs/quickstart.py", "--config.seed=1", "--config.data.scale=(32, 36)", "--config.seed=2"]
    config, overrides = config_of([*given, "--config.data.scale=(40, 44)", "--config.evaluate.scales=40"])
    assert overrides == {"seed": 2, "data.scale": (40, 44), "evaluate.scales": (40,)}
    assert (config.seed, config.data.scale, config.evaluate.scales) == (2, (40, 44), (40,))


def test_overrides_of_the_script_for_the_tables_count(tmp_path):
    record = tmp_path / "record"
    (tmp_path / "python").write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" end >> {record}\n")
    (tmp_path / "python").chmod(0o755)
    overrides = {"train.steps": 9, "data.scale": (64, 80), "schedule.boundaries": (3, 6), "train.learning_rate": 0.5}
    command = [
        "bash",
        "launch/tables.sh",
        "images",
        "runs",
        *(f"--config.{key}={value}" for key, value in overrides.items()),
    ]
    subprocess.run(command, cwd=ROOT, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)
    *trainings, evaluation = [lines.splitlines() for lines in record.read_text().split("end\n")[:-1]]
    assert len(trainings) == 8 and "--mode=evaluate" in evaluation
    for arguments in trainings:
        config, given = config_of(arguments)
        validate(config)
        assert given.items() >= overrides.items() and config.data.source == "folder:images"
