"""--mode=predict: images in, their most probable classes and heat maps out (Sec. 3.2)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vgg_jax.commands import box_predictions
from vgg_jax.commands.paths import images_of, picture_paths
from vgg_jax.commands.probe_predictions import predict_boxes, predict_by_probe, source_of
from vgg_jax.commands.records import AT_ONCE, show
from vgg_jax.commands.target import EvalTarget, find_target
from vgg_jax.commands.transfer import PROBE
from vgg_jax.data.decode import decode
from vgg_jax.data.files import FileSource
from vgg_jax.data.pipeline import scaled_images
from vgg_jax.data.rescaling import ScaledExample
from vgg_jax.errors import ConfigError
from vgg_jax.files import printable
from vgg_jax.inference.heat_map import HEAT_MAP, save_heat_map
from vgg_jax.inference.scorer import eval_views, posterior_runner, posteriors, scales_of
from vgg_jax.progress import Progress
from vgg_jax.transfer.probe import LinearProbe


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
    if not probe and workdir and os.path.isfile(own := os.path.join(workdir, PROBE)):
        probe, network["workdir"] = own, None
    if probe:
        if heat_maps or boxes or all_boxes or protocol != "dense":
            raise ConfigError(f"{probe}: a linear classifier has neither --heat_maps nor --boxes nor --protocol")
        classifier = LinearProbe.load(probe)
        if classifier.of_boxes:
            return 1 if predict_boxes(classifier, network, source_of(arguments, probe), as_json=json) else 0
        return 1 if predict_by_probe(classifier, network, images_of(arguments), as_json=json) else 0
    paths = images_of(arguments)
    target = find_target(**network)
    if target.config.task == "localization":
        if heat_maps or protocol != "dense":
            raise ConfigError(
                f"{target.name} predicts boxes: of a network that localizes there are no --heat_maps, and its "
                "--protocol is dense"
            )
        return 1 if box_predictions.predict(target, paths, as_json=json, boxes=boxes, all_boxes=all_boxes) else 0
    if boxes or all_boxes:
        raise ConfigError(f"{target.name} predicts classes: --boxes and --all_boxes are for a network that localizes")
    return 1 if predict(target, paths, protocol=protocol, as_json=json, heat_maps=heat_maps) else 0


def predict(
    target: EvalTarget,
    paths: Sequence[Path],
    *,
    protocol: str = "dense",
    as_json: bool = False,
    heat_maps: str | None = None,
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
        show(record, as_json=as_json)
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
    runner = posterior_runner(net, config.data.flip, batch_size=config.evaluate.batch_size or None)
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
