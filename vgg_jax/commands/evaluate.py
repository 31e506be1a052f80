"""--mode=evaluate: networks and a source in, the paper's tables out (Sec. 4).

RUN/evaluation/STEP/SOURCE/dense.npz ...     posteriors: written once, found again by the next evaluation
RUN/evaluation/STEP/SOURCE/mistakes.png ...  what went wrong: by dense evaluation or else the first of the protocols
RUN/evaluation/tables.md, .csv, .json        or WORKDIR/evaluation/ where --workdir names another folder
"""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vgg_jax.commands.target import EvalTarget, find_targets
from vgg_jax.commands.workdir import claim, is_ours
from vgg_jax.config import eval_scale, eval_scales
from vgg_jax.data.decode import decode
from vgg_jax.data.open import open_source
from vgg_jax.data.source import Source
from vgg_jax.errors import ConfigError, DataError
from vgg_jax.evaluate import tables
from vgg_jax.evaluate.dataset import DatasetPredictions, evaluate_dataset
from vgg_jax.evaluate.mistakes import save_mistakes
from vgg_jax.evaluate.posteriors import Posteriors, check_alike, read, relative
from vgg_jax.evaluate.result import EvaluationResult, fusion_rows
from vgg_jax.files import printable, writing
from vgg_jax.inference.scorer import EvalView, eval_views, posterior_runner
from vgg_jax.model.specs import HIDDEN_UNITS
from vgg_jax.model.vgg import VGG
from vgg_jax.progress import Progress

log = logging.getLogger(__name__)

_WAY_OUT = "give --workdir=DIR for results"


def run(arguments: list[str], *, workdir: str | None, checkpoint: list[str], **given) -> int:
    """The command: prints the tables."""
    out = workdir or (checkpoint[0] if checkpoint else None)
    if not out:
        raise ConfigError(
            "--mode=evaluate needs --workdir=DIR, a run's folder or where the tables go, and in the latter case "
            "--checkpoint=RUN,RUN,... or --weights=SOURCE"
        )
    print(evaluate(find_targets(workdir=workdir, checkpoint=checkpoint, **given), Path(out) / "evaluation"))
    return 0


def evaluate(targets: Iterable[EvalTarget], out: Path) -> str:
    """Evaluates networks on `config.evaluate.split` by `config.evaluate.protocols`; several are fused as well.

    Args:
      targets: the networks, one after another in memory.
      out: where the tables go, and what belongs to a network that has no run's folder.

    Returns:
      The tables, and what could not be read.

    Raises:
      UserError: the data are missing or of other classes, or a file cannot be written.
    """
    results: list[EvaluationResult] = []
    mistakes: list[Callable[[], None]] = []
    first_process = jax.process_index() == 0
    for target in targets:
        home = target.home or out / _slug(target.name)
        if first_process:
            _claim(out, home.parent)
        result, save = _evaluate_one(target, home)
        results.append(result)
        mistakes.append(save)
        check_alike(results[0].any_part, results[-1].any_part, results[0].name, target.name)
    rows = [row for result in results for row in result.rows()]
    if len(results) > 1:
        rows += fusion_rows(results)
    heading = "\n".join(printable(f"{result.name} on {result.source}") for result in results)
    if first_process:
        with writing(out, _WAY_OUT):
            tables.save_tables(out, rows, heading)
            for save in mistakes:
                save()
    lines = [heading, "", tables.markdown(rows), "", f"Tables, mistakes and posteriors: {out}"]
    for result in results:
        if result.problems:
            lines += ["", f"{len(result.problems)} images could not be read and are not counted:"]
            lines += [f"  {printable(name)}: {reason}" for name, reason in sorted(result.problems.items())]
    return "\n".join(lines)


def _claim(*folders: Path) -> None:
    """Refuses folders with somebody else's files; what is in a run's folder is the run's."""
    for folder in folders:
        with writing(folder, _WAY_OUT):
            if not is_ours(folder.parent):
                claim(folder)


def _evaluate_one(target: EvalTarget, home: Path) -> tuple[EvaluationResult, Callable[[], None]]:
    """Finds a network's posteriors, or computes and writes what is missing; and a function that writes the mistakes."""
    net, config = target.net, target.config
    source = open_source(config.data.source, config.evaluate.split)
    _check_classes(net, source, target.name)
    about = {
        "network": net.spec.name,
        "S": list(target.S),
        "checkpoint": target.name,
        "weights": checksum(net),
        "source": source.name,
        "split": source.split,
        "flip": bool(config.data.flip),
        "of_the_papers_size": not net.batch_norm and (net.width, net.hidden, net.crop) == (1.0, HIDDEN_UNITS, 224),
    }
    home = home / f"{_slug(source.name)}-{_slug(source.split)}"
    names = relative([source.name_of(index) for index in range(len(source))])
    parts, problems = _posteriors(net, config, about, source, names, home)
    papers_images = source.name.startswith("tfds:imagenet2012") and source.split == "validation" and not problems
    result = EvaluationResult(
        target.name,
        eval_scale(config),
        eval_scales(config),
        tuple(config.evaluate.protocols),
        parts,
        source.describe(),
        about["of_the_papers_size"] and papers_images,
        problems,
    )

    def save() -> None:
        protocol = "dense" if "dense" in result.protocols else result.protocols[0]
        (_, posteriors), found = result.scored(protocol, result.scales_of(protocol)), result.any_part
        pixels = lambda image: decode(source[names.index(found.images[image])]["image"])
        save_mistakes(home, posteriors, found.labels, source.classes, found.images, pixels)

    return result, save


