"""The boxes that networks predict at every place of images, at one or several Q (App. A).

Place (i, j) of the map sees the crop-sized window of the rescaled image that begins at (32 i, 32 j), and predicts boxes
relative to it. Boxes of the mirror image are mirrored back. A network that classifies may rate the places, by its
posteriors of what it sees in the same windows.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        for net in nets:
            check_scales(scales, net.crop)
            if classifier and classifier.net.crop != net.crop:
                raise ConfigError(
                    f"the classifier sees windows of {classifier.net.crop} pixels, the network that localizes of "
                    f"{net.crop}: it cannot rate them; take one of the same crop"
                )

        def runner(net: VGG, of: Callable[[Array], Array] | None = None) -> Runner:
            return Runner(net, _function(flip, of), smallest=net.crop, batch_size=batch_size, mesh=mesh)

        self._scales = range(len(scales))
        self._runners = [runner(net) for net in nets]
        self._outputs = np.arange(nets[0].num_classes // 4) if outputs is None else outputs
        self._classifier = classifier
        self._rating = classifier and runner(classifier.net, jax.nn.softmax)

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

        def scaled_images(opened: Iterator[ScaledExample]) -> Iterator[ScaledImage]:
            for example in opened:
                sizes[example.index] = example.size
                if example.problem:
                    problems[example.index] = example.problem
                for number, image in enumerate(example.images):
                    yield ScaledImage((example.index, number, image.shape[:2]), image)

        def at_places(function: Callable, runner: Runner, outputs: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
            """What a function makes of a network's maps, by an image's index and the number of a scale."""
            found = {}
            with examples() as opened:
                for (index, number, scaled), maps in runner(scaled_images(opened)):
                    views = [maps[name] for name in sorted(maps, reverse=True)]  # upright, mirrored
                    found[index, number] = function(runner.net, views, outputs, classes[index], sizes[index], scaled)
                    if progress:
                        progress(next(done), passes * len(self._scales) * (len(classes) - len(problems)))
            return found

        boxes = [at_places(_boxes, runner, self._outputs) for runner in self._runners]
        rates = at_places(_rates, self._rating, self._classifier.outputs) if self._rating else None
        parts = lambda index: [
            PlacedBoxes(of[index, number], rates and rates[index, number], sizes[index])
            for of in boxes
            for number in self._scales
        ]
        return {index: joined(parts(index)) for index in sizes if index not in problems}


def _dense_maps(
    net: VGG,
    images: UInt8[Array, "n h w 3"],
    sizes: Int[Array, "n 2"],
    *,
    flip: bool,
    of: Callable[[Array], Array] | None = None,
) -> dict[str, Maps]:
    """The outputs of a network at every place of images in the upper left corners of a bucket.

    Args:
      net, images, sizes: as a runner gives them.
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
    return functools.partial(_dense_maps, flip=flip, of=of)


def _boxes(
    net: VGG,
    views: Sequence[Float[np.ndarray, "h w outputs"]],
    outputs: Int[np.ndarray, " classes"],
    classes: Int[np.ndarray, " k"],
    size: tuple[int, int],
    scaled: tuple[int, int],
) -> Float[np.ndarray, "places k 4"]:
    """The boxes at every place of an image and its mirror image, row by row, in pixels of the image as it was decoded.

    Args:
      net: the network.
      views: its map of the rescaled image and, if that counts, of the mirror image.
      outputs: which of its boxes are those of the classes.
      classes: of which boxes are wanted; one for all classes alike (SCR) is there once.
      size, scaled: height and width of the image as it was decoded, and rescaled.
    """
    found = []
    for mirrored, view in enumerate(views):
        boxes = boxes_of(view)
        boxes = boxes if boxes.shape[2] == 1 else boxes[:, :, outputs[classes]]
        # A pool drops what is odd at the right and at the bottom: the first window begins at (0, 0) whatever the size.
        top, left = net.spec.stride * np.indices(boxes.shape[:2])
        windows = np.stack(np.broadcast_arrays(top, left, net.crop, net.crop), -1)
        corners = from_window(boxes, windows[:, :, None])
        if mirrored:
            left, top, right, bottom = np.moveaxis(corners, -1, 0)
            corners = np.stack([scaled[1] - right, top, scaled[1] - left, bottom], -1)
        found += list(corners)
    return np.concatenate(found) * np.tile(np.divide(size, scaled)[::-1], 2)


def _rates(
    net: VGG,
    views: Sequence[Float[np.ndarray, "h w outputs"]],
    outputs: Int[np.ndarray, " classes"],
    classes: Int[np.ndarray, " k"],
    *_,
) -> Float[np.ndarray, "places k"]:
    """The posteriors of some classes at the places of `_boxes`, in the same order."""
    return np.concatenate([row for view in views for row in view[:, :, outputs[classes]]])
