"""--mode=predict of runs that localize: boxes in pixels of the image, printed and drawn over it (App. A)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vgg_jax.commands.labels import classifier_of, names_in, rows_of
from vgg_jax.commands.paths import picture_paths
from vgg_jax.commands.records import AT_ONCE, show
from vgg_jax.commands.target import EvalTarget
from vgg_jax.data.decode import decode
from vgg_jax.data.files import FileSource
from vgg_jax.data.pipeline import scaled_images
from vgg_jax.errors import ConfigError
from vgg_jax.evaluate.localization import TOP
from vgg_jax.evaluate.posteriors import read
from vgg_jax.files import printable
from vgg_jax.inference.box_picture import BOXES, save_box_picture
from vgg_jax.inference.dense_boxes import Classifier, DenseBoxes, PlacedBoxes
from vgg_jax.inference.localization import Asked, PredictedBoxes, asked_classes, best_boxes, merged_boxes


def predict(
    target: EvalTarget, paths: Sequence[Path], *, as_json: bool, boxes: str | None = None, all_boxes: bool = False
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
    merging = {"match": local.match, "threshold": local.threshold}
    bad = 0
    for place, (path, placed, problem) in enumerate(_dense(target, paths, asked, classifier_of(target.config, names))):
        if problem := problem or problems.get(place):
            record, bad = {"image": str(path), "problem": problem}, bad + 1
        else:
            found = best_boxes(placed, asked[place], **merging)
            record = {"image": str(path), "boxes": _entries(found, names)}
        show(record, as_json=as_json)
        if pictures and not problem:
            named = list(zip([entry["name"] or "object" for entry in record["boxes"]], found.corners[:, None]))
            panels = {f"{path.stem}: {len(named)} boxes": named}
            if all_boxes:
                columns = list(zip([name for name, _ in named], np.moveaxis(placed.corners, 1, 0)))
                ones = np.ones((len(placed.corners), 1))
                merged = [(name, merged_boxes(each, placed.size, ones, **merging)[0]) for name, each in columns]
                panels |= {f"all {len(ones)} places": columns, "merged": merged}
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
    classes = target.classes if net.num_classes > 4 else found.classes
    rows, problems = rows_of(found, file, names_in(found, file, paths), classes, target.name)
    return asked_classes(net, rows, len(paths), TOP), classes, problems


def _dense(
    target: EvalTarget, paths: Sequence[Path], asked: Sequence[Asked], classifier: Classifier | None
) -> Iterator[tuple[Path, PlacedBoxes | None, str]]:
    """Each image with all its boxes, or why it could not be read, in order."""
    config, scales = target.config, target.scales
    size, reading = config.evaluate.batch_size or None, {"threads": config.data.threads, "on_error": "skip"}
    dense = DenseBoxes([target.net], scales, config.data.flip, classifier=classifier, batch_size=size)
    for first in range(0, len(paths), AT_ONCE):
        some, problems = paths[first : first + AT_ONCE], {}
        examples = lambda some=some: scaled_images(FileSource(some), range(len(some)), scales, **reading)
        found = dense(examples, [one.classes for one in asked[first : first + AT_ONCE]], problems)
        for place, path in enumerate(some):
            yield path, found.get(place), problems.get(place, "")


def _entries(found: PredictedBoxes, names: Sequence[str]) -> list[dict]:
    """The boxes as in JSON."""
    entries = []
    for corners, number, score in zip(*found, strict=True):
        name = names[number] if number >= 0 else (names[0] if len(names) == 1 else None)
        edges = zip(("left", "top", "right", "bottom"), (round(float(edge), 2) for edge in corners), strict=True)
        entries.append({"name": name, "score": round(float(score), 6), **dict(edges)})
    return entries
