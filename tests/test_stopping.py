"""Stopping on request: acknowledged whatever the main thread does, in time, and after what would be lost is saved."""

import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from vgg_jax.stopping import Stopped, deferred_stop, request_from_elsewhere, stoppable

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_is_noted_until_the_work_is_saved(number):
    done, before = [], signal.getsignal(number)
    with pytest.raises(Stopped) as caught, deferred_stop("it is saved") as asked:
        assert not asked()
        signal.raise_signal(number)
        done += ["worked"] * asked()
        done += ["saved"]
    assert done == ["worked", "saved"] and caught.value.number == number
    assert signal.getsignal(number) is before
    with deferred_stop("it is saved") as asked:
        assert not asked()  # that was another one


def test_a_second_request_does_not_wait():
    with pytest.raises(Stopped), deferred_stop("it is saved"):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it waited")


def test_a_part_in_which_nothing_is_lost_is_interrupted():
    with pytest.raises(Stopped), deferred_stop("it is saved") as asked, stoppable():
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it waited")
    with pytest.raises(Stopped), deferred_stop("it is saved") as asked:
        with stoppable():
            pass
        signal.raise_signal(signal.SIGINT)
        assert asked()
        with stoppable():
            pytest.fail("it began")


def test_a_request_that_another_process_received_is_noted_too():
    with pytest.raises(Stopped) as caught, deferred_stop("it is saved") as asked:
        request_from_elsewhere()
        assert asked()
        signal.raise_signal(signal.SIGTERM)  # the own one, which comes later, waits as well
    assert caught.value.number == signal.SIGTERM
    with deferred_stop("it is saved") as asked:
        assert not asked()


def test_in_another_thread_nothing_is_asked():
    def work():
        with deferred_stop("it is saved") as asked:
            answers.append(asked())

    answers = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]


READY = "print('ready', flush=True)"
DEAF = "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"  # half an hour in C, where no Python handler runs
LISTENING = """
import hashlib, sys, time
from vgg_jax import main, stopping
assert not {"jax", "numpy"} & {*sys.modules}  # a command listens before the slow imports
stopping.GRACE = 0.1
@stopping.listening()
def command():
    WORK
command()
"""


def stopped(script, *numbers):
    """The status of a process that was sent signals, one after each line of its output, and what it said."""
    script = LISTENING.replace("WORK", textwrap.indent(script, "    ").strip())
    script = [sys.executable, "-c", script]
    with subprocess.Popen(script, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        said = process.stdout.readline()
        for number in numbers:
            process.send_signal(number)
            said += process.stderr.readline() if process.poll() is None else ""
        out, rest = process.communicate(timeout=60)
        return process.returncode, said + out + rest


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_deaf_main_thread_is_acknowledged_and_ended(number, name):
    status, said = stopped(f"{READY}; {DEAF}", number)
    assert status == -number and said == f"ready\n{name}: stopping\n"


def test_a_second_signal_does_not_wait():
    script = f"""
with stopping.deferred_stop("it is saved"):
    {READY}
    {DEAF}
"""
    status, said = stopped(script, signal.SIGTERM, signal.SIGINT)
    assert status == -signal.SIGTERM
    assert said == "ready\nSIGTERM: stopping once it is saved; a second one does not wait for that\n"


def test_the_signal_that_follows_another_processs_waits():
    script = f"""
with stopping.deferred_stop("it is saved"):
    stopping.request_from_elsewhere()
    {READY}
    time.sleep(0.5)
    print("saved", flush=True)
"""
    status, said = stopped(script, signal.SIGTERM)
    assert status == -signal.SIGTERM and "saved\n" in said


def test_work_is_saved_before_the_end():
    script = f"""
try:
    with stopping.deferred_stop("it is saved") as asked:
        {READY}
        while not asked():
            time.sleep(0.01)
        time.sleep(0.5)
        print("saved", flush=True)
    print("went on", flush=True)
finally:
    print("cleaned", flush=True)
    {DEAF}
"""
    status, said = stopped(script, signal.SIGTERM)
    assert status == -signal.SIGTERM
    assert said.startswith("ready\nSIGTERM: stopping once it is saved; ") and said.endswith("saved\ncleaned\n")


def test_a_part_in_which_nothing_is_lost_ends_at_once():
    script = f"""
with stopping.deferred_stop("it is saved"):
    with stopping.stoppable():
        {READY}
        {DEAF}
"""
    assert stopped(script, signal.SIGINT) == (-signal.SIGINT, "ready\nCtrl-C: stopping\n")


def test_no_half_file_is_left(tmp_path):
    script = f"""
from pathlib import Path
from vgg_jax.files import written_aside
with written_aside(Path({str(tmp_path)!r}) / "f.npz") as partial:
    partial.write_text("half")
    {READY}
    {DEAF}
"""
    assert stopped(script, signal.SIGTERM)[0] == -signal.SIGTERM
    assert not list(tmp_path.iterdir())
