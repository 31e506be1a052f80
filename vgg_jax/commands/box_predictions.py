"""--mode=predict of runs that localize: boxes in pixels of the image, printed and drawn over it (App. A)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vgg_jax.commands.labels import TOP, Classifier, classifier_of, names_in, rows_of
from vgg_jax.commands.paths import picture_paths
from vgg_jax.commands.records import AT_ONCE, show
from vgg_jax.commands.target import EvalTarget
from vgg_jax.data.decode import decode
from vgg_jax.data.files import FileSource
from vgg_jax.data.pipeline import scaled_images
from vgg_jax.data.rescaling import ScaledExample
from vgg_jax.errors import ConfigError, DataError
from vgg_jax.evaluate.posteriors import read
from vgg_jax.files import printable
from vgg_jax.inference.box_picture import BOXES, save_box_picture
from vgg_jax.inference.localization import (
    Asked,
    PredictedBoxes,
    asked_classes,
    best_boxes,
    box_runner,
    dense_boxes,
    dense_rates,
    merged_boxes,
    rating_runner,
)
from vgg_jax.weights.classes import positions


def predict(
    target: EvalTarget, paths: Sequence[Path], *, as_json: bool, boxes: Path | None = None, all_boxes: bool = False
) -> int:
    """Prints the boxes in each image, at the scales of `target.scales`, in pixels of the image.

    Args:
      target: the network.
      paths: of the images.
      as_json: print one JSON object per image instead of text.
      boxes: a folder for pictures of the boxes over the images.
      all_boxes: whether the pictures also have all dense boxes, before and after they are merged.

    Returns:
      How many images could not be read; these are reported, the others predicted.

    Raises:
      ConfigError: there are no posteriors where they are needed; a picture cannot be written, or would replace another
        file.
    """
    if all_boxes and not boxes:
        raise ConfigError("--all_boxes are drawn into the pictures of --boxes=FOLDER, which is not given")
    asked, names, problems = _asked_of(target, paths)
    pictures = picture_paths(paths, boxes, "boxes", BOXES) if boxes else {}
    local = target.config.localization
    if local.classifier and not local.posteriors:
        raise ConfigError(
            "config.localization.classifier rates the boxes of classes: --config.localization.posteriors=FILE says of "
            "which, by its posteriors of these images"
        )
    judge, bad = classifier_of(target.config, names), 0
    for place, (path, corners, rates, example) in enumerate(_dense(target, paths, asked, judge)):
        if problem := example.problem or problems.get(place):
            record, bad = {"image": str(path), "problem": problem}, bad + 1
        else:
            merging = {"match": local.match, "threshold": local.threshold}
            found = best_boxes(corners, asked[place], example.size, rates, **merging)
            record = {"image": str(path), "boxes": _entries(found, names)}
        show(record, as_json=as_json)
        if pictures and not problem:
            named = list(zip([entry["name"] or "object" for entry in record["boxes"]], found.corners[:, None]))
            panels = {f"{path.stem}: {len(named)} boxes": named}
            if all_boxes:
                columns = list(zip([name for name, _ in named], np.moveaxis(corners, 1, 0)))
                ones = np.ones((len(corners), 1))
                merged = [(name, merged_boxes(each, example.size, ones, **merging)[0]) for name, each in columns]
                panels |= {f"all {len(corners)} places": columns, "merged": merged}
            save_box_picture(pictures[path], decode(path.read_bytes()), panels, of=path)
            print(f"boxes: {printable(str(pictures[path]))}", file=sys.stderr)
    return bad


def _asked_of(target: EvalTarget, paths: Sequence[Path]) -> tuple[list[Asked], Sequence[str], dict[int, str]]:
    """The classes that have a box in each image, the names of all classes, and which images have no posteriors."""
    net, file = target.net, target.config.localization.posteriors
    if not file:
        if net.num_classes > 4:
            raise ConfigError(
                f"{target.name} has a box for each of {len(target.classes)} classes, and does not say which class is "
                "in an image: --config.localization.posteriors=FILE gives a classification run's posteriors of these"
            )
        return asked_classes(net, None, len(paths), TOP), target.classes if len(target.classes) == 1 else (), {}
    found = read(Path(file))
    if net.num_classes > 4:
        order, unknown = positions(target.classes, found.classes)
        if unknown or len(found.classes) != len(target.classes):
            raise DataError(f"config.localization.posteriors={file!r}: its classes are not those of {target.name}")
        names = target.classes
    else:
        order, names = np.arange(len(found.classes)), found.classes
    rows, problems = rows_of(found, file, names_in(found, file, paths))
    return asked_classes(net, rows[:, order], len(paths), TOP), names, problems


def _dense(
    target: EvalTarget, paths: Sequence[Path], asked: Sequence[Asked], judge: Classifier | None
) -> Iterator[tuple[Path, np.ndarray | None, np.ndarray | None, ScaledExample]]:
    """Each image with all its dense boxes and what they are rated by, in order."""
    config, scales = target.config, target.scales
    options = {"batch_size": config.evaluate.batch_size or None}
    reading = {"threads": config.data.threads, "on_error": "skip"}
    passes = [(dense_boxes, box_runner(target.net, scales, config.data.flip, **options), lambda classes: classes)]
    if judge:
        runner = rating_runner(judge.net, [target.net], scales, config.data.flip, **options)
        passes.append((dense_rates, runner, lambda classes: judge.outputs[classes]))
    for first in range(0, len(paths), AT_ONCE):
        some, of = paths[first : first + AT_ONCE], asked[first : first + AT_ONCE]
        seen: dict[int, ScaledExample] = {}

        def noted(examples: Iterable[ScaledExample], seen=seen) -> Iterator[ScaledExample]:
            for example in examples:
                seen[example.index] = example._replace(images=())
                yield example

        found = []
        for function, runner, outputs in passes:
            with scaled_images(FileSource(some), range(len(some)), scales, **reading) as examples:
                classes = lambda index, of=of, outputs=outputs: outputs(of[index].classes)
                found.append(dict(function(runner, noted(examples), classes)))
        for place, path in enumerate(some):
            keys = [(place, number) for number in range(len(scales)) if (place, number) in found[0]]
            values = [np.concatenate([each[key] for key in keys]) if keys else None for each in found]
            yield path, values[0], values[1] if judge else None, seen[place]


def _entries(found: PredictedBoxes, names: Sequence[str]) -> list[dict]:
    """The boxes as in JSON."""
    entries = []
    for corners, number, score in zip(*found, strict=True):
        name = names[number] if number >= 0 else (names[0] if len(names) == 1 else None)
        edges = zip(("left", "top", "right", "bottom"), (round(float(edge), 2) for edge in corners), strict=True)
        entries.append({"name": name, "score": round(float(score), 6), **dict(edges)})
    return entries
