"""--mode=evaluate: networks and a source in, the paper's tables out (Sec. 4).

RUN/evaluation/STEP/SOURCE/dense.npz ...           posteriors: written once, found again by the next evaluation
RUN/evaluation/STEP/SOURCE/mistakes.png ...        what went wrong: by dense evaluation or else the first protocol
RUN/evaluation/STEP/SOURCE/tables.md, .csv, .json

SOURCE is source and split. The tables of several networks, or where --workdir is no run of theirs, are in
WORKDIR/evaluation/SOURCE/; what belongs to published weights is in WORKDIR/evaluation/WEIGHTS/SOURCE/.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from vgg_jax.commands import localization
from vgg_jax.commands.paths import unreadable
from vgg_jax.commands.target import EvalTarget, check_task, find_targets
from vgg_jax.commands.workdir import WAY_OUT, claim_results, slug
from vgg_jax.config import eval_scale, eval_scales
from vgg_jax.data.decode import decode
from vgg_jax.data.open import open_source
from vgg_jax.data.source import Source
from vgg_jax.errors import ConfigError
from vgg_jax.evaluate import tables
from vgg_jax.evaluate.classes import eval_classes, is_ilsvrc_validation
from vgg_jax.evaluate.dataset import DatasetPredictions, evaluate_dataset
from vgg_jax.evaluate.kept import kept_posteriors
from vgg_jax.evaluate.metrics import warn_of_few_classes
from vgg_jax.evaluate.mistakes import save_mistakes
from vgg_jax.evaluate.posteriors import check_alike, image_names, warn_of_repetition
from vgg_jax.evaluate.result import EvaluationResult, fusion_rows, needed_views
from vgg_jax.files import printable, writing
from vgg_jax.inference.scorer import EvalView, posterior_runner
from vgg_jax.model.checksum import checksum
from vgg_jax.model.vgg import VGG
from vgg_jax.progress import Progress

log = logging.getLogger(__name__)


def run(arguments: list[str], *, workdir: str | None, checkpoint: list[str], **given) -> int:
    """The command: prints the tables."""
    if not workdir and not checkpoint:
        raise ConfigError(
            "--mode=evaluate needs --workdir=DIR, a run's folder or where the tables go, and in the latter case "
            "--checkpoint=RUN,RUN,... or --weights=SOURCE"
        )
    out = Path(workdir) / "evaluation" if workdir else None
    targets = find_targets(workdir=workdir, checkpoint=checkpoint, **given)
    first = next(targets)
    tables_of = localization.evaluate if first.config.task == "localization" else evaluate
    print(tables_of(itertools.chain([first], targets), out))
    return 0


def evaluate(targets: Iterable[EvalTarget], out: Path | None = None) -> str:
    """Evaluates networks on `config.evaluate.split` by `config.evaluate.protocols`; several are fused as well.

    Args:
      targets: the networks, one after another in memory.
      out: where the tables go, and what belongs to a network that has no run's folder; by default the first run's.

    Returns:
      The tables, and what could not be read.

    Raises:
      UserError: the data are missing or of other classes, or a file cannot be written.
    """
    done: list[tuple[EvaluationResult, Path]] = []
    for target in targets:
        check_task(target, "classification")
        out, home = claim_results(target.name, target.home, out)
        done.append(_evaluate_one(target, home))
        (first, _), (last, _) = done[0], done[-1]
        check_alike(first.any_part, last.any_part, first.name, last.name)
    results, folders = zip(*done, strict=True)
    warn_of_few_classes(len(results[0].any_part.classes))
    warn_of_repetition([result.any_part for result in results], [result.name for result in results])
    rows = [row for result in results for row in result.rows()]
    if len(results) > 1:
        rows += fusion_rows(results)
    heading = "\n".join(printable(f"{result.name} on {result.source}") for result in results)
    of_tables = folders[0] if len(folders) == 1 and out in folders[0].parents else out / folders[0].name
    if jax.process_index() == 0:
        with writing(of_tables, WAY_OUT):
            tables.save_tables(of_tables, rows, heading)
    lines = [heading, "", tables.markdown(rows), ""]
    if folders == (of_tables,):
        lines += [f"Tables, mistakes and posteriors: {of_tables}"]
    else:
        lines += [f"Tables: {of_tables}", *(f"Mistakes and posteriors: {folder}" for folder in folders)]
    for result in results:
        lines += unreadable(result.any_part.unreadable, "are not counted")
    return "\n".join(lines)


def _evaluate_one(target: EvalTarget, home: Path) -> tuple[EvaluationResult, Path]:
    """Finds or computes a network's posteriors, and writes its mistakes beside them: into the folder below `home`."""
    net, config = target.net, target.config
    source = open_source(config.data.source, config.evaluate.split)
    classes = eval_classes(net.classes, source, config.evaluate.classes, target.name)
    folder = home / "-".join([slug(source.name), slug(source.split), *(["all"] if classes.beyond_source else [])])
    protocols, scale, scales = tuple(config.evaluate.protocols), eval_scale(config), eval_scales(config)
    about = {
        "network": net.spec.name,
        "S": list(target.S),
        "checkpoint": target.name,
        "weights": checksum(net),
        "flip": bool(config.data.flip),
        "of_the_papers_size": net.of_the_papers_size,
    }
    parts = kept_posteriors(
        folder,
        about,
        source,
        classes,
        needed_views(protocols, scale, scales),
        lambda views, unfinished, made_of: _predictions(net, config, source, views, unfinished, made_of),
        complete=config.data.on_error == "raise",
    )
    papers_images = is_ilsvrc_validation(source) and not classes.note
    of_the_paper = about["of_the_papers_size"] and papers_images and not any(p.unreadable for p in parts.values())
    on = f"{source.describe()}{classes.note}"
    result = EvaluationResult(target.name, scale, scales, protocols, parts, on, of_the_paper)
    if jax.process_index() == 0:
        protocol = "dense" if "dense" in protocols else protocols[0]
        (_, posteriors), found = result.scored(protocol, result.scales_of(protocol)), result.any_part
        names = image_names(source)
        pixels = lambda image: decode(source[names.index(found.images[image])]["image"])
        with writing(folder, WAY_OUT):
            save_mistakes(folder, posteriors, found.labels, found.classes, found.images, pixels)
    return result, folder


def _predictions(
    net: VGG, config: ConfigDict, source: Source, views: Sequence[EvalView], unfinished: Path, made_of: dict
) -> DatasetPredictions:
    runner = posterior_runner(net, config.data.flip, batch_size=config.evaluate.batch_size or None)
    progress = Progress(f"net {net.spec.name}, {', '.join(f'{part} Q={scale}' for part, scale in views)}")
    options = {"threads": config.data.threads, "on_error": config.data.on_error}
    options |= {"folder": unfinished, "made_of": made_of}
    predictions = evaluate_dataset(runner, source, views, progress=progress, **options)
    progress.clear()
    log.info(
        "%s images scored in %d views on %d batch shapes; %.1f %% of the pixels were waste",
        *(f"{len(predictions.index):,}", len(views), runner.batcher.shapes, 100 * runner.batcher.waste),
    )
    return predictions
