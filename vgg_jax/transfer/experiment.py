"""From networks and images to a tested classifier (App. B): descriptors, splits, the SVM, its figures.

Of several descriptors (layers, scales, ways to combine them) each is reported; in every split the one that is best on
the held-out part of the training images is chosen, as C is.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vgg_jax.data.objects import EachBox, checked, presence
from vgg_jax.data.open import open_source
from vgg_jax.data.source import Source
from vgg_jax.inference.arrays import networks
from vgg_jax.inference.pooled_features import KeptFeatures
from vgg_jax.model.vgg import VGG
from vgg_jax.progress import Progress
from vgg_jax.transfer.descriptors import Descriptor, candidates, kept_for, of_kept
from vgg_jax.transfer.metrics import METRICS
from vgg_jax.transfer.probe import WHOLE_IMAGE, LinearProbe, provenance
from vgg_jax.transfer.protocols import Split, first_of_each, random_splits
from vgg_jax.transfer.settings import TransferSettings
from vgg_jax.transfer.svm import LinearSVM, fit_svm

log = logging.getLogger(__name__)

CALTECH_101 = TransferSettings()


class Score(NamedTuple):
    """How good the classifiers of all splits are: a line of the table."""

    descriptor: Descriptor | None
    """None where each split has its own, the best on its held-out images."""
    shots: float
    """Training images of a class; 0 for all, of which the learning curve has the mean."""
    values: dict[str, tuple[float, ...]]
    """By metric, of the test images of each split, as fractions."""
    held_out: tuple[float, ...]
    """The first metric of the held-out images of each split; empty where nothing was held out."""
    C: tuple[float, ...]
    """Of each split."""


class TransferResult(NamedTuple):
    """A classifier, and how good it is."""

    probe: LinearProbe
    """Of the first split."""
    scores: tuple[Score, ...]
    """Of each descriptor; and last, if there are several, of those that were chosen on held-out images."""
    score: Score
    """One of them, whose descriptor the probe has: the last, or the first where nothing was held out to choose by."""
    curve: tuple[Score, ...]
    """Of fewer shots, with the descriptor and the C that were chosen for `settings.shots`, which is last."""
    source: Source
    test: np.ndarray
    """The first split's test images: indices in the source."""
    decisions: np.ndarray
    """What the probe decides on them, (n, classes)."""
    truth: np.ndarray
    """Their labels, (n,), or (n, classes): `vgg_jax.transfer.svm.Targets`."""
    problems: dict[str, str]
    """Images that could not be read and are left out, and why."""

    def __str__(self) -> str:
        metric, values = next(iter(self.score.values.items()))
        return f"{self.source.describe()}: {metric.replace('_', ' ')} {percent(values)} %"


class _Fit(NamedTuple):
    svm: LinearSVM
    decisions: np.ndarray
    values: tuple[float, ...]
    held_out: float


def fit_probe(
    nets: VGG | Sequence[VGG],
    source: str,
    settings: TransferSettings = CALTECH_101,
    *,
    split: str = "train+validation+test",
    test_split: str = "",
    store: str | Path | None = None,
    **reading,
) -> TransferResult:
    """Trains linear classifiers of images on a network's descriptors, and tests them.

    Args:
      nets: one network, or several whose descriptors are stacked (late fusion).
      source: of the images: `folder:PATH`, a folder with a folder for each class, or another that `open_source` takes.
      settings: how.
      split: its images, which are divided at random; or with `settings.splits` 0 those to train on.
      test_split: with `settings.splits` 0, those to test on.
      store: a folder where features are kept for the next time; by default they are not.
      reading: `on_error`, `threads`, `batch_size` and `mesh` of `kept_features`.

    Raises:
      ConfigError: a setting is none of its choices, or two contradict each other; the net has no such layer, or a scale
        is too small for it.
      DataError: the source is missing, an image cannot be read, or a class has too few.

    >>> fit_probe(vgg_jax.load("vgg16.npz"), "folder:photographs").probe.save("probe.npz")  # doctest: +SKIP
    """
    settings.check()
    nets = networks(nets)
    images = open_source(source, f"{split}+{test_split}" if settings.splits == 0 else split)
    kinds = candidates(settings.layers, settings.scales, settings.combine)
    with contextlib.ExitStack() as at_end:
        folder = Path(store) if store else Path(at_end.enter_context(tempfile.TemporaryDirectory()))
        if settings.regions:
            images = checked(images, on_error=reading.get("on_error", "raise"))
        parts = [EachBox(images, region, settings.rest) for region in settings.regions] or [images]
        images, image_of = parts[0], parts[0].image_of if settings.regions else np.arange(len(images))
        truth = presence(images) if settings.several_classes else None
        kept = [kept_for(folder, net, part, kinds, flip=settings.flip, **reading) for net in nets for part in parts]
        there = np.logical_and.reduce([of.there for of in kept])
        truth = kept[0].labels if truth is None else truth
        if settings.splits == 0:
            first = image_of < len(open_source(source, split))
            splits = [Split(np.flatnonzero(first & there), np.flatnonzero(~first & there))]
            if settings.shots:
                splits = [Split(first_of_each(splits[0].train, truth, settings.shots), splits[0].test)]
        else:
            options = {"train": settings.shots, "test": settings.test_per_class, "seed": settings.seed}
            options |= {"classes": images.classes}
            splits = random_splits(truth, settings.splits, rows=np.flatnonzero(there), **options)
        return _tested(nets, kept, images, image_of, kinds, splits, truth, settings)


