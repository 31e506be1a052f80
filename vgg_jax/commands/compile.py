"""--mode=compile: a config and accelerators' name in, what its program needs and could reach there out (Sec. 3.3)."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from ml_collections import ConfigDict

from vgg_jax.ahead.report import lines, report
from vgg_jax.ahead.topologies import topology
from vgg_jax.config import validate
from vgg_jax.data.open import open_source
from vgg_jax.errors import ConfigError, DataError
from vgg_jax.files import check_replaceable, writing, written_aside
from vgg_jax.model.specs import spec_of
from vgg_jax.train.state import check_freeze

log = logging.getLogger(__name__)

IMAGENET_CLASSES = 1000


def run(
    arguments: list[str],
    *,
    config: ConfigDict | None,
    overrides: dict,
    topology: str | None,
    dense: bool,
    out: str | None,
) -> int:
    """The command; `overrides` are in the config already."""
    if config is None or not topology:
        raise ConfigError(
            "which program, and for what? vgg_jax --mode=compile --config=vgg19 --topology=v5e:4x4 (or h100:8)"
        )
    if out:
        check_replaceable(Path(out), lambda path: "topology" in json.loads(path.read_text()))
    figures = compile_for(config, topology, dense=dense)
    print(lines(figures))
    if out:
        with writing(f"--out={out}"), written_aside(Path(out)) as partial:
            partial.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def compile_for(config: ConfigDict, name: str, *, dense: bool = False) -> dict:
    """The figures of `vgg_jax.ahead.report` for accelerators by their name.

    Raises:
      ConfigError: the config cannot run, or not there; there are no such accelerators, or their compiler is not here.
    """
    validate(config)
    check_freeze(spec_of(config.model.net), tuple(config.train.freeze))
    if config.task != "classification" or config.train.cached_views:
        raise ConfigError("--mode=compile takes configs of classification on fresh crops: config.train.cached_views=0")
    return report(config, _outputs(config), topology(name), dense=dense)


def _outputs(config: ConfigDict) -> int:
    """Classes of the config's data, or ImageNet's where these are not here."""
    try:
        return len(open_source(config.data.source, config.data.train_split).classes)
    except DataError:
        log.info("%s is not here: compiled for %d classes", config.data.source, IMAGENET_CLASSES)
        return IMAGENET_CLASSES
