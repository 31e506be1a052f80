"""Posteriors of whole images by the paper's protocols: dense, multi-crop, both (Sec. 3.2).

dense    the net on the whole image, the class-score map averaged over space, then the soft-max
crops    the soft-max of each crop of a regular 5 x 5 grid, averaged
both     the average of these two
centre   the soft-max of the one crop in the middle: the figure that everybody else reports

Posteriors are averaged over the image and its mirror image (not for `centre`), then over the test scales Q.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from vgg_jax import prefetch
from vgg_jax.data.batch_stream import cores
from vgg_jax.data.decode import rescale
from vgg_jax.errors import ConfigError, DataError
from vgg_jax.inference.buckets import ScaledImage, check_size
from vgg_jax.inference.runner import Runner, with_mirror_images
from vgg_jax.model.vgg import VGG

PROTOCOLS: dict[str, tuple[str, ...]] = {
    "dense": ("dense",),
    "crops": ("crops",),
    "both": ("dense", "crops"),
    "centre": ("centre",),
}
"""What each protocol averages."""

GRID = 5
"""Crops along a side of the image."""


class EvalView(NamedTuple):
    """One of the posteriors of an image that a protocol averages."""

    protocol: str
    """dense, crops or centre."""
    scale: int
    """Q, in pixels."""


class Scoring(Runner):
    """A network that scores images in several views in one pass over them.

    Args:
      net: the network.
      views: protocols and scales.
      flip: whether the mirror image counts too; no part of `centre`.
      batch_size, mesh: as in `Runner`.

    Attributes:
      views: without repetitions.

    Raises:
      ConfigError: a scale is smaller than the net's crop.
    """

    def __init__(
        self,
        net: VGG,
        views: Sequence[EvalView],
        flip: bool = True,
        *,
        batch_size: int | None = None,
        mesh: Mesh | None = None,
    ):
        for view in views:
            if view.scale < net.crop:
                raise ConfigError(
                    f"the test scale Q = {view.scale} is below the net's crop, {net.crop} pixels: "
                    "its class-score map would have no place"
                )
        self.views = tuple(dict.fromkeys(views))
        self.crop, self.num_classes, self.flip = net.crop, net.num_classes, flip
        super().__init__(net, {"dense": dense_posteriors, "crops": crop_posteriors}, net.crop, batch_size, mesh)
        self._cut = jax.jit(functools.partial(grid_crops, crop=net.crop))

    def scaled_images(self, read: Callable[[Hashable], np.ndarray | None], keys: Iterable[Hashable], threads: int = 0):
        """A context with the images at every scale, rescaled by a few threads.

        Args:
          read: an image by its key, RGB uint8 (height, width, 3), or None to leave it out: one that `check` refuses
            must be. Called from many threads.
          keys: of the images.
          threads: how many read and rescale, 0 for one a core.
        """
        threads = threads or cores()

        def prepared(key: Hashable) -> list[ScaledImage]:
            image = read(key)
            return [] if image is None else list(self._views_of(key, image))

        return prefetch.flattened(prefetch.in_order(prepared, keys, threads, ahead=4 * threads))

    def check(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Refuses an image that takes too much memory at one of the scales.

        Raises:
          DataError: it is too elongated.
        """
        check_size(image, dict.fromkeys(view.scale for view in self.views))

    def score(self, views: Iterable[ScaledImage]) -> Iterator[tuple[Hashable, EvalView, Float[np.ndarray, " classes"]]]:
        """Scores views, in whatever order is fast.

        Args:
          views: from `scaled_images`.

        Yields:
          (key, view, posterior), once for every view of every image.
        """
        for packed, posteriors in self._results(views):
            for part, rows in posteriors.items():
                for (key, scale), row in zip(packed.keys, rows, strict=False):  # then come empty places
                    yield key, EvalView(part, scale), row

    def _views_of(self, key: Hashable, image: np.ndarray) -> Iterator[ScaledImage]:
        for scale in dict.fromkeys(view.scale for view in self.views):
            rescaled = rescale(image, scale)
            parts = tuple(view.protocol for view in self.views if view.scale == scale)
            if "centre" in parts:
                yield ScaledImage((key, scale), centre_crop(rescaled, self.crop), ("centre",))
            if whole := tuple(part for part in parts if part != "centre"):
                yield ScaledImage((key, scale), rescaled, whole)

    def _run(self, purpose: Hashable, images: jax.Array, sizes: jax.Array) -> dict[str, jax.Array]:
        posteriors = {}
        for part in purpose:
            if part == "crops":
                crops = self._cut(images, sizes)
                posteriors[part] = self._programs["crops"](self._state, crops, flip=self.flip)
            else:
                dense = self._programs["dense"]
                posteriors[part] = dense(self._state, images, sizes, flip=self.flip and part == "dense")
        return posteriors


