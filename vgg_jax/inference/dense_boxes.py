"""The boxes that networks predict at every place of images, at one or several Q (App. A).

Place (i, j) of the map sees the crop-sized window of the rescaled image that begins at (32 i, 32 j), and predicts boxes
relative to it. Boxes of the mirror image are mirrored back. A network that classifies may rate the places, by its
posteriors of what it sees in the same windows.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from vgg_jax.data.boxes import from_window
from vgg_jax.data.rescaling import ScaledExample
from vgg_jax.errors import ConfigError
from vgg_jax.inference.arrays import check_scales
from vgg_jax.inference.buckets import ScaledImage
from vgg_jax.inference.runner import Function, Maps, Runner, with_mirror_images
from vgg_jax.model.box_outputs import boxes_of
from vgg_jax.model.vgg import VGG

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt8


Place = tuple[int, int]
"""An example's index, and the number of one of its scales."""


class Classifier(NamedTuple):
    """What rates the places of dense boxes."""

    net: VGG
    outputs: Int[np.ndarray, " classes"]
    """Its outputs for the classes that boxes are of."""


class PlacedBoxes(NamedTuple):
    """All boxes of an image, before they are merged."""

    corners: Float[np.ndarray, "places n 4"]
    """In pixels of the image as it was decoded, one for each class that is asked for or a single one for all."""
    rates: Float[np.ndarray, "places k"] | None
    """The classifier's posterior of each class at each place; None without one."""
    size: tuple[int, int]
    """Height and width of the image."""


def joined(parts: Sequence[PlacedBoxes]) -> PlacedBoxes:
    """An image's boxes at several Q or of several networks: where some are of a class, one for all is every class's."""
    most = max(part.corners.shape[1] for part in parts)
    corners = [np.broadcast_to(part.corners, (len(part.corners), most, 4)) for part in parts]
    rates = None if parts[0].rates is None else np.concatenate([part.rates for part in parts])
    return PlacedBoxes(np.concatenate(corners), rates, parts[0].size)


class DenseBoxes:
    """Networks that localize, and what rates the places, as a function of images.

    Args:
      nets: networks with equally many boxes.
      scales: the test scales Q.
      flip: whether the mirror image counts too.
      outputs: which of the networks' boxes are those of the classes that are asked for; by default their own.
      classifier: what rates the places.
      batch_size, mesh: as in `vgg_jax.inference.runner.Runner`.

    Raises:
      ConfigError: the classifier's windows are others, or a scale is smaller than a net's crop.
    """

    def __init__(
        self,
        nets: Sequence[VGG],
        scales: Sequence[int],
        flip: bool,
        *,
        outputs: Int[np.ndarray, " classes"] | None = None,
        classifier: Classifier | None = None,
        batch_size: int | None = None,
        mesh: Mesh | None = None,
    ):
        options = {"batch_size": batch_size, "mesh": mesh}
        self._scales = range(len(scales))
        self._runners = [box_runner(net, scales, flip, **options) for net in nets]
        self._outputs = np.arange(nets[0].num_classes // 4) if outputs is None else outputs
        self._classifier = classifier
        self._rating = classifier and rating_runner(classifier.net, nets, scales, flip, **options)

    def __call__(
        self,
        examples: Callable[[], AbstractContextManager[Iterator[ScaledExample]]],
        classes: Sequence[Int[np.ndarray, " k"]] | Mapping[int, Int[np.ndarray, " k"]],
        problems: dict[int, str],
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[int, PlacedBoxes]:
        """All boxes in some images, by the images' indices.

        Args:
          examples: opens the images at the scales, once for each network and the classifier.
          classes: by index, of which classes boxes are wanted.
          problems: is given what could not be read and has no boxes, {index: reason}.
          progress: called with how many maps are done, and of how many.
        """
        sizes: dict[int, tuple[int, int]] = {}
        done, passes = itertools.count(1), len(self._runners) + bool(self._rating)

        def noted(opened: Iterator[ScaledExample]) -> Iterator[ScaledExample]:
            for example in opened:
                sizes[example.index] = example.size
                if example.problem:
                    problems[example.index] = example.problem
                yield example

        def at_places(function: Callable, runner: Runner, outputs: np.ndarray) -> dict[Place, np.ndarray]:
            found = {}
            with examples() as opened:
                for place, values in function(runner, noted(opened), lambda index: outputs[classes[index]]):
                    found[place] = values
                    if progress:
                        progress(next(done), passes * len(self._scales) * (len(classes) - len(problems)))
            return found

        boxes = [at_places(dense_boxes, runner, self._outputs) for runner in self._runners]
        rates = at_places(dense_rates, self._rating, self._classifier.outputs) if self._rating else None
        parts = lambda index: [
            PlacedBoxes(of[index, number], rates and rates[index, number], sizes[index])
            for of in boxes
            for number in self._scales
        ]
        return {index: joined(parts(index)) for index in sizes if index not in problems}


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
