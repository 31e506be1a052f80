import os
import sys

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
