"""--mode=predict: images in, their most probable classes and heat maps out (Sec. 3.2)."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vgg_jax.commands import box_predictions
from vgg_jax.commands.paths import images_of, picture_paths
from vgg_jax.commands.target import EvalTarget, find_target, find_targets
from vgg_jax.commands.transfer import PROBE
from vgg_jax.data.decode import decode
from vgg_jax.data.files import FileSource
from vgg_jax.data.objects import EachBox, checked
from vgg_jax.data.open import open_source
from vgg_jax.data.pipeline import ScaledExample, scaled_images
from vgg_jax.errors import ConfigError
from vgg_jax.files import printable
from vgg_jax.inference.score_map import HEAT_MAP, save_heat_map
from vgg_jax.inference.scorer import eval_views, posterior_runner, posteriors, scales_of
from vgg_jax.progress import Progress
from vgg_jax.transfer.descriptors import Descriptor, kept_for, of_images, of_kept
from vgg_jax.transfer.probe import LinearProbe, provenance

AT_ONCE = 256
"""Images in work at once: as many are predicted before the first is printed."""


def run(
    arguments: list[str],
    *,
    protocol: str,
    json: bool,
    heat_maps: str | None,
    boxes: str | None,
    all_boxes: bool,
    probe: str | None,
    **network,
) -> int:
    """The command: prints the five most probable classes or the boxes of each image, and what could not be read.

    Returns:
      1 if an image could not be read, else 0.
    """
    workdir = network["workdir"]
    if not probe and workdir and (Path(workdir) / PROBE).is_file():
        probe, network["workdir"] = str(Path(workdir) / PROBE), None
    if probe:
        if heat_maps or boxes or all_boxes or protocol != "dense":
            raise ConfigError(f"{probe}: a linear classifier has neither --heat_maps nor --boxes nor --protocol")
        classifier = LinearProbe.load(probe)
        if classifier.of_boxes:
            return 1 if predict_boxes(classifier, network, _source_of(arguments, probe), as_json=json) else 0
        return 1 if predict_by_probe(classifier, network, images_of(arguments), as_json=json) else 0
    paths = images_of(arguments)
    maps = Path(heat_maps) if heat_maps else None
    target = find_target(**network)
    if target.config.task == "localization":
        if maps or protocol != "dense":
            raise ConfigError(
                f"{target.name} predicts boxes: of a network that localizes there are no --heat_maps, and its "
                "--protocol is dense"
            )
        folder = Path(boxes) if boxes else None
        return 1 if box_predictions.predict(target, paths, as_json=json, boxes=folder, all_boxes=all_boxes) else 0
    if boxes or all_boxes:
        raise ConfigError(f"{target.name} predicts classes: --boxes and --all_boxes are for a network that localizes")
    return 1 if predict(target, paths, protocol=protocol, as_json=json, heat_maps=maps) else 0


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
            print(json.dumps(record) if as_json else _as_text(record), flush=True)
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
        print(json.dumps(record) if as_json else _as_text(record), flush=True)
    return len(problems)


def _source_of(arguments: Sequence[str], probe: str) -> str:
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


def predict(
    target: EvalTarget,
    paths: Sequence[Path],
    *,
    protocol: str = "dense",
    as_json: bool = False,
    heat_maps: Path | None = None,
) -> int:
    """Prints the five most probable classes of each image, at the scales of `target.scales`.

    Args:
      target: the network.
      paths: of the images.
      protocol: dense, crops, both or center.
      as_json: print one JSON object per image instead of text.
      heat_maps: a folder for pictures of the class-score maps over the images, at the largest scale.

    Returns:
      How many images could not be read; these are reported, the others predicted.

    Raises:
      ConfigError: the folder cannot be written to, or a picture would replace another file.
    """
    pictures = picture_paths(paths, heat_maps, "heat_maps", HEAT_MAP) if heat_maps else {}
    bad = 0
    for record, best in predictions(target, paths, protocol):
        print(json.dumps(record) if as_json else _as_text(record), flush=True)
        bad += best is None
        if pictures and best is not None:
            path = Path(record["image"])
            save_heat_map(pictures[path], target.net, decode(path.read_bytes()), max(target.scales), best, of=path)
            print(f"heat map: {printable(str(pictures[path]))}", file=sys.stderr)
    return bad


def predictions(target: EvalTarget, paths: Sequence[Path], protocol: str) -> Iterator[tuple[dict, int | None]]:
    """A record of each path and its best class's number, None if it could not be read.

    A record is `{"image": ..., "classes": [{"name": ..., "probability": ...}, ...]}`, five of them, the most probable
    first, or `{"image": ..., "problem": ...}`.
    """
    net, config, views = target.net, target.config, eval_views([protocol], target.scales)
    names = net.classes or tuple(f"class {number}" for number in range(net.num_classes))
    runner = posterior_runner(net, views, config.data.flip, batch_size=config.evaluate.batch_size or None)
    options = {"threads": config.data.threads, "on_error": "skip"}
    progress, done = Progress("scores"), 0
    for first in range(0, len(paths), AT_ONCE):
        some = paths[first : first + AT_ONCE]
        problems: dict[int, str] = {}
        means = np.zeros((len(some), net.num_classes), np.float32)
        with scaled_images(FileSource(some), range(len(some)), scales_of(views), **options) as examples:
            for place, _, posterior in posteriors(runner, _noting(problems, examples), views):
                means[place] += posterior / len(views)
                done += 1
                progress(done, len(paths) * len(views))
        progress.clear()
        for place, (path, mean) in enumerate(zip(some, means, strict=True)):
            if problems[place]:
                yield {"image": str(path), "problem": problems[place]}, None
            else:
                best = np.argsort(-mean, kind="stable")[:5]
                classes = [{"name": names[number], "probability": round(float(mean[number]), 6)} for number in best]
                yield {"image": str(path), "classes": classes}, int(best[0])


def _noting(problems: dict[int, str], examples: Iterable[ScaledExample]) -> Iterator[ScaledExample]:
    for example in examples:
        problems[example.index] = example.problem
        yield example


def _as_text(record: dict) -> str:
    image = printable(record["image"])
    image += f"  box {', '.join(f'{edge:g}' for edge in record['box'])}" if "box" in record else ""
    if "problem" in record:
        return f"{image}\n  no prediction: {record['problem']}"
    sure = lambda c: f"{c['probability']:6.1%}" if "probability" in c else f"{c['decision']:+6.2f}"
    return "\n".join([image, *(f"  {sure(c)}  {printable(c['name'])}" for c in record["classes"])])
