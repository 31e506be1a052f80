"""The command: `python -m vgg_jax.main --config=configs/vgg19.py --workdir=DIR`.

--mode=train     (the default) trains, or goes on with the run in --workdir
--mode=evaluate  the paper's tables for the run in --workdir, or for --checkpoint=RUN,RUN,... or --weights=SOURCE
--mode=predict   the five most probable classes of images, folders or patterns: --mode=predict --workdir=RUN a.jpg b/
--mode=features  activations of images, folders or patterns as an .npz: --mode=features --workdir=RUN --out=f.npz a/
--mode=fuse      the average of files of posteriors that evaluations wrote: --mode=fuse A.npz B.npz

All but training need no --config: a run knows its own, and --config.KEY=VALUE changes that.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from vgg_jax import compiler
from vgg_jax import config as config_module
from vgg_jax.config import check_key
from vgg_jax.errors import ConfigError, UserError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "What to train: a file of configs/, with its stage after a colon."
)
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder: checkpoints, metrics, pictures.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "predict", "features", "fuse"], "What to do.")
CHECKPOINT = flags.DEFINE_list("checkpoint", [], "Runs to evaluate or predict with: their folders, or steps' of them.")
WEIGHTS = flags.DEFINE_list("weights", [], "Published weights to evaluate or predict with: files, or names on the hub.")
JSON = flags.DEFINE_bool("json", False, "Predictions as JSON, a line an image.")
HEAT_MAPS = flags.DEFINE_string("heat_maps", None, "A folder for pictures of the class-score maps of predictions.")
LAYERS = flags.DEFINE_list("layers", ["relu7"], "Features: names of activations; by default the paper's, relu7.")
POOL = flags.DEFINE_enum("pool", "mean", ["mean", "max", "none"], "Features: over an activation's places; none: maps.")
STACK = flags.DEFINE_bool("stack", False, "Features: stack those of several scales, instead of averaging them.")
OUT = flags.DEFINE_string("out", None, "Features: the .npz to write.")

_DEFAULTS = Path(config_module.__file__)
"""The config file that --config.KEY=VALUE is taken to change where none is given."""


def main(arguments: list[str]) -> int | None:
    """Runs one mode."""
    images = arguments[1:]
    if images and MODE.value in ("train", "evaluate"):
        raise ConfigError(f"what is {images[0]!r}? Flags look like --workdir=DIR and --config.data.crop=96")
    # A mode's modules take seconds to import: each imports its own.
    if MODE.value == "train":
        _train()
    elif MODE.value == "fuse":
        from vgg_jax.commands.evaluate import fuse

        print(fuse(images))
    elif MODE.value == "evaluate":
        from vgg_jax.commands.evaluate import evaluate

        workdir = WORKDIR.value or (CHECKPOINT.value[0] if CHECKPOINT.value else None)
        if not workdir:
            raise ConfigError(
                "--mode=evaluate needs --workdir=DIR, a run's folder or where the tables go, and in the latter case "
                "--checkpoint=RUN,RUN,... or --weights=SOURCE"
            )
        print(evaluate(_subjects(), Path(workdir) / "evaluation"))
    elif MODE.value == "features":
        from vgg_jax.inference.features import write_features

        if not OUT.value:
            raise ConfigError("--mode=features needs --out=FILE.npz, where the features go")
        pool = None if POOL.value == "none" else POOL.value
        return 1 if write_features(next(_subjects()), images, OUT.value, LAYERS.value, pool, STACK.value) else 0
    else:
        from vgg_jax.commands.predict import predict

        heat_maps = Path(HEAT_MAPS.value) if HEAT_MAPS.value else None
        bad = predict(next(_subjects()), images, as_json=JSON.value, heat_maps=heat_maps)
        return 1 if bad else 0
    return None


def _train() -> None:
    if CONFIG.value is None or not WORKDIR.value:
        raise ConfigError(
            "training needs a config and a folder: python -m vgg_jax.main --config=configs/vgg16.py --workdir=runs/D\n"
            "To see training run right now: make quickstart"
        )
    from vgg_jax.tasks.choose import make_task
    from vgg_jax.train.loop import train

    workdir = Path(WORKDIR.value)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        _log_to(workdir / "log.txt")
    except OSError as error:
        raise ConfigError(f"--workdir={workdir}: cannot be written: {error.strerror}") from error
    train(CONFIG.value, workdir, make_task)


def _subjects() -> Iterator:
    """The networks to evaluate, one after another."""
    from vgg_jax.commands.target import of_run, of_weights

    # Without a config file the run's own config counts, and what is overridden.
    flag = flags.FLAGS["config"]
    bare = flag.config_filename == str(_DEFAULTS)
    given = (None, config_flags.get_override_values(flag)) if bare else (CONFIG.value, {})
    runs = CHECKPOINT.value or ([WORKDIR.value] if WORKDIR.value and not WEIGHTS.value else [])
    if not runs and not WEIGHTS.value:
        raise ConfigError(f"--mode={MODE.value} needs --workdir=RUN, --checkpoint=RUN or --weights=SOURCE")
    yield from (of_run(run, *given) for run in runs)
    partial = MODE.value == "features"  # of the convolutions, perhaps
    yield from (of_weights(source, *given, partial=partial) for source in WEIGHTS.value)


def _parse(arguments: list[str]) -> list[str]:
    """absl's flags; a mistake in them, in the config file or in an override is reported as such."""
    for argument in arguments:
        if argument.startswith("--config."):
            check_key(argument.removeprefix("--config.").partition("=")[0])
    mode = next((given.partition("=")[2] for given in arguments if given.startswith("--mode=")), "train")
    if mode in ("evaluate", "predict", "features") and not any(given.startswith("--config=") for given in arguments):
        arguments = [arguments[0], f"--config={_DEFAULTS}", *arguments[1:]]
    try:
        rest = flags.FLAGS(arguments)
        if CONFIG.value is not None:
            _ = CONFIG.value.keys  # a file that is not there is reported of on first use only
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
    compiler.keep_memory()
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
