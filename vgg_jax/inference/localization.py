"""Protocol 2 of localization: boxes of a network that is applied densely, at one or several Q, merged (App. A).

All boxes of an image (`vgg_jax.inference.dense_boxes`) are merged, of all Q and all networks together: a class's own
boxes where there is one per class (PCR), the shared ones otherwise (SCR). A box of class c has, for each window that it
was made of, the posterior of c there: what a network that classifies makes of the same window, or without one the
posterior of the whole image, so that all windows count alike. The best box is the answer for its class, cut off at the
image's borders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jax.sharding import Mesh

from vgg_jax.errors import ConfigError
from vgg_jax.inference.arrays import check_net, networks, scaled_arrays
from vgg_jax.inference.dense_boxes import Classifier, DenseBoxes, PlacedBoxes
from vgg_jax.inference.merge import merge
from vgg_jax.model.vgg import VGG

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8


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
    nets = networks(nets)
    asked = asked_classes(nets[0], posteriors, len(images), top)
    if len({net.num_classes for net in nets}) > 1:
        raise ConfigError(f"nets of {', '.join(str(net.num_classes // 4) for net in nets)} boxes cannot be merged")
    rating = None
    if classifier is not None:
        check_net(classifier)
        if posteriors is None or np.shape(posteriors)[1] != classifier.num_classes:
            raise ConfigError(f"posteriors of the {classifier.num_classes} classes of the classifier are missing")
        rating = Classifier(classifier, np.arange(classifier.num_classes))
    dense = DenseBoxes(nets, scales, flip, classifier=rating, batch_size=batch_size, mesh=mesh)
    found = dense(lambda: scaled_arrays(images, scales), [one.classes for one in asked], {})
    return [best_boxes(found[index], one, match=match, threshold=threshold) for index, one in enumerate(asked)]


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


def best_boxes(placed: PlacedBoxes, asked: Asked, *, match: str, threshold: float) -> PredictedBoxes:
    """The best merged box of each class.

    Args:
      placed: an image's boxes, of these classes; where they are not rated each counts as much as its class's posterior.
      asked: the classes.
      match, threshold: as in `vgg_jax.inference.merge.merge`.
    """
    corners, rates, size = placed
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
