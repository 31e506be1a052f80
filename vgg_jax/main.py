"""The command: `vgg_jax --mode=MODE`, by default the training of `--config=CONFIG --workdir=DIR`.

All modes but training need no --config: a run knows its own, and --config.KEY=VALUE changes that.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser

from vgg_jax import config as config_module
from vgg_jax import stopping
from vgg_jax.config import PROTOCOLS, check_key
from vgg_jax.errors import ConfigError, UserError


class Mode(NamedTuple):
    """One use of the command line: `run` of the module of its name in vgg_jax/commands/."""

    help: str
    flags: tuple[str, ...]
    arguments: str = ""
    """What it takes beside the flags, one or more of them; "" for nothing."""


_NETWORK = ("config", "workdir", "checkpoint", "weights")

MODES = {
    "train": Mode("trains, or goes on with the run in --workdir", ("config", "workdir", "multihost")),
    "evaluate": Mode("the paper's tables for runs or published weights, each and all fused", (*_NETWORK, "multihost")),
    "predict": Mode(
        "the five most probable classes, or the boxes, of images: --mode=predict --workdir=RUN a.jpg b/",
        (*_NETWORK, "protocol", "json", "heat_maps", "boxes", "all_boxes", "probe"),
        "images, folders or patterns",
    ),
    "features": Mode(
        "activations of images as an .npz: --mode=features --workdir=RUN --out=f.npz a/",
        (*_NETWORK, "layers", "pool", "stack", "out"),
        "images, folders or patterns",
    ),
    "transfer": Mode(
        "a linear classifier on descriptors, tested: --config=transfer/folder:PATH", (*_NETWORK, "multihost")
    ),
    "compile": Mode(
        "what a config's program needs and could reach on accelerators that are not here: --topology=v5e:4x4",
        ("config", "topology", "dense", "out"),
    ),
    "fuse": Mode("the average of what evaluations wrote: --mode=fuse A.npz B.npz", (), "files of posteriors"),
}


class _Tuple(flags.ArgumentParser):
    """Tuples of the config: given twice, the last one counts, as for every key; ml_collections' own are joined."""

    def parse(self, argument: str | tuple) -> tuple:
        return tuple_parser.TupleParser().parse(argument)


config_flags.register_flag_parser_for_type(tuple, _Tuple())

CONFIGS = Path(__file__).parent / "configs"
"""The configs that come with the package: a link to the repository's, a folder where the package is installed."""

MODE = flags.DEFINE_enum(
    "mode", "train", list(MODES), "\n".join(f"{name}: {mode.help}" for name, mode in MODES.items())
)
CONFIG = config_flags.DEFINE_config_file("config", None, "A config's name, vgg19, or a file; after a colon its stage.")
flags.DEFINE_string("workdir", None, "The run's folder: checkpoints, metrics, pictures, results.")
flags.DEFINE_list("checkpoint", [], "Runs whose networks are used: their folders, or steps' of them.")
flags.DEFINE_list("weights", [], "Published weights that are used: files, or names on the hub.")
flags.DEFINE_bool("multihost", False, "One of several processes that work as one: vgg_jax/processes.py.")
flags.DEFINE_enum("protocol", "dense", PROTOCOLS, "Predictions: how an image is scored.")
flags.DEFINE_bool("json", False, "Predictions as JSON, a line per image.")
flags.DEFINE_string("heat_maps", None, "Predictions: a folder for pictures of the class-score maps.")
flags.DEFINE_string("probe", None, "Predictions: by a linear classifier, the probe.npz of --mode=transfer.")
flags.DEFINE_string("boxes", None, "Predictions: a folder for pictures of a localization run's boxes.")
flags.DEFINE_bool("all_boxes", False, "With --boxes: all dense boxes too, before and after they are merged.")
flags.DEFINE_list("layers", ["relu7"], "Features: names of activations; by default the paper's, relu7.")
flags.DEFINE_enum("pool", "mean", ["mean", "max", "none"], "Features: over an activation's places; none: maps.")
flags.DEFINE_bool("stack", False, "Features: stack those of several scales, instead of averaging them.")
flags.DEFINE_string("out", None, "Features: the .npz to write. Compile: the figures as JSON.")
flags.DEFINE_string("topology", None, "Compile: the accelerators, v5e:4x4 or h100:8.")
flags.DEFINE_bool("dense", False, "Compile: dense evaluation instead of the training step.")


def main(arguments: list[str]) -> int:
    """Runs one mode."""
    mode, arguments = MODES[MODE.value], arguments[1:]
    _check_given(mode, arguments)
    given = {name: flags.FLAGS[name].value for name in mode.flags}
    multihost = given.pop("multihost", False)
    if "config" in given:
        flag = flags.FLAGS["config"]
        given |= {"config": flag.value if flag.present else None, "overrides": flag.override_values}
    # The modules below take seconds to import: a mistake is reported before, and each mode imports its own.
    # What they make stays, and going through it again and again takes the collector a quarter of TensorFlow's import.
    # So the oldest generation's turn comes a tenth as often as by Python's own (700, 10, 10).
    gc.set_threshold(700, 10, 100)
    compiler = importlib.import_module("vgg_jax.compiler")
    compiler.keep_memory()
    with contextlib.ExitStack() as together:
        if multihost:
            processes = importlib.import_module("vgg_jax.processes")
            processes.join()
            together.enter_context(processes.ending_together())
        compiler.keep_programs()
        return importlib.import_module(f"vgg_jax.commands.{MODE.value}").run(arguments, **given)


