"""--mode=transfer: networks and a source in, a tested linear classifier out (App. B).

WORKDIR/tables.md, .csv, .json       the row of Table 11 or 12, one for each descriptor
WORKDIR/probe.npz                    the classifier: --mode=predict --workdir=WORKDIR takes it
WORKDIR/confusion.png, mistakes.png, per_class.csv, curve.png ...
WORKDIR/features/                    what the next command with the same networks and images finds
"""

from __future__ import annotations

import re
from pathlib import Path

import jax

from vgg_jax import processes
from vgg_jax.commands.paths import unreadable
from vgg_jax.commands.target import EvalTarget, find_targets
from vgg_jax.commands.workdir import claim
from vgg_jax.config import default_config
from vgg_jax.errors import CheckpointError, ConfigError
from vgg_jax.files import printable, writing
from vgg_jax.transfer.experiment import fit_probe
from vgg_jax.transfer.paper import papers_row
from vgg_jax.transfer.report import markdown, save_report
from vgg_jax.transfer.settings import TransferSettings

PROBE, FEATURES = "probe.npz", "features"

_REPORT = frozenset(
    {
        *("tables.md", "tables.csv", "tables.json", "per_class.csv", "confusion.csv", "confusion.png"),
        *("mistakes.csv", "mistakes.png", "curve.csv", "curve.png"),
    }
)
"""Not every result has all of them: `save_report`."""


def run(arguments: list[str], *, workdir: str | None, checkpoint: list[str], weights: list[str], **given) -> int:
    """The command: prints the table."""
    if not workdir or not (checkpoint or weights):
        raise ConfigError(
            "--mode=transfer needs --workdir=DIR, where the classifier goes, and --weights=SOURCE or --checkpoint=RUN, "
            "several for late fusion"
        )
    folder = Path(workdir)
    with writing(f"--workdir={folder}"):
        processes.by_first(lambda: claim(folder, _REPORT | {PROBE, FEATURES}))
    layers = (given["config"] or default_config()).transfer.layers
    layers = tuple(given["overrides"].get("transfer.layers", layers))
    # FC layers that a file lacks would be randomly initialized, and their descriptors would mean nothing.
    partial = not any(re.fullmatch(r"(fc|relu)\d", str(layer)) for layer in layers)
    try:
        targets = find_targets(workdir=None, checkpoint=checkpoint, weights=weights, partial=partial, **given)
        first = next(targets)
        settings_of(first).check()  # before the others are loaded
        targets = [first, *targets]
    except CheckpointError as error:
        if partial or "fc" not in str(error):
            raise
        way_out = "\nConvolutions alone have descriptors too: --config.transfer.layers=pool5"
        raise CheckpointError(f"{error}{way_out}") from error
    print(report(targets, folder))
    return 0


def report(targets: list[EvalTarget], folder: Path) -> str:
    """Trains and tests a classifier as the first network's config says, and saves it.

    Returns:
      The table, where the files are, and what could not be read.

    Raises:
      UserError: the data are missing, a layer or a scale does not go with a network, or a file cannot be written.
    """
    config = targets[0].config
    nets = [target.net for target in targets]
    result = fit_probe(
        nets,
        config.data.source,
        settings_of(targets[0]),
        split=config.data.train_split,
        test_split=config.evaluate.split,
        store=folder / FEATURES,
        on_error=config.data.on_error,
        threads=config.data.threads,
        batch_size=config.evaluate.batch_size or None,
    )
    networks = " + ".join(net.spec.name for net in nets)
    heading = printable(f"{' and '.join(target.name for target in targets)} on {result.source.describe()}")
    paper = papers_row(result, nets, config)
    if jax.process_index() == 0:
        with writing(folder):
            result.probe.save(folder / PROBE)
            for name in _REPORT:  # those that are left of an earlier result would pass for this one's
                (folder / name).unlink(missing_ok=True)
            save_report(folder, result, heading, networks, paper)
    lines = [heading, "", markdown(result, networks, paper), "", f"Classifier, tables, mistakes: {folder}"]
    return "\n".join([*lines, *unreadable(result.problems, "are left out")])


def settings_of(target: EvalTarget) -> TransferSettings:
    """The keys of a config that say how a classifier is made and tested."""
    config = target.config
    return TransferSettings(scales=target.scales, flip=config.data.flip, seed=config.seed, **config.transfer)
