"""Protocol 2 of localization: boxes of a network that is applied densely, at one or several Q, merged (App. A).

Place (i, j) of the map sees the crop-sized window of the rescaled image that begins at (32 i, 32 j), and predicts boxes
relative to it. Boxes of the mirror image are mirrored back. All of them, in pixels of the image as it was decoded, are
merged, of all Q and all networks together: a class's own boxes where there is one per class (PCR), the shared ones
otherwise (SCR). A box of class c has the posterior of c for each window that it was made of; the best one is the answer
for that class, cut off at the image's borders.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from vgg_jax.data.boxes import from_window
from vgg_jax.data.pipeline import ScaledExample
from vgg_jax.errors import ConfigError
from vgg_jax.inference.arrays import check_scales, scaled_arrays
from vgg_jax.inference.buckets import ScaledImage
from vgg_jax.inference.merge import merge
from vgg_jax.inference.runner import Maps, Runner, with_mirror_images
from vgg_jax.model.box_outputs import boxes_of
from vgg_jax.model.vgg import VGG


class PredictedBoxes(NamedTuple):
    """What is where in an image: a box for each class that it may be of, the most probable class first."""

    corners: Float[np.ndarray, "k 4"]
    """Left, top, right, bottom in pixels of the image."""
    classes: Int[np.ndarray, " k"]
    """Their numbers; -1 where none is known."""
    scores: Float[np.ndarray, " k"]
    """The class's posterior, summed over the windows that agree on the box."""


