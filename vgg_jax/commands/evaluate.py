"""The evaluation mode: checkpoints and a source in, the paper's tables out (Sec. 4).

RUN/evaluation/STEP/SOURCE/dense.npz ...     posteriors: written once, found again by the next evaluation
RUN/evaluation/STEP/SOURCE/mistakes.png ...  what went wrong
RUN/evaluation/tables.md, .csv, .json        or WORKDIR/evaluation/ where --workdir names another folder
"""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vgg_jax.commands.target import EvalTarget
from vgg_jax.config import eval_scale, eval_scales
from vgg_jax.data.decode import decode
from vgg_jax.data.open import open_source
from vgg_jax.data.source import Source
from vgg_jax.errors import ConfigError, DataError
from vgg_jax.evaluate import tables
from vgg_jax.evaluate.dataset import Examination
from vgg_jax.evaluate.paper import Setting
from vgg_jax.evaluate.posteriors import Posteriors, check_alike, fused, read, relative
from vgg_jax.inference.scorer import PROTOCOLS, EvalView, Scoring
from vgg_jax.model.specs import HIDDEN_UNITS
from vgg_jax.model.vgg import VGG
from vgg_jax.progress import Progress

log = logging.getLogger(__name__)


def evaluate(targets: Iterable[EvalTarget], out: Path) -> str:
    """Evaluates networks on `config.evaluate.split` by `config.evaluate.protocols`; several are fused as well.

    Args:
      targets: the networks, one after another in memory.
      out: where the tables go, and what belongs to a network that has no run's folder.

    Returns:
      The tables.

    Raises:
      UserError: the data are missing or of other classes, or a file cannot be written.
    """
    exams: list[_Exam] = []
    for target in targets:
        exams.append(_examined(target, target.home or out / _slug(target.name)))
        check_alike(exams[0].any(), exams[-1].any(), exams[0].about["checkpoint"], target.name)
    rows = [row for exam in exams for row in exam.rows()]
    if len(exams) > 1:
        rows += _fusion_rows(exams)
    heading = "\n".join(f"{exam.about['checkpoint']} on {exam.source.describe()}" for exam in exams)
    if jax.process_index() == 0:
        _written(lambda folder: tables.save_tables(folder, rows, heading), out)
    lines = [heading, "", tables.markdown(rows), "", f"Tables, mistakes and posteriors: {out}"]
    for exam in exams:
        if exam.problems:
            lines += ["", f"{len(exam.problems)} images could not be read and are not counted:"]
            lines += [f"  {where}: {reason}" for where, reason in sorted(exam.problems.items())]
    return "\n".join(lines)


class _Exam:
    """One checkpoint's posteriors on one source."""

    def __init__(self, config: ConfigDict, about: dict, source: Source, parts: dict[str, Posteriors], problems: dict):
        self.config, self.about, self.source, self.parts, self.problems = config, about, source, parts, problems

    def any(self) -> Posteriors:
        return next(iter(self.parts.values()))

    def posteriors(self, protocol: str, scales: tuple[int, ...]) -> np.ndarray:
        """By one protocol, averaged over the scales."""
        return fused([self.parts[part].at(*scales) for part in PROTOCOLS[protocol]])

    def rows(self) -> list[tables.Row]:
        """The lines of Tables 3 to 5 for this checkpoint."""
        single, several = (eval_scale(self.config),), eval_scales(self.config)
        protocols = self.config.evaluate.protocols
        rows = []
        for protocol in protocols:
            of = {"table": 0} if protocol == "centre" else {"table": 3 if protocol == "dense" else 5}
            if protocol in ("centre", "dense") or len(several) == 1:
                rows.append(self._row(protocol, single, **of))
            if protocol == "dense" and len(several) > 1:
                rows.append(self._row(protocol, several, table=4))
            if len(several) > 1 and (protocol in ("crops", "both") or (protocol == "dense" and len(protocols) > 2)):
                rows.append(self._row(protocol, several, table=5))
        return rows

    def _row(self, protocol: str, scales: tuple[int, ...], table: int) -> tables.Row:
        setting = Setting(self.about["network"], tuple(self.about["S"]), scales, protocol)
        labels = self.any().labels
        posteriors = self.posteriors(protocol, scales)
        return tables.row(setting, posteriors, labels, table=table, of_the_paper=self.of_the_paper)

    @property
    def of_the_paper(self) -> bool:
        """Whether network and images are the paper's."""
        data = self.source.name.startswith("tfds:imagenet2012") and self.source.split == "validation"
        return data and self.about["of_the_papers_size"] and not self.problems


def _examined(target: EvalTarget, home: Path) -> _Exam:
    """Finds a network's posteriors, or computes what is missing."""
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
    parts, problems = _posteriors(net, config, about, source, home)
    exam = _Exam(config, about, source, parts, problems)
    if jax.process_index() == 0:
        protocol = config.evaluate.protocols[-1]
        scales = (eval_scale(config),) if protocol == "centre" else eval_scales(config)
        found = exam.any()
        positions = {name: place for place, name in enumerate(_names(source))}
        tables.save_mistakes(
            home,
            exam.posteriors(protocol, scales),
            found.labels,
            source.classes,
            found.images,
            lambda image: decode(source[positions[found.images[image]]]["image"]),
        )
    return exam