def _tested(
    nets: Sequence[VGG],
    kept: Sequence[KeptFeatures],
    source: Source,
    image_of: np.ndarray,
    kinds: Sequence[Descriptor],
    splits: Sequence[Split],
    truth: np.ndarray,
    settings: TransferSettings,
) -> TransferResult:
    """Classifiers for all descriptors in all splits; the learning curve of those that are best on held-out images."""

    def fitted(kind: Descriptor, number: int, shots: int = 0, C: float | None = None) -> _Fit:
        train, test = splits[number]
        train = first_of_each(train, truth, shots) if shots else train
        metrics = [METRICS[name] for name in settings.metrics]
        grid = (C,) if C else settings.C
        options = {"grid": grid, "groups": image_of[train], "seed": settings.seed + number, "solver": settings.solver}
        options |= {"classes": source.classes}
        svm = fit_svm(of_kept(kept, kind, train), truth[train], metrics[0], **options)
        decisions = svm.decide(of_kept(kept, kind, test))
        values = tuple(metric(decisions, truth[test]) for metric in metrics)
        return _Fit(svm, decisions, values, max(svm.validation.values(), default=np.nan))

    def scored(descriptor: Descriptor | None, shots: int, fits: Sequence[_Fit]) -> Score:
        values = dict(zip(settings.metrics, zip(*(fit.values for fit in fits), strict=True), strict=True))
        held_out = tuple(fit.held_out for fit in fits if not np.isnan(fit.held_out))
        return Score(descriptor, shots, values, held_out, tuple(fit.svm.C for fit in fits))

    most = settings.shots or round(len(splits[0].train) / len(source.classes), 1)
    fewer = [shots for shots in sorted({*settings.curve}) if shots < most]
    if left_out := sorted(shots for shots in settings.curve if shots > most):
        log.warning("the learning curve ends at %g images of a class: %s are left out", most, left_out)
    progress, count, total = Progress("classifiers"), 0, len(splits) * (len(kinds) + len(fewer))
    table: list[list[_Fit]] = []
    for kind in kinds:
        table.append([])
        for number in range(len(splits)):
            table[-1].append(fitted(kind, number))
            progress(count := count + 1, total)
    scores = [scored(kind, settings.shots, fits) for kind, fits in zip(kinds, table, strict=True)]
    chosen = [0] * len(splits)
    if several := len(kinds) > 1 and len(scores[0].held_out) > 0:
        chosen = np.argmax([[fit.held_out for fit in fits] for fits in table], axis=0).tolist()
    best = [table[place][number] for number, place in enumerate(chosen)]
    score = scored(None, settings.shots, best) if several else scores[0]
    scores += [score] if several else []
    curve = []
    for shots in fewer:
        fits = []
        for number, place in enumerate(chosen):
            fits.append(fitted(kinds[place], number, shots, best[number].svm.C))
            progress(count := count + 1, total)
        curve.append(scored(None, shots, fits))
    progress.clear()
    kind, test = kinds[chosen[0]], splits[0].test
    svm, about = best[0].svm, provenance(kind, nets, settings.flip, settings.regions or WHOLE_IMAGE)
    probe = LinearProbe(svm.weights, svm.intercept, source.classes, about)
    problems = {name: reason for of in kept for name, reason in of.problems.items()}
    curve = (*curve, score if settings.shots else score._replace(shots=most)) if curve else ()
    return TransferResult(probe, tuple(scores), score, curve, source, test, best[0].decisions, truth[test], problems)


def percent(values: Sequence[float]) -> str:
    """The mean of fractions and, of several, their deviation, in %.

    >>> percent([0.92, 0.93, 0.94]), percent([0.5])
    ('93.00 ± 1.00', '50.00')
    """
    mean = f"{100 * np.mean(values):.2f}"
    return f"{mean} ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else mean
