"""Locks that die with their process: two commands never mix their files."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from vgg_jax.errors import ConfigError
from vgg_jax.files import writing
from vgg_jax.stopping import removed_at_end

log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A folder in which no other process computes as long as the block runs or, if that is shorter, this process lives.

    The lock is a file beside it, FOLDER.lock, which is removed afterwards.

    Raises:
      ConfigError: another process computes there, or the file cannot be written.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "features"
    >>> with locked(folder):
    ...     print(os.listdir(folder.parent))
    ['features.lock']
    """
    path = folder.with_name(f"{folder.name}.lock")
    with contextlib.ExitStack() as hold:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            exists = False
            while not exists:  # its last holder may remove it between the next two lines
                file = hold.enter_context(path.open("a+"))
                lock(file, folder, "computing")
                exists = os.fstat(file.fileno()).st_nlink > 0
        with removed_at_end(path):
            yield


def lock(file: TextIO, folder: Path, doing: str, heading: str = "") -> None:
    """Locks a file for as long as it is open, and writes into it who does; says so where there are no locks.

    Args:
      file: opened to be read and appended to.
      folder: what it stands for.
      doing: what is done there: "training".
      heading: what the file is to begin with.

    Raises:
      ConfigError: another process holds it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = (file.read().splitlines() or ["another process"])[-1]
        raise ConfigError(
            f"{folder}: {holder} is {doing} here, and two would mix their files; wait for it, stop it, or name another "
            "folder"
        ) from None
    except OSError as error:
        log.warning("%s cannot be locked (%s): start no second run there", file.name, error.strerror)
    file.truncate(0)
    now = datetime.datetime.now().astimezone()
    file.write(f"{heading}process {os.getpid()} on {socket.gethostname()} (since {now:%Y-%m-%d %H:%M:%S %Z})\n")
    file.flush()