def localize(
    nets: VGG | Sequence[VGG],
    images: Sequence[UInt8[np.ndarray, "h w 3"]],
    posteriors: Float[np.ndarray, "n classes"] | None = None,
    *,
    scales: Sequence[int] = (256,),
    flip: bool = True,
    top: int = 5,
    match: str = "iou",
    threshold: float = 0.5,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> list[PredictedBoxes]:
    """Where the objects in images are, by protocol 2: densely, at every Q, with the mirror image, merged.

        net = vgg_jax.checkpoint.load_network("runs/boxes")[0]
        posteriors = vgg_jax.Scorer(classifier, (384,))(images)
        found = vgg_jax.localize(net, images, posteriors, scales=(352, 384))

    Args:
      nets: a network that predicts boxes, or several, whose boxes are merged together.
      images: RGB uint8 arrays (height, width, 3) of any sizes.
      posteriors: of the classes in each image, by a network that classifies. A row with a single 1 asks for the box of
        a class that is given. They can be left out where boxes are not of one class among several; every window then
        counts 1.
      scales: the test scales Q: what an image's smaller side is rescaled to, in pixels.
      flip: whether the mirror image counts too.
      top: how many of the most probable classes have a box; those of posterior 0 have none.
      match, threshold: which boxes are merged, as in `vgg_jax.inference.merge.merge`, in units of the image's longer
        side.
      batch_size, mesh: as in `vgg_jax.inference.runner.Runner`.

    Raises:
      ConfigError: a network has outputs that are no boxes, the networks' differ, posteriors are missing or of another
        shape, or a scale is smaller than a net's crop.
      DataError: an image is of another type or shape, or too elongated; the message says which.

    >>> from flax import nnx
    >>> net = VGG("A", num_classes=4, crop=32, width=0.0625, rngs=nnx.Rngs(0))
    >>> found = localize(net, [np.zeros((50, 70, 3), np.uint8)], scales=(32, 40))
    >>> found[0].corners.shape, found[0].classes.tolist()
    ((1, 4), [-1])
    """
    nets = [nets] if isinstance(nets, VGG) else list(nets)
    asked = asked_classes(nets[0], posteriors, len(images), top)
    runners = [box_runner(net, scales, flip, batch_size=batch_size, mesh=mesh) for net in nets]
    if len({net.num_classes for net in nets}) > 1:
        raise ConfigError(f"nets of {', '.join(str(net.num_classes // 4) for net in nets)} boxes cannot be merged")
    found: list[list[np.ndarray]] = [[] for _ in images]
    for runner in runners:
        with scaled_arrays(images, scales) as examples:
            for index, corners in dense_boxes(runner, examples, lambda index: asked[index].classes):
                found[index].append(corners)
    merging = {"match": match, "threshold": threshold}
    return [
        best_boxes(np.concatenate(corners), of, image.shape[:2], **merging)
        for corners, of, image in zip(found, asked, images, strict=True)
    ]


class Asked(NamedTuple):
    """The classes that have a box in an image."""

    classes: Int[np.ndarray, " k"]
    """The most probable first; -1 where none is known."""
    posteriors: Float[np.ndarray, " k"]


def asked_classes(net: VGG, posteriors: Float[np.ndarray, "n classes"] | None, count: int, top: int) -> list[Asked]:
    """The `top` most probable classes of each of `count` images, of equal ones the first; as in `localize`.

    Raises:
      ConfigError: the network has outputs that are no boxes; posteriors are missing, or of another shape.
    """
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
    return Runner(net, _FUNCTIONS[flip], smallest=net.crop, batch_size=batch_size, mesh=mesh)


def box_maps(net: VGG, images: UInt8[Array, "n h w 3"], sizes: Int[Array, "n 2"], *, flip: bool) -> dict[str, Maps]:
    """The outputs of a network that localizes at every place of images in the upper left corners of a bucket.

    Args:
      net: the network.
      images, sizes: as a `Runner` gives them.
      flip: whether `mirrored` is among the outputs: those of the mirror image, as it is.
    """
    both, both_sizes = with_mirror_images(images, sizes) if flip else (images, sizes)
    outputs = net(both, sizes=both_sizes)
    outputs = outputs.reshape(len(images), 1 + flip, *outputs.shape[1:])
    names = ("upright", "mirrored")[: 1 + flip]
    return {name: Maps(outputs[:, number], net.map_sizes(sizes)) for number, name in enumerate(names)}


_FUNCTIONS = {flip: functools.partial(box_maps, flip=flip) for flip in (False, True)}  # so that programs are shared


def dense_boxes(
    runner: Runner, examples: Iterable[ScaledExample], classes: Callable[[int], Int[np.ndarray, " k"]]
) -> Iterator[tuple[int, Float[np.ndarray, "places k 4"]]]:
    """The boxes that a network predicts at every place of an image and its mirror image.

    Args:
      runner: from `box_runner`.
      examples: images at one or more scales; those that could not be read have no boxes.
      classes: of the example of an index, of which classes boxes are wanted.

    Yields:
      (the example's index, corners in pixels of the image as it was decoded), once for every scale of every example, in
      whatever order is fast. A box for all classes alike (SCR) is there once.
    """
    net = runner.net

    def scaled_images() -> Iterator[ScaledImage]:
        for example in examples:
            for image in example.images:
                yield ScaledImage((example.index, example.size, image.shape[:2]), image)

    for (index, size, scaled), outputs in runner(scaled_images()):
        found = []
        for name in sorted(outputs, reverse=True):  # upright first
            boxes = boxes_of(outputs[name])
            boxes = boxes if boxes.shape[2] == 1 else boxes[:, :, classes(index)]
            corners = from_window(boxes, windows(net, boxes.shape[:2])[:, :, None])
            if name == "mirrored":
                left, top, right, bottom = np.moveaxis(corners, -1, 0)
                corners = np.stack([scaled[1] - right, top, scaled[1] - left, bottom], -1)
            found.append(corners.reshape(-1, *corners.shape[2:]))
        yield index, np.concatenate(found) * np.tile(np.divide(size, scaled)[::-1], 2)


def windows(net: VGG, shape: tuple[int, int]) -> Float[np.ndarray, "h w 4"]:
    """What each place of a map of a network sees of the rescaled image, in its pixels: top, left, height, width.

    A pool drops what is odd at the right and at the bottom, so the first window begins at (0, 0) whatever the size.
    """
    top, left = net.spec.stride * np.indices(shape).astype(np.float64)
    return np.stack([top, left, np.full(shape, net.crop), np.full(shape, net.crop)], -1)


def best_boxes(
    corners: Float[np.ndarray, "places k 4"], asked: Asked, size: tuple[int, int], *, match: str, threshold: float
) -> PredictedBoxes:
    """The best merged box of each class.

    Args:
      corners: in pixels of the image, one for each class that is asked for or a single one for all.
      asked: the classes.
      size: height and width of the image.
      match, threshold: as in `vgg_jax.inference.merge.merge`.
    """
    best = []
    for boxes in np.moveaxis(corners, 1, 0):
        merged, windows = merged_boxes(boxes, size, match=match, threshold=threshold)
        best.append((merged[windows.argmax()], windows.max()))
    if len(best) == 1:
        best *= len(asked.classes)
    boxes = np.array([box for box, _ in best]).reshape(-1, 4)
    height, width = size
    agreeing = np.array([count for _, count in best])
    return PredictedBoxes(np.clip(boxes, 0, [width, height] * 2), asked.classes, asked.posteriors * agreeing)


def merged_boxes(
    corners: Float[np.ndarray, "n 4"], size: tuple[int, int], *, match: str, threshold: float
) -> tuple[Float[np.ndarray, "m 4"], Float[np.ndarray, " m"]]:
    """An image's boxes merged, in units of its longer side, and how many each was made of; as in `best_boxes`."""
    boxes, counts = merge(corners / max(size), np.ones(len(corners)), match, threshold)
    return boxes * max(size), counts
