"""--mode=train: a config and a folder in, a trained network out (Sec. 3)."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import jax
from ml_collections import ConfigDict

from vgg_jax.commands.workdir import held
from vgg_jax.errors import ConfigError, DataError
from vgg_jax.files import DISK_FULL, writing
from vgg_jax.stopping import Stopped
from vgg_jax.tasks.choose import make_task
from vgg_jax.train.loop import train


def run(arguments: list[str], *, config: ConfigDict | None, overrides: dict, workdir: str | None) -> int:
    """The command: trains by a config, or goes on with the run in the folder; `overrides` are in the config already."""
    if config is None or not workdir:
        raise ConfigError(
            "training needs a config and a folder: vgg_jax --config=vgg16 --workdir=runs/D\n"
            "To see training run right now: make quickstart"
        )
    folder = Path(workdir)
    with contextlib.ExitStack() as hold:
        with writing(f"--workdir={folder}"):
            hold.enter_context(held(folder))
            file = logging.FileHandler(folder / "log.txt", encoding="utf-8", errors="backslashreplace")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger("vgg_jax").addHandler(file)
        try:
            train(config, folder, make_task)
        except Stopped:
            jax.distributed.shutdown()  # the others come here too, and none may be gone before
            raise
        except OSError as error:
            named = Path(os.fsdecode(error.filename or ""))
            if error.errno in DISK_FULL or named.is_relative_to(folder):  # a full disk need not name the file
                with writing(f"--workdir={folder}"):
                    raise
            if error.filename:  # of the data, say
                raise DataError(f"{named}: {error.strerror}") from error
            raise
    return 0