def _posteriors(
    net: VGG, config: ConfigDict, about: dict, source: Source, home: Path
) -> tuple[dict[str, Posteriors], dict[str, str]]:
    """The posteriors of every part of the protocols, from files where these are of the same weights and images."""
    single, several = eval_scale(config), eval_scales(config)
    wanted: dict[str, set[int]] = {}
    for protocol in config.evaluate.protocols:
        scales = {single} if protocol == "centre" else {*several} if protocol != "dense" else {single, *several}
        for part in PROTOCOLS[protocol]:
            wanted.setdefault(part, set()).update(scales)
    names, parts = _names(source), {}
    for part in wanted:
        found = _found(home / f"{part}.npz", about | {"protocol": part}, names)
        if found is not None:
            parts[part] = found
    missing = [
        EvalView(part, scale)
        for part, scales in wanted.items()
        for scale in sorted(scales - set(parts[part].scales if part in parts else ()))
    ]
    examination = Examination(source, threads=config.data.threads, on_error=config.data.on_error)
    if missing:
        scoring = Scoring(net, missing, config.data.flip, batch_size=config.evaluate.batch_size or None)
        progress = Progress(f"net {net.spec.name}, {', '.join(f'{part} Q={scale}' for part, scale in missing)}")
        answers = examination(scoring, progress)
        progress.clear()
        batcher = scoring.batcher
        log.info(
            "%s images scored %s views on %s batch shapes; %.1f %% of the pixels were waste",
            *(f"{len(answers.index):,}", len(missing), batcher.shapes, 100 * batcher.waste),
        )
        images = tuple(names[place] for place in answers.index)
        for part in dict.fromkeys(view.protocol for view in missing):
            scales = [view.scale for view in missing if view.protocol == part]
            values = np.stack([answers.posteriors[EvalView(part, scale)] for scale in scales])
            if part in parts:
                check_alike(parts[part], _like(parts[part], images, answers.labels), str(home / part), "now")
                values = np.concatenate([parts[part].values, values])
                scales = [*parts[part].scales, *scales]
            parts[part] = Posteriors(
                values, tuple(scales), answers.labels, images, tuple(source.classes), about | {"protocol": part}
            )
            if jax.process_index() == 0:
                _written(parts[part].save, home / f"{part}.npz")
    else:
        log.info("posteriors found in %s: nothing had to be computed", home)
    return parts, examination.problems


def _fusion_rows(exams: list[_Exam]) -> list[tables.Row]:
    """The lines of Table 6: the average over the networks, each over its own scales."""
    rows = []
    first = exams[0]
    for protocol in first.config.evaluate.protocols:
        if not all(set(PROTOCOLS[protocol]) <= set(exam.parts) for exam in exams):
            continue
        scales = [(eval_scale(e.config),) if protocol == "centre" else eval_scales(e.config) for e in exams]
        average = np.mean([e.posteriors(protocol, q) for e, q in zip(exams, scales, strict=True)], axis=0)
        alike = len({tuple(exam.about["S"]) for exam in exams}) == len(set(scales)) == 1
        setting = Setting(
            " + ".join(exam.about["network"] for exam in exams),
            tuple(first.about["S"]) if alike else (0, 0),
            scales[0] if alike else tuple(sorted({q for each in scales for q in each})),
            protocol,
        )
        of_the_paper = alike and all(exam.of_the_paper for exam in exams)
        rows.append(tables.row(setting, average, first.any().labels, table=6, of_the_paper=of_the_paper))
    return rows


def fuse(paths: Sequence[str | Path]) -> str:
    """The table of files of posteriors, each alone and all together; no network is needed (Sec. 4.4).

    Raises:
      DataError: a file cannot be read, or its images or classes are not those of the first.
    """
    if len(paths) < 2:
        raise ConfigError("--mode=fuse takes two or more files of posteriors: runs/*/evaluation/*/*/dense.npz")
    parts = [read(Path(path)) for path in paths]
    for path, part in zip(paths[1:], parts[1:], strict=True):
        check_alike(parts[0], part, str(paths[0]), str(path))
    labels, rows = parts[0].labels, []
    for part in parts:
        about = part.about
        setting = Setting(about["network"], tuple(about["S"]), part.scales, about["protocol"])
        rows.append(tables.row(setting, part.mean(), labels, table=6))
    everything = Setting(
        " + ".join(part.about["network"] for part in parts),
        (0, 0),
        tuple(sorted({scale for part in parts for scale in part.scales})),
        " + ".join(dict.fromkeys(part.about["protocol"] for part in parts)),
    )
    return tables.markdown([*rows, tables.row(everything, fused(parts), labels, table=6)])


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
    same = {key: value for key, value in found.about.items() if key != "checkpoint"}
    if same != {key: value for key, value in about.items() if key != "checkpoint"} or found.images != names:
        log.info("%s is of other weights or images: computed anew", path)
        return None
    return found


def _like(other: Posteriors, images: tuple[str, ...], labels: np.ndarray) -> Posteriors:
    return Posteriors(other.values, other.scales, labels, images, other.classes, other.about)


def _names(source: Source) -> tuple[str, ...]:
    return relative([source.name_of(index) for index in range(len(source))])


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


def _written(write: Callable[[Path], None], path: Path) -> None:
    try:
        write(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}; give --workdir=DIR for results") from error


def _slug(name: str | Path) -> str:
    return re.sub(r"[^\w.]+", "-", str(name)).strip("-.")