class Scorer(Scoring):
    """A network as a function of images of any sizes to posteriors, by one of the protocols.

    Args:
      net: the network.
      scales: the test scales Q: what an image's smaller side is rescaled to, in pixels.
      protocol: dense, crops, both or centre.
      flip: whether the mirror image counts too; digits and letters must not be mirrored. No part of `centre`.
      batch_size, mesh: as in `Scoring`.

    Raises:
      ConfigError: there is no such protocol, or a scale is smaller than the net's crop.

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
        if not scales or not all(isinstance(scale, int | np.integer) for scale in scales):
            raise ConfigError(f"scales={tuple(scales)}: one or more test scales Q in whole pixels")
        super().__init__(net, eval_views([protocol], scales), flip, batch_size=batch_size, mesh=mesh)

    def __call__(self, images: Sequence[np.ndarray]) -> Float[np.ndarray, "n classes"]:
        """Posteriors of images, in order.

        Args:
          images: RGB uint8 arrays (height, width, 3) of any sizes.

        Returns:
          float32, each row sums to 1: the average over the protocol's parts and the scales.

        Raises:
          DataError: an image is of another type or shape, or too elongated; the message says which.
        """
        for number, image in enumerate(images):
            check_image(image, f"image {number}")
            try:
                self.check(image)
            except DataError as error:
                raise DataError(f"image {number}: {error}") from error
        totals = np.zeros((len(images), self.num_classes), np.float32)
        with self.scaled_images(lambda number: images[number], range(len(images))) as views:
            for number, _, posterior in self.score(views):
                totals[number] += posterior / len(self.views)
        return totals


def eval_views(protocols: Iterable[str], scales: Iterable[int]) -> list[EvalView]:
    """What protocols average, at every scale.

    Raises:
      ConfigError: there is no such protocol.

    >>> eval_views(["both"], [256])
    [EvalView(protocol='dense', scale=256), EvalView(protocol='crops', scale=256)]
    """
    for name in protocols:
        if name not in PROTOCOLS:
            raise ConfigError(f"protocol={name!r}: there are {', '.join(PROTOCOLS)}")
    return [EvalView(part, int(scale)) for name in protocols for part in PROTOCOLS[name] for scale in scales]


def dense_posteriors(
    graphdef: nnx.GraphDef,
    state: nnx.State,
    images: UInt8[Array, "n h w 3"],
    sizes: Int[Array, "n 2"],
    *,
    flip: bool,
) -> Float[Array, "n classes"]:
    """Dense evaluation: soft-max of the mean over the class-score map, averaged over the image and its mirror image.

    Args:
      graphdef, state: the network.
      images: in the upper left corners of one bucket.
      sizes: their heights and widths in pixels.
      flip: whether the mirror image counts.
    """
    net = nnx.merge(graphdef, state)
    both, sizes = with_mirror_images(images, sizes) if flip else (images, sizes)
    places = net.map_sizes(sizes).prod(1)
    scores = net(both, sizes=sizes).sum((1, 2)) / places[:, None]
    return jax.nn.softmax(scores).reshape(len(images), 1 + flip, -1).mean(1)


def grid_crops(
    images: UInt8[Array, "n h w 3"], sizes: Int[Array, "n 2"], *, crop: int
) -> UInt8[Array, "rows n columns crop crop 3"]:
    """The 5 x 5 grid of crops of each image; its outermost ones touch the image's borders.

    Between these the offsets are spaced regularly, i (side - crop) / 4, rounded half up.
    """
    offsets = (jnp.arange(GRID)[None, None] * (sizes[..., None] - crop) * 2 + GRID - 1) // (2 * (GRID - 1))

    def of_image(image: Array, offsets: Int[Array, "2 5"]) -> Array:
        cut = lambda top, left: jax.lax.dynamic_slice(image, (top, left, 0), (crop, crop, 3))
        return jax.vmap(lambda top: jax.vmap(lambda left: cut(top, left))(offsets[1]))(offsets[0])

    return jax.vmap(of_image, out_axes=1)(images, offsets)


def crop_posteriors(
    graphdef: nnx.GraphDef, state: nnx.State, crops: UInt8[Array, "rows n columns crop crop 3"], *, flip: bool
) -> Float[Array, "n classes"]:
    """Multi-crop evaluation: the average of the crops' posteriors, and of their mirror images'."""
    net = nnx.merge(graphdef, state)
    n, columns, crop = crops.shape[1:4]

    def of_row(row: Array) -> Array:  # a row of the grid at a time, for memory
        both = jnp.stack([row, row[:, :, :, ::-1]], 1) if flip else row[:, None]
        posteriors = jax.nn.softmax(net(both.reshape(-1, crop, crop, 3))[:, 0, 0])
        return posteriors.reshape(n, (1 + flip) * columns, -1).mean(1)

    return jax.lax.map(of_row, crops).mean(0)


def centre_crop(image: np.ndarray, crop: int) -> np.ndarray:
    """The crop in the middle, offsets rounded half up as in `vgg_jax.data.decode.crop`."""
    top, left = ((side - crop + 1) // 2 for side in image.shape[:2])
    return image[top : top + crop, left : left + crop]


def check_image(image: np.ndarray, name: str) -> None:
    """Refuses what is no RGB image in 0..255.

    Raises:
      DataError: of another dtype or shape; the message begins with `name`.
    """
    if getattr(image, "dtype", None) != np.uint8:
        what = getattr(image, "dtype", type(image).__name__)
        raise DataError(f"{name} is of type {what}: images are RGB in 0..255, uint8")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"{name} is of shape {image.shape}: expected (height, width, 3), RGB")
