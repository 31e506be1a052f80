"""The command: `python -m vgg_jax.main --config=configs/vgg19.py --workdir=DIR`.

    --mode=train     (the default) trains, or goes on with the run in --workdir
    --mode=evaluate  top-1 and top-5 of the run in --workdir, or of --checkpoint; --config only to change the data
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from vgg_jax.config import nearest_key
from vgg_jax.errors import ConfigError, UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "What to train: a file of configs/, with its stage after a colon.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder: checkpoints, metrics, pictures.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A checkpoint to evaluate: a run's folder or one step's.")


def main(arguments: list[str]) -> None:
    """Runs one mode."""
    if len(arguments) > 1:
        raise ConfigError(f"what is {arguments[1]!r}? Flags look like --workdir=DIR and --config.data.crop=96")
    if MODE.value == "evaluate":
        from vgg_jax.evaluate.run import evaluate

        path = CHECKPOINT.value or WORKDIR.value
        if not path:
            raise ConfigError("--mode=evaluate needs --workdir=DIR, a run's folder, or --checkpoint=DIR, one checkpoint")
        print(evaluate(path, CONFIG.value))
        return
    if CONFIG.value is None or not WORKDIR.value:
        raise ConfigError(
            "training needs a config and a folder: python -m vgg_jax.main --config=configs/vgg16.py --workdir=runs/D\n"
            "To see training run right now: make quickstart"
        )
    from vgg_jax.train.loop import train

    workdir = Path(WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    _log_to(workdir / "log.txt")
    train(CONFIG.value, workdir)


def _parse(arguments: list[str]) -> list[str]:
    """absl's flags, with a config's mistakes told as such."""
    try:
        return flags.FLAGS(arguments)
    except flags.UnrecognizedFlagError as error:
        if error.flagname.startswith("config."):
            key = error.flagname.removeprefix("config.")
            raise ConfigError(f"--config.{key}: no such key{nearest_key(key)}") from error
        raise ConfigError(f"{error}; see --help") from error
    except (flags.Error, AttributeError, KeyError, OSError, ImportError, TypeError, ValueError) as error:
        # From the config file itself: absl and ml_collections wrap some of these and pass others through.
        raise ConfigError(f"--config: {error}") from error


def _log_to(path: Path) -> None:
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("vgg_jax").addHandler(file)


def run() -> None:
    """The command line: a user's mistake is a message and exit code 2, never a traceback."""
    absl_logging.set_verbosity(absl_logging.ERROR)
    house = logging.getLogger("vgg_jax")
    house.setLevel(logging.INFO)
    house.propagate = False
    house.addHandler(logging.StreamHandler())
    try:
        app.run(main, flags_parser=_parse)
    except UserError as error:
        house.error("%s", error)
        sys.exit(2)


if __name__ == "__main__":
    run()
