"""Nothing that this program did not write is replaced, and what cannot be written is said."""

import errno
import os

import pytest

from vgg_jax import ConfigError
from vgg_jax.files import check_replaceable, drawing, printable, writing, written_aside


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "results: cannot be written: No space left on device; make room there, or name another place"),
        (errno.EACCES, "results: cannot be written: Permission denied; name another place"),
    ],
)
def test_what_cannot_be_written_is_one_line_with_a_way_out(number, message):
    with pytest.raises(ConfigError) as caught, writing("results"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == message


def test_a_file_is_replaced_only_if_it_is_known(tmp_path):
    ours = lambda path: path.read_text() == "ours"
    file, link = tmp_path / "file", tmp_path / "link"
    check_replaceable(file, ours)
    file.write_text("ours")
    check_replaceable(file, ours)
    file.write_bytes(b"\xff")  # reading it raises
    link.symlink_to(tmp_path / "nowhere")
    for path in (file, link):
        with pytest.raises(ConfigError, match=f"{path}: is there already and would be replaced; name another file"):
            check_replaceable(path, ours)
    with pytest.raises(ConfigError, match=f"{tmp_path}: is a folder; name another file"):
        check_replaceable(tmp_path, ours)


def test_half_a_file_is_never_seen(tmp_path):
    file = tmp_path / "new" / "file"
    with written_aside(file) as partial:
        partial.write_text("before")
    with pytest.raises(KeyboardInterrupt), written_aside(file) as partial:
        partial.write_text("aft")
        raise KeyboardInterrupt
    assert file.read_text() == "before" and os.listdir(file.parent) == ["file"]


def test_the_first_processes_of_several_containers_do_not_write_to_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with written_aside(tmp_path / "file") as one, written_aside(tmp_path / "file") as two:
        one.write_text("a long text")
        two.write_text("short")
    assert (tmp_path / "file").read_text() == "a long text" and os.listdir(tmp_path) == ["file"]


def test_a_picture_that_fails_is_reported(tmp_path, caplog):
    with drawing(tmp_path / "curves.png"):
        raise ValueError("no font")
    assert caplog.messages == [f"{tmp_path}/curves.png could not be drawn: no font"]


@pytest.mark.parametrize(
    "name", ["plain.jpg", "a b", "Zürich", "鳥", "$x^2$", "a\nb\t\x1b[31m", os.fsdecode(b"\xff.png")]
)
def test_any_name_fits_in_a_line_and_any_encoding_of_unicode(name):
    shown = printable(name)
    assert shown.isprintable() and shown.encode()
    assert shown == name or (shown.isascii() and shown.encode().decode("unicode_escape") == name)
