"""--mode=train: a config and a folder in, a trained network out (Sec. 3)."""

from __future__ import annotations

import logging
from pathlib import Path

from ml_collections import ConfigDict

from vgg_jax.commands.workdir import held
from vgg_jax.errors import ConfigError
from vgg_jax.files import writing
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
    with writing(f"--workdir={folder}"), held(folder):  # the disk may be full at any time
        file = logging.FileHandler(folder / "log.txt", encoding="utf-8", errors="backslashreplace")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger("vgg_jax").addHandler(file)
        train(config, folder, make_task)
    return 0
