"""The short form of `tests.torture.mutated_inputs`, and that it would see what it looks for."""

import gc
import random
import time

import pytest

from tests.torture import mutated_inputs
from tests.torture.inputs import SHARES, kind_of
from tests.torture.mutated_inputs import Report, torture
from vgg_jax import ConfigError

# Orbax lets the other reads go on when one fails; they complain to a closed event loop.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_mutated_inputs_meet_nothing_but_lines(tmp_path):
    kinds = [kind for kind in SHARES if kind != "PyTorch"]
    report = torture(tmp_path, range(200), kinds=kinds)
    time.sleep(0.5)
    gc.collect()  # here, where Orbax's complaints are ignored, and not in a later test
    assert not report.failures, report
    assert all(report.taken[kind] + report.refused[kind] >= 2 for kind in kinds)
    assert min(report.taken.total(), report.refused.total()) > 40


def test_an_input_is_the_same_alone(tmp_path):
    numbers = [number for number in range(60) if kind_of(number) == "config"]
    alone = Report()
    for number in numbers:
        found = torture(tmp_path, [number], kinds=["config"])
        alone.taken += found.taken
        alone.refused += found.refused
    assert alone == torture(tmp_path, range(60), kinds=["config"])
    assert alone != torture(tmp_path, range(60), seed=1, kinds=["config"])


def raises(error):
    def attempt(number, chance):
        raise error

    return attempt


@pytest.mark.parametrize(
    ("attempt", "what"),
    [
        (raises(KeyError("network")), "KeyError: 'network'"),
        (raises(ConfigError("\n".join("abcdef"))), "a message that is not a line or two: a\nb"),
        (raises(ConfigError("")), "a message that is not a line or two"),
        (raises(SystemExit(0)), "SystemExit: 0"),
        (lambda number, chance: time.sleep(10), "no end in 0.05 seconds"),
    ],
)
def test_anything_else_is_a_failure(attempt, what, monkeypatch):
    monkeypatch.setattr(mutated_inputs, "SECONDS", 0.05)
    report = Report()
    mutated_inputs._judge(report, 7, "config", attempt, random.Random(0))
    ((number, kind, text),) = report.failures
    assert (number, kind) == (7, "config") and what in text and f"input 7, config: {text}" in str(report)
    mutated_inputs._judge(report, 8, "config", raises(ConfigError("config.seed=-1: the least is 0")), random.Random(0))
    assert report.refused["config"] == 1 + ("line" in what) and len(report.failures) == 1