def _check_given(mode: Mode, arguments: list[str]) -> None:
    """Refuses flags of other modes, arguments where a mode takes none, and folders that no checkpoint can be in."""
    for path in filter(None, (flags.FLAGS.workdir, *flags.FLAGS.checkpoint)):
        if os.path.abspath(path).encode(errors="ignore") != os.fsencode(os.path.abspath(path)):
            raise ConfigError(f"{path}: the folder of a run has a name in UTF-8, for checkpoints take no other")
    for name in sorted({name for other in MODES.values() for name in other.flags} - {*mode.flags}):
        overridden = name == "config" and flags.FLAGS[name].override_values
        if flags.FLAGS[name].present or overridden:
            taken = ", ".join(f"--{flag}" for flag in mode.flags) or "no flags"
            raise ConfigError(f"--mode={MODE.value} does not take --{name}; it takes {taken}")
    if mode.arguments and not arguments:
        raise ConfigError(f"--mode={MODE.value} takes {mode.arguments}: {mode.help}")
    if arguments and not mode.arguments:
        raise ConfigError(f"what is {arguments[0]!r}? Flags look like --workdir=DIR and --config.data.crop=96")


def _parse(arguments: list[str]) -> list[str]:
    """absl's flags; a mistake in them, in the config file or in an override is reported as such."""
    for argument in arguments:
        if argument.startswith("--config."):
            check_key(argument.removeprefix("--config.").partition("=")[0])
    arguments = [
        f"--config={_config_file(given.removeprefix('--config='))}" if given.startswith("--config=") else given
        for given in arguments
    ]
    try:
        # Where no file is given, --config.KEY=VALUE changes the defaults; a run takes these changes to its own config.
        flags.set_default(CONFIG, config_module.__file__)
        rest = flags.FLAGS(arguments)
        if CONFIG.value is None:
            raise ValueError("get_config() returns nothing: end it with `return config`")
        _ = CONFIG.value.keys  # a file that is not there is reported of on first use only
        return rest
    except (UserError, BrokenPipeError):
        raise
    except Exception as error:
        raise ConfigError(_reason(error, arguments)) from error


def _config_file(given: str) -> str:
    """The file of a config that is given by its name, with what follows a colon; others are files already.

    >>> _config_file("vgg19:s384").endswith("/configs/vgg19.py:s384"), _config_file("mine/vgg19.py")
    (True, 'mine/vgg19.py')
    >>> _config_file("transfer/folder:photographs").endswith("/configs/transfer/folder.py:photographs")
    True
    """
    name, colon, stage = given.partition(":")
    own = CONFIGS / f"{name.removeprefix('configs/').removesuffix('.py')}.py"
    by_name = os.path.isfile(own) and not os.path.isfile(name)  # `Path.is_file` raises of a name that is too long
    return f"{own if by_name else name}{colon}{stage}"


def _reason(error: Exception, arguments: list[str]) -> str:
    """A mistake in the flags or in the config file in a line or two."""
    given = next((argument for argument in arguments if argument.startswith("--config=")), None)
    # ml_collections puts a config file's whole traceback into the message; its last line is what happened.
    reason = (str(error).strip() or repr(error)).splitlines()[-1].strip()
    if isinstance(error, flags.Error) and "config file" not in str(error):
        return f"{reason}; --help lists the flags"
    if isinstance(error, KeyError | AttributeError) and "has no attribute" not in reason:
        # An unknown key, with ml_collections' own suggestion: one error in another.
        while isinstance(error, KeyError | AttributeError) and error.args:
            error = error.args[0]
        reason = f"no such key: {' '.join(str(error).split())}"
    if "No such file" in reason:
        own = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("[!_]*.py")}
        reason += f"; there are {', '.join(sorted(own - {'common'}))}"
    if "get_config() takes 0 positional arguments" in reason:
        reason += "; this config has no stages: leave out the colon and what follows"
    return f"{given}: {reason.removeprefix('vgg_jax.errors.ConfigError: ')}"


@stopping.listening()
def run() -> None:
    """The command line: a user's mistake is a message and exit code 2, never a traceback."""
    absl_logging.set_verbosity(absl_logging.FATAL)  # Orbax logs tracebacks of what it raises anyway
    sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a name need not be of the terminal's letters
    logging.raiseExceptions = False  # of log.txt on a full disk: the run itself says so
    log = logging.getLogger("vgg_jax")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(logging.StreamHandler())
    # --help shows the text and the flags of the module that was started, which an installed command's is not.
    sys.modules["__main__"].__doc__ = __doc__
    for flag in flags.FLAGS.flags_by_module_dict().get(__name__, ()):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    try:
        app.run(main, flags_parser=_parse)
    except UserError as error:
        log.error("%s", error)
        sys.exit(2)
    except BrokenPipeError:  # who reads what is printed has seen enough: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


if __name__ == "__main__":
    run()
