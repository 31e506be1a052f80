"""Protocol 2 of localization: boxes of a network that is applied densely, at one or several Q, merged (App. A).

Place (i, j) of the map sees the crop-sized window of the rescaled image that begins at (32 i, 32 j), and predicts boxes
relative to it. Boxes of the mirror image are mirrored back. All of them, in pixels of the image as it was decoded, are
merged, of all Q and all networks together: a class's own boxes where there is one per class (PCR), the shared ones
otherwise (SCR). A box of class c has, for each window that it was made of, the posterior of c there: what a network
that classifies makes of the same window, or without one the posterior of the whole image, so that all windows count
alike. The best box is the answer for its class, cut off at the image's borders.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from vgg_jax.data.boxes import from_window
from vgg_jax.data.rescaling import ScaledExample
from vgg_jax.errors import ConfigError
from vgg_jax.inference.arrays import check_scales, scaled_arrays
from vgg_jax.inference.buckets import ScaledImage
from vgg_jax.inference.merge import merge
from vgg_jax.inference.runner import Function, Maps, Runner, with_mirror_images
from vgg_jax.model.box_outputs import boxes_of
from vgg_jax.model.vgg import VGG

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt8


class PredictedBoxes(NamedTuple):
    """What is where in an image: a box for each class that it may be of, the most probable class first."""

    corners: Float[np.ndarray, "k 4"]
    """Left, top, right, bottom in pixels of the image."""
    classes: Int[np.ndarray, " k"]
    """Their numbers; -1 where none is known."""
    scores: Float[np.ndarray, " k"]
    """The class's posteriors, summed over the windows that agree on the box."""


