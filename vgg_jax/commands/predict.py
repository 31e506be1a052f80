"""An image in, classes and a heat map out (Sec. 3.2): the class-score map is what dense evaluation gives for free."""

from __future__ import annotations

import functools
import glob
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from vgg_jax.commands.target import EvalTarget
from vgg_jax.config import eval_scale
from vgg_jax.data.bad_images import error_reason
from vgg_jax.data.decode import decode, rescale
from vgg_jax.data.folder import SUFFIXES
from vgg_jax.errors import ConfigError, DataError
from vgg_jax.inference.buckets import ScaledImage, bucket_of, check_size, packed
from vgg_jax.inference.scorer import Scoring, eval_views
from vgg_jax.model.vgg import VGG


class Prediction(NamedTuple):
    """What a network makes of one image."""

    path: Path
    classes: tuple[tuple[str, float], ...]
    """The five most probable, names and probabilities."""
    problem: str
    """Why the image could not be read, or ""."""


def predict(
    target: EvalTarget, arguments: Sequence[str], *, as_json: bool = False, heat_maps: Path | None = None
) -> int:
    """Prints the five most probable classes of each image, by the last of `config.evaluate.protocols`.

    Args:
      target: the network.
      arguments: images, folders of images, or patterns.
      as_json: print one JSON object an image instead of text.
      heat_maps: a folder for pictures of the class-score maps over the images.

    Returns:
      How many images could not be read; these are reported, the others predicted.

    Raises:
      ConfigError: there are no images, or the folder cannot be written to.
    """
    paths = list(dict.fromkeys(path for argument in arguments for path in images_of(argument)))
    if not paths:
        raise ConfigError("--mode=predict takes images, folders or patterns: --mode=predict --workdir=RUN photo.jpg")
    if heat_maps:
        try:
            heat_maps.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--heat_maps={heat_maps}: cannot be written: {error.strerror}") from error
    bad = 0
    for prediction in predictions(target, paths):
        bad += bool(prediction.problem)
        print(_as_json(prediction) if as_json else _as_text(prediction), flush=True)
        if heat_maps and not prediction.problem:
            picture = heat_maps / f"{prediction.path.stem}.png"
            draw_heat_map(picture, target, decode(prediction.path.read_bytes()), prediction.classes[0][0])
            print(f"heat map: {picture}", file=sys.stderr)
    return bad


def images_of(argument: str) -> list[Path]:
    """The images that an argument names: a file, the images below a folder, or what a pattern matches.

    Raises:
      ConfigError: there are none.
    """
    path = Path(argument).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not found:
            raise ConfigError(f"{argument}: no images ({' '.join(sorted(SUFFIXES))}) in this folder")
        return found
    found = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
    if not found:
        raise ConfigError(f"{argument}: there is no such image, folder, or match of this pattern")
    return found


def predictions(target: EvalTarget, paths: Sequence[Path]) -> Iterator[Prediction]:
    """Predictions in the order of the paths, a few hundred images in work at once."""
    config = target.config
    scales = tuple(config.evaluate.scales) or (eval_scale(config),)
    views = eval_views([config.evaluate.protocols[-1]], scales)
    scoring = Scoring(target.net, views, config.data.flip, batch_size=config.evaluate.batch_size or None)
    names = target.net.classes or tuple(f"class {number}" for number in range(target.net.num_classes))
    for some in _parts(paths, 256):
        problems: dict[int, str] = {}

        def read(place: int, some=some, problems=problems) -> np.ndarray | None:
            try:
                image = decode(some[place].read_bytes())
                scoring.check(image)
            except (OSError, DataError) as error:
                problems[place] = error_reason(error)
                return None
            return image

        posteriors = np.zeros((len(some), len(names)), np.float32)
        with scoring.scaled_images(read, range(len(some)), config.data.threads) as images:
            for place, _, posterior in scoring.score(images):
                posteriors[place] += posterior / len(views)
        for place, path in enumerate(some):
            best = np.argsort(-posteriors[place], kind="stable")[:5]
            classes = tuple((names[number], float(posteriors[place, number])) for number in best)
            yield Prediction(path, () if place in problems else classes, problems.get(place, ""))


def class_score_map(net: VGG, image: np.ndarray, scale: int) -> Float[np.ndarray, "h w classes"]:
    """The map of posteriors of one image: the soft-max at every place of the class-score map (Sec. 3.2).

    Place (i, j) sees the square of the rescaled image that begins at (32 i, 32 j), as wide as the net's crop, and its
    surroundings.

    Args:
      net: the network.
      image: RGB uint8 (height, width, 3).
      scale: Q, what the image's smaller side is rescaled to, in pixels.

    Raises:
      DataError: the image is too elongated.
    """
    check_size(image, (scale,))
    view = ScaledImage(None, rescale(image, scale), None)
    batch = packed(bucket_of(view), [view], 1, net.crop)
    scores = _score_map(nnx.graphdef(net), nnx.state(net), batch.images, batch.sizes)
    height, width = net.map_sizes(batch.sizes)[0]
    return np.asarray(jax.nn.softmax(scores[0, :height, :width]))


@functools.partial(jax.jit, static_argnums=0)
def _score_map(graphdef, state, images, sizes):
    return nnx.merge(graphdef, state)(images, sizes=sizes)


def draw_heat_map(path: Path, target: EvalTarget, image: np.ndarray, name: str) -> None:
    """Writes a PNG: the image, and over it the probability of one class at every place of the map."""
    from matplotlib.figure import Figure

    net, config = target.net, target.config
    scale = max(tuple(config.evaluate.scales) or (eval_scale(config),))
    number = net.classes.index(name) if net.classes else int(name.removeprefix("class "))
    heat = class_score_map(net, image, scale)[:, :, number]
    shown = rescale(image, scale)
    # A place is drawn as the 32 x 32 pixels in the middle of the crop that it sees.
    edge, stride = (net.crop - net.spec.stride) / 2, net.spec.stride
    extent = (edge, edge + stride * heat.shape[1], edge + stride * heat.shape[0], edge)
    figure = Figure(figsize=(9, 4.5 * shown.shape[0] / shown.shape[1] + 0.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(shown)
    left.set_title(path.stem, fontsize=9)
    right.imshow(shown.mean(-1), cmap="gray", vmin=0, vmax=255)
    over = right.imshow(heat, extent=extent, cmap="inferno", alpha=0.6, vmin=0, vmax=1, interpolation="nearest")
    right.set(xlim=left.get_xlim(), ylim=left.get_ylim())
    right.set_title(f"{name}: {heat.shape[0]} x {heat.shape[1]} places at Q = {scale}", fontsize=9)
    for axes in (left, right):
        axes.set_axis_off()
    figure.colorbar(over, ax=right, shrink=0.8, label="probability")
    figure.savefig(path, dpi=120)


def _as_text(prediction: Prediction) -> str:
    if prediction.problem:
        return f"{prediction.path}\n  no prediction: {prediction.problem}"
    lines = [f"  {probability:6.1%}  {name}" for name, probability in prediction.classes]
    return "\n".join([str(prediction.path), *lines])


def _as_json(prediction: Prediction) -> str:
    record: dict = {"image": str(prediction.path)}
    if prediction.problem:
        record["problem"] = prediction.problem
    else:
        record["classes"] = [{"name": name, "probability": round(p, 6)} for name, p in prediction.classes]
    return json.dumps(record)


def _parts(items: Sequence[Path], size: int) -> Iterable[Sequence[Path]]:
    return (items[first : first + size] for first in range(0, len(items), size))
