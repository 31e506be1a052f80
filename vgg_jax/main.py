"""The command: `python -m vgg_jax.main --config=configs/vgg19.py --workdir=DIR`.

--mode=train     (the default) trains, or goes on with the run in --workdir
--mode=evaluate  the paper's tables for the run in --workdir, or for --checkpoint=RUN,RUN,...; needs no --config, and
                 --config.evaluate.protocols="('dense','crops','both')" changes what the run had
--mode=fuse      the average of files of posteriors that evaluations wrote: --mode=fuse A.npz B.npz
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from vgg_jax import config as config_module
from vgg_jax import cpu
from vgg_jax.config import check_key
from vgg_jax.errors import ConfigError, UserError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "What to train: a file of configs/, with its stage after a colon."
)
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder: checkpoints, metrics, pictures.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "fuse"], "What to do.")
CHECKPOINT = flags.DEFINE_list("checkpoint", [], "Checkpoints to evaluate: runs' folders, or steps' of them.")

_DEFAULTS = Path(config_module.__file__)
"""What --config.KEY=VALUE overrides where a mode needs no config file: their values are then laid over the run's."""


def main(arguments: list[str]) -> None:
    """Runs one mode."""
    if MODE.value == "fuse":
        from vgg_jax.evaluate.run import fuse

        print(fuse(arguments[1:]))
        return
    if len(arguments) > 1:
        raise ConfigError(f"what is {arguments[1]!r}? Flags look like --workdir=DIR and --config.data.crop=96")
    if MODE.value == "evaluate":
        from vgg_jax.evaluate.run import evaluate

        paths = CHECKPOINT.value or ([WORKDIR.value] if WORKDIR.value else [])
        if not paths:
            raise ConfigError(
                "--mode=evaluate needs --workdir=DIR, a run's folder, or --checkpoint=DIR, one or more checkpoints"
            )
        print(evaluate(paths, *_config(), WORKDIR.value))
        return
    if CONFIG.value is None or not WORKDIR.value:
        raise ConfigError(
            "training needs a config and a folder: python -m vgg_jax.main --config=configs/vgg16.py --workdir=runs/D\n"
            "To see training run right now: make quickstart"
        )
    from vgg_jax.tasks.classify import Classification
    from vgg_jax.train.loop import train

    workdir = Path(WORKDIR.value)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        _log_to(workdir / "log.txt")
    except OSError as error:
        raise ConfigError(f"--workdir={workdir}: cannot be written: {error.strerror}") from error
    train(CONFIG.value, workdir, Classification)


def _config() -> tuple[ConfigDict | None, dict[str, object]]:
    """The config file's config, or without one the overrides alone."""
    flag = flags.FLAGS["config"]
    if flag.config_filename != str(_DEFAULTS):
        return CONFIG.value, {}
    return None, config_flags.get_override_values(flag)


def _parse(arguments: list[str]) -> list[str]:
    """absl's flags; a mistake in them, in the config file or in an override is told as such."""
    for argument in arguments:
        if argument.startswith("--config."):
            check_key(argument.removeprefix("--config.").partition("=")[0])
    mode = next((given.partition("=")[2] for given in arguments if given.startswith("--mode=")), "train")
    if mode == "evaluate" and not any(given.startswith("--config=") for given in arguments):
        arguments = [arguments[0], f"--config={_DEFAULTS}", *arguments[1:]]
    try:
        rest = flags.FLAGS(arguments)
        if CONFIG.value is not None:
            _ = CONFIG.value.keys  # a file that is not there is told of on first use only
        return rest
    except UserError:
        raise
    except Exception as error:
        raise ConfigError(_told(error, arguments)) from error


def _told(error: Exception, arguments: list[str]) -> str:
    """A mistake in the flags or in the config file in a line or two."""
    given = next((argument for argument in arguments if argument.startswith("--config=")), None)
    # ml_collections puts a config file's whole traceback into the message; its last line is what happened.
    reason = str(error).strip().splitlines()[-1].strip()
    if isinstance(error, flags.Error) and "config file" not in str(error):
        no_config = given is None and any(argument.startswith("--config.") for argument in arguments)
        return f"{reason}; " + ("give --config=FILE too" if no_config else "--help lists the flags")
    if isinstance(error, KeyError | AttributeError):  # an unknown key, with ml_collections' own suggestion
        reason = " ".join(str(error).replace("\\n", " ").replace("\\'", "'").strip("\"'").split())
        reason = f"no such key: {reason}"
    if "No such file" in reason:
        reason += f"; configs/ holds {', '.join(sorted(path.name for path in Path('configs').glob('[!_]*.py')))}"
    if "positional argument" in reason:
        reason += "; this config has no stages: leave out the colon and what follows"
    return f"{given}: {reason.removeprefix('vgg_jax.errors.ConfigError: ')}"


def _log_to(path: Path) -> None:
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("vgg_jax").addHandler(file)


def run() -> None:
    """The command line: a user's mistake is a message and exit code 2, never a traceback."""
    cpu.keep_memory()
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