def _posteriors(
    net: VGG, config: ConfigDict, about: dict, source: Source, names: tuple[str, ...], home: Path
) -> tuple[dict[str, Posteriors], dict[str, str]]:
    """The posteriors by every part of the protocols, from files where these are of the same weights and images; and
    what could not be read."""
    views = _views(config)
    parts: dict[str, Posteriors] = {}
    for part in dict.fromkeys(view.protocol for view in views):
        if found := _found(home / f"{part}.npz", about | {"protocol": part}, names):
            parts[part] = found
    missing = [view for view in views if view.protocol not in parts or view.scale not in parts[view.protocol].scales]
    if not missing:
        log.info("posteriors found in %s: nothing had to be computed", home)
        return parts, {}
    predictions = _predictions(net, config, source, missing)
    images = tuple(names[index] for index in predictions.index)
    for part in dict.fromkeys(view.protocol for view in missing):
        path = home / f"{part}.npz"
        scales = tuple(view.scale for view in missing if view.protocol == part)
        values = np.stack([predictions.posteriors[EvalView(part, scale)] for scale in scales])
        computed = Posteriors(values, scales, predictions.labels, images, source.classes, about | {"protocol": part})
        if part in parts:
            check_alike(parts[part], computed, str(path), "the source")
            computed = parts[part].joined(computed)
        parts[part] = computed
        if jax.process_index() == 0:
            with writing(path, _WAY_OUT):
                computed.save(path)
    return parts, predictions.problems


def _views(config: ConfigDict) -> list[EvalView]:
    """What the tables need: the centre crop at the one Q, dense at the one and the several, crops at the several."""
    single, several = (eval_scale(config),), eval_scales(config)
    scales = {"centre": single, "dense": (*single, *several)}
    return sorted({view for p in config.evaluate.protocols for view in eval_views([p], scales.get(p, several))})


def _predictions(net: VGG, config: ConfigDict, source: Source, views: list[EvalView]) -> DatasetPredictions:
    runner = posterior_runner(net, views, config.data.flip, batch_size=config.evaluate.batch_size or None)
    progress = Progress(f"net {net.spec.name}, {', '.join(f'{part} Q={scale}' for part, scale in views)}")
    options = {"threads": config.data.threads, "on_error": config.data.on_error}
    predictions = evaluate_dataset(runner, source, views, progress=progress, **options)
    progress.clear()
    log.info(
        "%s images scored in %d views on %d batch shapes; %.1f %% of the pixels were waste",
        *(f"{len(predictions.index):,}", len(views), runner.batcher.shapes, 100 * runner.batcher.waste),
    )
    return predictions


def checksum(net: VGG) -> str:
    """A checksum of a network's arrays, so that posteriors are only ever taken for those of the same weights."""
    value = 0
    for path, array in nnx.to_flat_state(nnx.state(net)):
        value = zlib.crc32(str(path).encode(), value)
        value = zlib.crc32(np.ascontiguousarray(array[...]), value)
    return f"{value:08x}"


def _found(path: Path, about: dict, names: tuple[str, ...]) -> Posteriors | None:
    """The posteriors in a file, if they are those of these weights and images."""
    if not path.exists():
        return None
    found = read(path)
    if found.about | {"checkpoint": about["checkpoint"]} != about or found.images != names:
        log.info("%s is of other weights or images: computed again", path)
        return None
    return found


def _check_classes(net: VGG, source: Source, name: str) -> None:
    ours, theirs = net.classes, tuple(source.classes)
    if not ours:
        raise DataError(f"{name} does not name its classes: what it answers on {source.name} has no meaning")
    if len(ours) != len(theirs):
        raise DataError(f"{name} knows {len(ours)} classes, {source.name} has {len(theirs)}: evaluate on the same")
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if other not in (one, one.partition(" ")[0]):  # ImageNet's are "n01440764 tench"; data sets give the id alone
            raise DataError(
                f"{name} and {source.describe()} name their classes differently: "
                f"class {number} is {one!r} there and {other!r} here"
            )


def _slug(name: str | Path) -> str:
    return re.sub(r"[^\w.]+", "-", str(name)).strip("-.")
