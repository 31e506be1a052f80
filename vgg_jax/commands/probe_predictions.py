"""--mode=predict by a linear classifier: the classes that it prefers, of images or of boxes in them (App. B)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vgg_jax.commands.records import AT_ONCE, show
from vgg_jax.commands.target import EvalTarget, find_targets
from vgg_jax.data.objects import EachBox, checked
from vgg_jax.data.open import open_source
from vgg_jax.errors import ConfigError
from vgg_jax.transfer.descriptors import Descriptor, kept_for, of_images, of_kept
from vgg_jax.transfer.probe import LinearProbe, provenance


def predict_by_probe(probe: LinearProbe, network: dict, paths: Sequence[Path], *, as_json: bool = False) -> int:
    """Prints the five classes of each image that a linear classifier prefers, with its decisions (App. B).

    Args:
      probe: the classifier.
      network: which networks its descriptors are of, in its order: what `find_targets` takes.
      paths: of the images.
      as_json: as in `predict`.

    Returns:
      How many images could not be read; these are reported, the others predicted.

    Raises:
      DataError: these are not the classifier's networks.
    """
    targets, kind, made = _descriptors_of(probe, network)
    options = {"threads": targets[0].config.data.threads, "batch_size": targets[0].config.evaluate.batch_size or None}
    nets, bad = [target.net for target in targets], 0
    for first in range(0, len(paths), AT_ONCE):
        problems: dict[str, str] = {}
        some = paths[first : first + AT_ONCE]
        found = of_images(nets, some, kind, flip=made["flip"], problems=problems, **options)
        decisions = iter(probe.decide(found, made))
        for path in map(str, some):
            if path in problems:
                record = {"image": path, "problem": problems[path]}
                bad += 1
            else:
                record = {"image": path, "classes": _preferred(probe, next(decisions))}
            show(record, as_json=as_json)
    return bad


def predict_boxes(probe: LinearProbe, network: dict, source: str, *, as_json: bool = False) -> int:
    """Prints of each box of a source what `predict_by_probe` prints of an image (App. B, actions).

    Args:
      source: of images with boxes, as `open_source` takes it; which of them, `config.evaluate.split` says.

    Returns:
      How many could not be read: these are reported where `config.data.on_error` is "skip", or else raised.

    Raises:
      DataError: the source is missing or has no boxes, or these are not the classifier's networks.
    """
    targets, kind, made = _descriptors_of(probe, network)
    config, regions = targets[0].config, probe.about["regions"]
    reading = {"on_error": config.data.on_error, "threads": config.data.threads}
    reading |= {"flip": made["flip"], "batch_size": config.evaluate.batch_size or None}
    images = checked(open_source(source, config.evaluate.split), on_error=config.data.on_error)
    parts = [EachBox(images, region) for region in regions]
    with tempfile.TemporaryDirectory() as store:
        kept = [kept_for(Path(store), target.net, part, [kind], **reading) for target in targets for part in parts]
        decisions = probe.decide(of_kept(kept, kind, np.arange(len(parts[0]))), made)
    problems = {name: reason for of in kept for name, reason in of.problems.items()}
    for index, values in enumerate(decisions):
        record = {"image": images.name_of(int(parts[0].image_of[index])), "box": parts[0].corners[index].tolist()}
        problem = problems.get(parts[0].name_of(index))
        record |= {"problem": problem} if problem else {"classes": _preferred(probe, values)}
        show(record, as_json=as_json)
    return len(problems)


def source_of(arguments: Sequence[str], probe: str) -> str:
    """The one argument, if it names a source."""
    if len(arguments) != 1 or ":" not in arguments[0]:
        raise ConfigError(
            f"{probe} decides on boxes: give, in place of images, one source that has them, boxes:FILE or voc:PATH, "
            "and --config.evaluate.split=SPLIT"
        )
    return arguments[0]


def _descriptors_of(probe: LinearProbe, network: dict) -> tuple[list[EvalTarget], Descriptor, dict]:
    """A classifier's networks, the kind of its descriptors, and how they are made."""
    if not network["checkpoint"] and not network["weights"]:
        raise ConfigError(
            f"which network? The classifier is of {' + '.join(probe.about['networks'])}: give --weights=SOURCE or "
            "--checkpoint=RUN, those that it was made with"
        )
    targets = [*find_targets(**network, partial=True)]
    kind = Descriptor(probe.about["layer"], tuple(probe.about["scales"]), probe.about["combine"])
    nets = [target.net for target in targets]
    return targets, kind, provenance(kind, nets, probe.about["flip"], probe.about["regions"])


def _preferred(probe: LinearProbe, decisions: np.ndarray) -> list[dict]:
    """The five classes with the largest decisions."""
    best = np.argsort(-decisions, kind="stable")[:5]
    return [{"name": probe.classes[c], "decision": round(float(decisions[c]), 6)} for c in best]