def localize(
    nets: VGG | Sequence[VGG],
    images: Sequence[UInt8[np.ndarray, "h w 3"]],
    posteriors: Float[np.ndarray, "n classes"] | None = None,
    *,
    classifier: VGG | None = None,
    scales: Sequence[int] = (256,),
    flip: bool = True,
    top: int = 5,
    match: str = "iou",
    threshold: float = 0.5,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> list[PredictedBoxes]:
    """Where the objects in images are, by protocol 2: densely, at every Q, with the mirror image, merged.

        net, classifier = vgg_jax.load("runs/boxes"), vgg_jax.load("runs/D")
        posteriors = vgg_jax.Scorer(classifier, (384,))(images)
        found = vgg_jax.localize(net, images, posteriors, classifier=classifier, scales=(352, 384))

    Args:
      nets: a network that predicts boxes, or several, whose boxes are merged together.
      images: RGB uint8 arrays (height, width, 3) of any sizes.
      posteriors: of the classes in each image, by a network that classifies. A row with a single 1 asks for the box of
        a class that is given. They can be left out where boxes are not of one class among several; every window then
        counts 1.
      classifier: a network of the same crop that rates the windows: one counts as much as its posterior of the class.
        Without it all windows of an image count alike.
      scales: the test scales Q: what an image's smaller side is rescaled to, in pixels.
      flip: whether the mirror image counts too.
      top: how many of the most probable classes have a box; those of posterior 0 have none, nor those whose
        posterior is no number.
      match, threshold: which boxes are merged, as in `vgg_jax.inference.merge.merge`, in units of the image's longer
        side.
      batch_size, mesh: as in `vgg_jax.inference.runner.Runner`.

    Raises:
      ConfigError: a network has outputs that are no boxes, the networks' differ, posteriors are missing or of another
        shape, or not of the classifier's classes, its crop is another, a scale is smaller than a net's crop, or `top`
        is below 1.
      DataError: an image is of another type or shape, or too elongated; the message says which. Or a
        network's boxes are not finite.

    >>> from flax import nnx
    >>> net = VGG("A", num_classes=4, crop=32, width=0.0625, rngs=nnx.Rngs(0))
    >>> found = localize(net, [np.zeros((50, 70, 3), np.uint8)], scales=(32, 40))
    >>> found[0].corners.shape, found[0].classes.tolist()
    ((1, 4), [-1])
    """
    nets = [nets] if isinstance(nets, VGG) else list(nets)
    asked = asked_classes(nets[0], posteriors, len(images), top)
    options = {"batch_size": batch_size, "mesh": mesh}
    runners = [box_runner(net, scales, flip, **options) for net in nets]
    if len({net.num_classes for net in nets}) > 1:
        raise ConfigError(f"nets of {', '.join(str(net.num_classes // 4) for net in nets)} boxes cannot be merged")
    classes = lambda index: asked[index].classes
    rates: dict[Place, np.ndarray] = {}
    if classifier is not None:
        if posteriors is None or np.shape(posteriors)[1] != classifier.num_classes:
            raise ConfigError(f"posteriors of the {classifier.num_classes} classes of the classifier are missing")
        with scaled_arrays(images, scales) as examples:
            rates = dict(dense_rates(rating_runner(classifier, nets, scales, flip, **options), examples, classes))
    boxes: list[dict[Place, np.ndarray]] = []
    for runner in runners:
        with scaled_arrays(images, scales) as examples:
            boxes.append(dict(dense_boxes(runner, examples, classes)))
    found = []
    for index, image in enumerate(images):
        places = [(index, number) for number in range(len(scales))]
        corners = np.concatenate([of[place] for of in boxes for place in places])
        rated = np.concatenate([rates[place] for _ in boxes for place in places]) if rates else None
        size = image.shape[:2]
        found.append(best_boxes(corners, asked[index], size, rated, match=match, threshold=threshold))
    return found


Place = tuple[int, int]
"""An example's index, and the number of one of its scales."""


class Asked(NamedTuple):
    """The classes that have a box in an image."""

    classes: Int[np.ndarray, " k"]
    """The most probable first; -1 where none is known."""
    posteriors: Float[np.ndarray, " k"]


def asked_classes(net: VGG, posteriors: Float[np.ndarray, "n classes"] | None, count: int, top: int) -> list[Asked]:
    """The `top` most probable classes of each of `count` images, of equal ones the first; as in `localize`.

    Raises:
      ConfigError: the network has outputs that are no boxes; posteriors are missing, or of another shape; `top` is
        below 1.
    """
    if top < 1:
        raise ConfigError(f"top={top}: the number of most probable classes that have a box is 1 at least")
    boxes, rest = divmod(net.num_classes, 4)
    if rest:
        raise ConfigError(
            f"a net of {net.num_classes} outputs predicts no boxes, of which each takes 4: train one with "
            "config.task='localization'"
        )
    if posteriors is None:
        if boxes > 1:
            raise ConfigError(
                f"posteriors are missing: the net has a box for each of {boxes} classes, and does not say which class "
                "is in the image; give those of a network that classifies, or rows with a 1 for the class"
            )
        return [Asked(np.array([-1]), np.ones(1))] * count
    shape = np.shape(posteriors)
    if len(shape) != 2 or shape[0] != count or boxes not in (1, shape[1]):
        raise ConfigError(f"posteriors of shape {shape}: expected ({count}, {boxes if boxes > 1 else 'classes'})")
    best = np.argsort(-np.asarray(posteriors), axis=1, kind="stable")[:, :top]
    kept = [classes[row[classes] > 0] for row, classes in zip(posteriors, best, strict=True)]
    return [Asked(classes, row[classes]) for row, classes in zip(posteriors, kept, strict=True)]


def box_runner(
    net: VGG, scales: Sequence[int], flip: bool, *, batch_size: int | None = None, mesh: Mesh | None = None
) -> Runner:
    """A runner for `dense_boxes`, with the mirror image or without; raises ConfigError for a scale below the crop."""
    check_scales(scales, net.crop)
    return Runner(net, _function(flip), smallest=net.crop, batch_size=batch_size, mesh=mesh)


def rating_runner(classifier: VGG, nets: Iterable[VGG], scales: Sequence[int], flip: bool, **options) -> Runner:
    """A runner for `dense_rates`, of the windows that networks localize in; `options` as in `box_runner`.

    Raises:
      ConfigError: the classifier's windows are others, or a scale is below the crop.
    """
    check_scales(scales, classifier.crop)
    if other := {net.crop for net in nets} - {classifier.crop}:
        raise ConfigError(
            f"the classifier sees windows of {classifier.crop} pixels, the network that localizes of {other.pop()}: it "
            "cannot rate them; take one of the same crop"
        )
    return Runner(classifier, _function(flip, jax.nn.softmax), smallest=classifier.crop, **options)


def dense_maps(
    net: VGG,
    images: UInt8[Array, "n h w 3"],
    sizes: Int[Array, "n 2"],
    *,
    flip: bool,
    of: Callable[[Array], Array] | None = None,
) -> dict[str, Maps]:
    """The outputs of a network at every place of images in the upper left corners of a bucket.

    Args:
      net: the network.
      images, sizes: as a `Runner` gives them.
      flip: whether `mirrored` is among the outputs: those of the mirror image, as it is.
      of: what is made of the outputs.
    """
    both, both_sizes = with_mirror_images(images, sizes) if flip else (images, sizes)
    outputs = net(both, sizes=both_sizes)
    outputs = of(outputs) if of else outputs
    outputs = outputs.reshape(len(images), 1 + flip, *outputs.shape[1:])
    names = ("upright", "mirrored")[: 1 + flip]
    return {name: Maps(outputs[:, number], net.map_sizes(sizes)) for number, name in enumerate(names)}


@functools.cache
def _function(flip: bool, of: Callable[[Array], Array] | None = None) -> Function:
    """One for each of these, so that programs are shared."""
    return functools.partial(dense_maps, flip=flip, of=of)


def dense_boxes(
    runner: Runner, examples: Iterable[ScaledExample], classes: Callable[[int], Int[np.ndarray, " k"]]
) -> Iterator[tuple[Place, Float[np.ndarray, "places k 4"]]]:
    """The boxes that a network predicts at every place of an image and its mirror image.

    Args:
      runner: from `box_runner`.
      examples: images at one or more scales; those that could not be read have no boxes.
      classes: of the example of an index, of which classes boxes are wanted.

    Yields:
      ((the example's index, the scale's number), corners in pixels of the image as it was decoded), once for every
      scale of every example, in whatever order is fast. A box for all classes alike (SCR) is there once.
    """
    net = runner.net
    for (index, number, size, scaled), outputs in runner(_scaled_images(examples)):
        found = []
        for name in sorted(outputs, reverse=True):  # upright first
            boxes = boxes_of(outputs[name])
            boxes = boxes if boxes.shape[2] == 1 else boxes[:, :, classes(index)]
            corners = from_window(boxes, windows(net, boxes.shape[:2])[:, :, None])
            if name == "mirrored":
                left, top, right, bottom = np.moveaxis(corners, -1, 0)
                corners = np.stack([scaled[1] - right, top, scaled[1] - left, bottom], -1)
            found += list(corners)  # row by row
        yield (index, number), np.concatenate(found) * np.tile(np.divide(size, scaled)[::-1], 2)


def dense_rates(
    runner: Runner, examples: Iterable[ScaledExample], classes: Callable[[int], Int[np.ndarray, " k"]]
) -> Iterator[tuple[Place, Float[np.ndarray, "places k"]]]:
    """The posteriors that a classifier has of some classes at the places of `dense_boxes`, in the same order.

    Args:
      runner: from `rating_runner`.
      examples, classes: as in `dense_boxes`; the classes are those of the classifier.
    """
    for (index, number, *_), outputs in runner(_scaled_images(examples)):
        maps = [outputs[name][:, :, classes(index)] for name in sorted(outputs, reverse=True)]
        yield (index, number), np.concatenate([row for values in maps for row in values])


def _scaled_images(examples: Iterable[ScaledExample]) -> Iterator[ScaledImage]:
    for example in examples:
        for number, image in enumerate(example.images):
            yield ScaledImage((example.index, number, example.size, image.shape[:2]), image)


def windows(net: VGG, shape: tuple[int, int]) -> Float[np.ndarray, "h w 4"]:
    """What each place of a map of a network sees of the rescaled image, in its pixels: top, left, height, width.

    A pool drops what is odd at the right and at the bottom, so the first window begins at (0, 0) whatever the size.
    """
    top, left = net.spec.stride * np.indices(shape).astype(np.float64)
    return np.stack([top, left, np.full(shape, net.crop), np.full(shape, net.crop)], -1)


def best_boxes(
    corners: Float[np.ndarray, "places n 4"],
    asked: Asked,
    size: tuple[int, int],
    rates: Float[np.ndarray, "places k"] | None = None,
    *,
    match: str,
    threshold: float,
) -> PredictedBoxes:
    """The best merged box of each class.

    Args:
      corners: in pixels of the image, one for each class that is asked for or a single one for all.
      asked: the classes.
      size: height and width of the image.
      rates: what each place counts for each class; by default the class's posterior.
      match, threshold: as in `vgg_jax.inference.merge.merge`.
    """
    counts = np.ones((len(corners), len(asked.classes))) if rates is None else rates
    of_class = counts.T[:, :, None] if corners.shape[1] != 1 else [counts]  # SCR: boxes are merged once for all classes
    best, scores = [np.zeros((0, 4))], [np.zeros(0)]
    for boxes, rated in zip(np.moveaxis(corners, 1, 0), of_class, strict=True):
        merged, totals = merged_boxes(boxes, size, rated, match=match, threshold=threshold)
        best.append(merged[totals.argmax(0)])
        scores.append(totals.max(0))
    height, width = size
    scores = np.concatenate(scores) * (asked.posteriors if rates is None else 1)
    return PredictedBoxes(np.clip(np.concatenate(best), 0, [width, height] * 2), asked.classes, scores)


def merged_boxes(
    corners: Float[np.ndarray, "n 4"],
    size: tuple[int, int],
    rates: Float[np.ndarray, "n k"],
    *,
    match: str,
    threshold: float,
) -> tuple[Float[np.ndarray, "m 4"], Float[np.ndarray, "m k"]]:
    """An image's boxes merged, in units of its longer side, and the sum of what their places count."""
    boxes, totals = merge(corners / max(size), rates, match, threshold)
    return boxes * max(size), totals
