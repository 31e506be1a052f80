import os
import sys

import jax
import jax.numpy as jnp
from jax import monitoring

from vgg_jax import progress
from vgg_jax.progress import Progress


def test_a_file_gets_a_line_now_and_then(capsys):
    seldom, often = Progress("images"), Progress("step", first=90, seconds=0)
    seldom(5, 100)
    for done in (95, 100):
        often(done, 100, "loss 0.5")
    often.clear()
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("step 95/100  left 0:00:") and last == "step 100/100  left 0:00:00  loss 0.5"


def test_a_terminal_shows_the_end_in_one_line_of_its_width(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda: os.terminal_size((20, 24)))
    line = Progress("images")
    line(1_000, 1_000, "loss 0.5")
    line.clear()
    assert capsys.readouterr().err == "\r\033[Kimages 1,000/1,000 \r\033[K"


def test_the_time_left_leaves_compiling_out(capsys, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    progress._seconds_compiling.cache_clear()
    line = Progress("images", seconds=0)
    for clock[0], seconds in ((1100.0, 100.0), (1104.0, 50.0)):  # the second one beside the first, in another thread
        monitoring.record_event_duration_secs(progress.COMPILED, seconds)
    monitoring.record_event_duration_secs("/jax/core/compile/jaxpr_trace_duration", 3.0)
    clock[0] = 1114.0  # 10 seconds after 104 of compiling
    line(10, 100)
    assert capsys.readouterr().err == "images 10/100  left 0:01:30  1.0 per second\n"


def test_jax_reports_what_it_compiles():
    progress._seconds_compiling.cache_clear()
    total = progress._seconds_compiling()
    assert total == [0]
    jax.jit(lambda x: jnp.cos(x) + 12345).lower(jnp.ones(3)).compile()
    assert total[0] > 0
