"""Posteriors of whole images by the paper's protocols: dense, multi-crop, both (Sec. 3.2).

dense    the net on the whole image, the class-score map averaged over space, then the soft-max
crops    the soft-max of each crop of a regular 5 x 5 grid, averaged
both     the average of these two
center   the soft-max of the one crop in the middle: the figure that everybody else reports

Posteriors are averaged over the image and its mirror image (not for `center`), then over the test scales Q.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vgg_jax.data.rescaling import ScaledExample
from vgg_jax.errors import ConfigError, did_you_mean
from vgg_jax.inference.arrays import check_net, check_scales, scaled_arrays
from vgg_jax.inference.buckets import ScaledImage
from vgg_jax.inference.runner import Function, Runner, with_mirror_images
from vgg_jax.model.vgg import VGG

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt8

PROTOCOLS: dict[str, tuple[str, ...]] = {
    "dense": ("dense",),
    "crops": ("crops",),
    "both": ("dense", "crops"),
    "center": ("center",),
}
"""What each protocol averages."""

GRID = 5
"""Crops along a side of the image."""


class EvalView(NamedTuple):
    """One of the posteriors of an image that a protocol averages."""

    protocol: str
    """dense, crops or center."""
    scale: int
    """Q, in pixels."""


class Scorer:
    """A network as a function of images of any sizes to posteriors, by one of the protocols.

    Args:
      net: the network.
      scales: the test scales Q: what an image's smaller side is rescaled to, in pixels.
      protocol: dense, crops, both or center.
      flip: whether the mirror image counts too; digits and letters must not be mirrored. No part of `center`.
      batch_size: images of the crop's size at once, over all devices of this process; larger images are fewer. By
        default what suits the devices.
      mesh: the devices; by default all of this process.

    Raises:
      ConfigError: there is no such protocol, a scale is smaller than the net's crop, or `batch_size` is no positive
        number.

    >>> from flax import nnx
    >>> net = VGG("A", num_classes=10, crop=32, width=0.0625, rngs=nnx.Rngs(0))
    >>> photographs = [np.zeros((50, 70, 3), np.uint8), np.zeros((64, 40, 3), np.uint8)]
    >>> Scorer(net, scales=(32, 40))(photographs).shape
    (2, 10)
    """

    def __init__(
        self,
        net: VGG,
        scales: Sequence[int] = (256,),
        protocol: str = "dense",
        flip: bool = True,
        *,
        batch_size: int | None = None,
        mesh: Mesh | None = None,
    ):
        check_net(net)
        check_scales(scales, net.crop)
        self.views = eval_views([protocol], scales)
        self.runner = posterior_runner(net, flip, batch_size=batch_size, mesh=mesh)

    def __call__(self, images: Sequence[np.ndarray]) -> Float[np.ndarray, "n classes"]:
        """Posteriors of images, in order.

        Args:
          images: RGB uint8 arrays (height, width, 3) of any sizes.

        Returns:
          float32, each row sums to 1: the average over the protocol's parts and the scales.

        Raises:
          DataError: an image is of another type or shape, or too elongated; the message says which.
        """
        totals = np.zeros((len(images), self.runner.net.num_classes), np.float32)
        with scaled_arrays(images, scales_of(self.views)) as examples:
            for index, _, posterior in posteriors(self.runner, examples, self.views):
                totals[index] += posterior / len(self.views)
        return totals


def eval_views(protocols: Iterable[str], scales: Iterable[int]) -> list[EvalView]:
    """What protocols average, at every scale, without repetitions.

    Raises:
      ConfigError: there is no such protocol.

    >>> eval_views(["both", "dense"], [256])
    [EvalView(protocol='dense', scale=256), EvalView(protocol='crops', scale=256)]
    """
    for name in protocols:
        if name not in tuple(PROTOCOLS):
            raise ConfigError(f"protocol={name!r}: there are {', '.join(PROTOCOLS)}{did_you_mean(name, PROTOCOLS)}")
    views = [EvalView(part, scale) for name in protocols for part in PROTOCOLS[name] for scale in scales]
    return list(dict.fromkeys(views))


def scales_of(views: Iterable[EvalView]) -> tuple[int, ...]:
    """The test scales Q at which `posteriors` needs an example for these views."""
    return tuple(dict.fromkeys(view.scale for view in views))


def posterior_runner(net: VGG, flip: bool = True, *, batch_size: int | None = None, mesh: Mesh | None = None) -> Runner:
    """A runner for `posteriors`, with the mirror image or without; other arguments are those of `Runner`."""
    return Runner(net, _functions(flip), smallest=net.crop, batch_size=batch_size, mesh=mesh)


def posteriors(
    runner: Runner, examples: Iterable[ScaledExample], views: Sequence[EvalView]
) -> Iterator[tuple[int, EvalView, Float[np.ndarray, " classes"]]]:
    """Posteriors of examples, in whatever order is fast.

    Args:
      runner: from `posterior_runner`.
      examples: at the scales of `scales_of(views)`, none below the net's crop; those that could not be read have no
        posteriors.
      views: protocols and scales.

    Yields:
      (the example's index, view, posterior), once for every view of every example.
    """
    for _, batch in posterior_batches(runner, examples, views):
        yield from batch


def posterior_batches(
    runner: Runner, examples: Iterable[ScaledExample], views: Sequence[EvalView], first: int = 0
) -> Iterator[tuple[int, list[tuple[int, EvalView, Float[np.ndarray, " classes"]]]]]:
    """What `posteriors` gives, batch by batch.

    Args:
      first: the batch to begin with, 0 or one that was yielded; of a new runner and the same examples.

    Yields:
      The batch that a pass may go on from when it has these results, and what `posteriors` yields.
    """
    scales, crop = scales_of(views), runner.net.crop

    def scaled_images() -> Iterator[ScaledImage]:
        for example in examples:
            for view in views if example.images else ():
                images = PARTS[view.protocol].images(example.images[scales.index(view.scale)], crop)
                for place, image in enumerate(images):
                    yield ScaledImage((example.index, view, place), image, (view.protocol,))

    # Views of which more crops are to come: the batch of the first crop, and the posteriors of the crops, which come in
    # their order.
    pending: dict[tuple[int, EvalView], tuple[int, list[np.ndarray]]] = {}
    for number, batch in enumerate(runner.batches(scaled_images(), first), start=first):
        done = []
        for (index, view, place), outputs in batch:
            if place == 0:
                pending[index, view] = number, []
            elif (index, view) not in pending:  # it began before the batch `first`: the pass has its posterior
                continue
            _, parts = pending[index, view]
            parts.append(outputs["posterior"])
            if len(parts) == PARTS[view.protocol].count:
                del pending[index, view]
                done.append((index, view, np.mean(parts, axis=0)))
        yield min((began for began, _ in pending.values()), default=number + 1), done


@functools.cache
def _functions(flip: bool) -> Mapping[str, Function]:
    """The runner's functions by protocol."""
    return {name: functools.partial(part.function, flip=flip and part.mirrored) for name, part in PARTS.items()}


def dense_posteriors(
    net: VGG, images: UInt8[Array, "n h w 3"], sizes: Int[Array, "n 2"], *, flip: bool
) -> dict[str, Float[Array, "n classes"]]:
    """Dense evaluation: soft-max of the mean over the class-score map, averaged over the image and its mirror image."""
    both, sizes = with_mirror_images(images, sizes) if flip else (images, sizes)
    places = net.map_sizes(sizes).prod(1)
    scores = net(both, sizes=sizes).sum((1, 2)) / places[:, None]
    return {"posterior": jax.nn.softmax(scores).reshape(len(images), 1 + flip, -1).mean(1)}


def crop_posteriors(
    net: VGG, images: UInt8[Array, "n h w 3"], sizes: Int[Array, "n 2"], *, flip: bool
) -> dict[str, Float[Array, "n classes"]]:
    """The soft-max of images of the crop's size, averaged over the image and its mirror image; `sizes` are known."""
    return {"posterior": unpadded_posteriors(net, images[:, : net.crop, : net.crop], flip=flip)}


def unpadded_posteriors(net: VGG, images: UInt8[Array, "n h w 3"], *, flip: bool) -> Float[Array, "n classes"]:
    """Dense evaluation, as of `dense_posteriors`, of images that are all of one size and without padding."""
    both = jnp.stack([images, images[:, :, ::-1]] if flip else [images], 1)
    scores = net(both.reshape(-1, *images.shape[1:])).mean((1, 2))
    return jax.nn.softmax(scores).reshape(*both.shape[:2], -1).mean(1)


def grid_crops(image: UInt8[np.ndarray, "h w 3"], crop: int) -> list[UInt8[np.ndarray, "crop crop 3"]]:
    """The 5 x 5 grid of crops of an image, row by row; its outermost ones touch the image's borders.

    Between these the offsets are spaced regularly, i (side - crop) / 4, rounded half up, as `decode.crop` rounds.
    """
    tops, lefts = (
        [(2 * i * (side - crop) + GRID - 1) // (2 * (GRID - 1)) for i in range(GRID)] for side in image.shape[:2]
    )
    return [image[top : top + crop, left : left + crop] for top in tops for left in lefts]


class Part(NamedTuple):
    """One of the things that protocols average."""

    images: Callable[[UInt8[np.ndarray, "h w 3"], int], Sequence[UInt8[np.ndarray, "h w 3"]]]
    """What the network is given of a rescaled image, by the net's crop."""
    count: int
    """How many images these are."""
    function: Callable[..., dict[str, Array]]
    """A `Function` of the runner, with `flip`."""
    mirrored: bool
    """Whether the mirror image counts too, if it is to count at all."""


PARTS = {
    "dense": Part(lambda image, crop: [image], 1, dense_posteriors, True),
    "crops": Part(grid_crops, GRID**2, crop_posteriors, True),
    "center": Part(lambda image, crop: [grid_crops(image, crop)[GRID**2 // 2]], 1, crop_posteriors, False),
}
