"""Arrays that are filled row by row: what one process fills no other one touches."""

import fcntl
import os

import numpy as np
import pytest

from vgg_jax import ConfigError
from vgg_jax.inference import array_folder

MADE_OF = {"flip": True, "arrays": {"posterior": ((3,), "float32")}}


def writing(folder, **changed):
    return array_folder.writing(folder, MADE_OF | changed, 10, "posteriors")


@pytest.mark.parametrize("flip", [True, False])
def test_what_another_process_fills_is_left_alone(flip, tmp_path):
    folder = tmp_path / "process0"
    with writing(folder) as first:
        first.arrays["posterior"][:] = 1
        with pytest.raises(ConfigError, match=rf"{folder}: process {os.getpid()} on .* is computing here"):
            writing(folder, flip=flip).__enter__()
        first.rows = 10
    assert array_folder.about_of(folder, MADE_OF) == (10, {})
    assert np.all(array_folder.read(folder)[0]["posterior"] == 1) and os.listdir(tmp_path) == ["process0"]
    with writing(folder, flip=flip) as second:  # the lock went with its holder
        assert second.rows == 0 and not second.arrays["posterior"].any()


def test_a_lock_that_its_holder_has_just_removed_counts_for_nothing(tmp_path, monkeypatch):
    """Whoever opened the file before it was removed would hold a lock that nobody else sees."""
    lock, taken = fcntl.flock, []

    def slow(file, how):
        if not taken:
            os.unlink(file.name)
        taken.append(file.name)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    with writing(tmp_path / "process0"):
        assert len(taken) == 2 and (tmp_path / "process0.lock").exists()
