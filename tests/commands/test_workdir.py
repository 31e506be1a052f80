"""A folder is this program's or left alone, and trained in by one run at a time."""

import errno
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys

import jax
import pytest

from vgg_jax import ConfigError, UserError, processes
from vgg_jax.commands import train as command
from vgg_jax.commands import transfer
from vgg_jax.commands.workdir import MARK, RUN, claim, claim_results, held, is_ours
from vgg_jax.config import default_config


@pytest.fixture(autouse=True)
def log_files():
    """Closes the log.txt of the runs, which the command leaves open for what it says last."""
    log = logging.getLogger("vgg_jax")
    before = log.handlers[:]
    yield
    for handler in log.handlers[len(before) :]:
        log.removeHandler(handler)
        handler.close()


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def train(folder, **overrides):
    config = default_config()
    config.update_from_flattened_dict(overrides)
    return command.run([], config=config, overrides=overrides, workdir=str(folder))


@pytest.mark.parametrize("name", sorted(RUN))
def test_a_run_does_not_start_where_it_would_replace_what_is_not_its_own(name, tmp_path):
    if name in ("checkpoints", "evaluation", "tensorboard", "features"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.pth").write_text("theirs")
    else:
        (tmp_path / name).write_text("theirs")
    before = contents(tmp_path)
    for _ in range(2):
        with pytest.raises(ConfigError, match=f"{tmp_path}: {name} is there already.* name a new folder"):
            train(tmp_path)
    assert contents(tmp_path) == before


def test_a_folder_of_other_things_may_become_a_run(tmp_path):
    (tmp_path / "slurm-17.out").write_text("node 3")
    with held(tmp_path):
        assert is_ours(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")  # the run's own, from here on
    claim(tmp_path, RUN)
    with pytest.raises(ConfigError, match=r"notes.txt is there already"):  # where any file might be replaced
        (tmp_path / "evaluation").mkdir()
        (tmp_path / "evaluation/notes.txt").write_text("theirs")
        claim(tmp_path / "evaluation")


def test_runs_and_tables_of_before_the_mark_are_known(tmp_path):
    (tmp_path / "run/checkpoints/12/net").mkdir(parents=True)
    (tmp_path / "run/metrics.jsonl").write_text("")
    claim(tmp_path / "run", RUN)
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/tables.json").write_text('[\n {\n  "table": 3,\n  "network": "A"\n }\n]')
    claim(tmp_path / "evaluation")
    (tmp_path / "young").mkdir()
    (tmp_path / "young/colors.json").write_text('{\n "of": {\n  "source": "mnist5k"\n }\n}')
    (tmp_path / "young/log.txt").write_text("")
    claim(tmp_path / "young", RUN)
    (tmp_path / "tuned/features/view0").mkdir(parents=True)
    (tmp_path / "tuned/features/view0/of.json").write_text("{}")  # copied, as configs/finetune.py says
    claim(tmp_path / "tuned", frozenset({"tables.md"}))  # for a command that writes no features
    (tmp_path / "tuned" / MARK).unlink()
    claim(tmp_path / "tuned", RUN)
    (tmp_path / "evaluation/tables.json").write_text('{"furniture": ["tables"]}')
    with pytest.raises(ConfigError, match=r"tables.json is there already"):
        claim(tmp_path / "evaluation")


def test_a_second_run_in_a_folder_is_refused_and_told_of_the_first(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(command, "train", lambda *arguments: trained.append(arguments))
    with held(tmp_path):
        with pytest.raises(ConfigError) as caught:
            train(tmp_path)
        assert f"{tmp_path}: process {os.getpid()} on {socket.gethostname()} (since 20" in str(caught.value)
        assert "is training here" in str(caught.value) and not trained
        assert os.listdir(tmp_path) == [MARK]
    train(tmp_path)
    assert len(trained) == 1


def test_the_hold_dies_with_its_process(tmp_path):
    with held(tmp_path):
        pass
    script = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / MARK], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        process.stdout.readline()
        with pytest.raises(ConfigError, match="is training here"), held(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
    with held(tmp_path):
        pass


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch, caplog):
    def unsupported(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with held(tmp_path):
        pass
    assert caplog.messages == [
        f"{tmp_path / MARK} cannot be locked (Function not implemented): start no second run there"
    ]


def test_all_processes_hear_that_the_first_one_may_not_use_a_folder(tmp_path, monkeypatch):
    """They would wait for it."""
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(processes, "any_process", lambda answer: True)
    with pytest.raises(ConfigError, match="the first process cannot go on"):
        transfer.run([], workdir=str(tmp_path), checkpoint=[], weights=["w.npz"], config=None, overrides={})
    with pytest.raises(ConfigError, match="the first process cannot go on"):
        claim_results("w.npz", None, tmp_path)


def test_other_processes_of_a_run_leave_the_hold_to_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "train", lambda *arguments: None)
    with held(tmp_path), monkeypatch.context() as patched:
        patched.setattr(jax, "process_index", lambda: 1)
        assert train(tmp_path) == 0
        patched.setattr(processes, "any_process", lambda answer: True)  # the first one was refused
        with pytest.raises(ConfigError, match="the first process cannot go on"):
            train(tmp_path)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            (errno.ENOSPC, "is full"),
            "--workdir={0}: cannot be written: is full; make room there, or name another place",
        ),
        ((errno.EACCES, "denied", "{0}/curves.png"), "--workdir={0}: cannot be written: denied; name another place"),
        ((errno.EIO, "no answer", "/data/index"), "/data/index: no answer"),
    ],
)
def test_an_error_of_the_system_in_a_run_is_one_line_that_names_what_failed(error, said, tmp_path, monkeypatch):
    number, reason, *file = error

    def failing(*_):
        raise OSError(number, reason, *(name.format(tmp_path) for name in file))

    monkeypatch.setattr(command, "train", failing)
    with pytest.raises(UserError) as caught:
        train(tmp_path)
    assert str(caught.value) == said.format(tmp_path)


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("theirs")
    for path in (tmp_path / "file", tmp_path / "file/run"):
        with pytest.raises(ConfigError, match=f"--workdir={path}: cannot be written: .*; name another place"):
            train(path)
    assert (tmp_path / "file").read_text() == "theirs"
