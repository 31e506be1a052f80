"""A runner computes functions of a network over images of any size, in few programs (Sec. 3.2).

`scorer` computes posteriors with it, `score_map` class-score maps, `features` and
`pooled_features` activations (App. B).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from vgg_jax import compiler, sharding
from vgg_jax.errors import ConfigError
from vgg_jax.inference.buckets import Batcher, PaddedBatch, ScaledImage
from vgg_jax.model.vgg import VGG
from vgg_jax.prefetch import prefetch

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, Shaped, UInt8

AHEAD = 4
"""Batches that are under way while the next program is compiled."""


PIXELS = {"cpu": 2**18, "accelerator": 2**22}
"""Pixels of a batch that suit a device."""


class Maps(NamedTuple):
    """An output that is a map: a runner crops each image's to its true size."""

    values: Float[Array, "n h w c"]
    """In the upper left corners."""
    sizes: Int[Array, "n 2"]
    """Their heights and widths in places."""


Function: TypeAlias = "Callable[[VGG, UInt8[Array, 'n h w 3'], Int[Array, 'n 2']], dict[str, Array | Maps]]"
"""`function(net, images, sizes) -> {output: array (n, ...) or Maps}`, of images in the upper left corners of a bucket,
whose heights and widths in pixels are `sizes`."""


class Runner:
    """Functions of a network over images of any size.

    Args:
      net: the network.
      functions: what is computed of an image: one function, or several by name.
      smallest: the smallest side of an image, in pixels, that the functions work on.
      batch_size: images of the crop's size at once, over all devices of this process; larger images are fewer. By
        default what suits the devices.
      mesh: the devices; by default all of this process.

    Raises:
      ConfigError: `batch_size` is no positive number.

    Attributes:
      net: the network without its parameters.
      batcher: what the buckets cost, `batcher.waste` and `batcher.shapes`.

    >>> net = VGG("A", num_classes=10, crop=32, width=0.0625, rngs=nnx.Rngs(0))
    >>> runner = Runner(net, lambda net, images, sizes: {"mean": net(images, sizes=sizes).mean((1, 2))}, smallest=32)
    >>> [(key, outputs["mean"].shape) for key, outputs in runner([ScaledImage("a", np.zeros((32, 47, 3), np.uint8))])]
    [('a', (10,))]
    """

    def __init__(
        self,
        net: VGG,
        functions: Function | Mapping[str, Function],
        *,
        smallest: int,
        batch_size: int | None = None,
        mesh: Mesh | None = None,
    ):
        if batch_size is not None and (not isinstance(batch_size, Integral) or batch_size < 1):
            raise ConfigError(f"batch_size={batch_size}: a number of images, or None for what suits the devices")
        self._mesh = mesh or sharding.local_mesh()
        of_a_device = PIXELS["cpu" if jax.default_backend() == "cpu" else "accelerator"]
        pixels = batch_size * net.crop**2 if batch_size else self._mesh.size * of_a_device
        self.batcher = Batcher(pixels, self._mesh.size, smallest)
        graphdef, state = nnx.split(net)
        self.net = nnx.merge(graphdef, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state))
        self.use(state)
        functions = functions if isinstance(functions, Mapping) else {"": functions}
        self._programs = {name: _program(function, graphdef) for name, function in functions.items()}

    def use(self, state: nnx.State) -> None:
        """Takes other parameters for the same network."""
        self._state = sharding.place_state(jax.tree.map(sharding.whole, state), self._mesh)

    def __call__(self, images: Iterable[ScaledImage]) -> Iterator[tuple[Hashable, dict[str, np.ndarray]]]:
        """The outputs of every image, in whatever order is fast.

        One batch is placed and one computed while another's outputs are fetched; images are asked for in a thread.

        Yields:
          (key, {output: array}) of an image, the outputs of all its functions together.
        """
        with contextlib.closing(self.batches(images)) as batches:
            for batch in batches:
                yield from batch

    def batches(
        self, images: Iterable[ScaledImage], first: int = 0
    ) -> Iterator[Iterator[tuple[Hashable, dict[str, np.ndarray]]]]:
        """What a call gives, batch by batch.

        Args:
          first: the number of the first batch that is computed and given: a new runner that is given the same images
            makes the same batches of them, so a pass that was cut off can go on to the bit.
        """
        batches = itertools.islice(self.batcher.batches(images), first, None)
        with prefetch(batches, self._begin, AHEAD) as begun:
            for keys, outputs in begun:
                yield _by_image(keys, jax.device_get(outputs))

    def _begin(self, batch: PaddedBatch) -> tuple[tuple[Hashable, ...], dict[str, Array | Maps]]:
        """A batch's keys and outputs, under way. In a thread: programs are compiled while earlier batches run."""
        images, sizes = jax.device_put((batch.images, batch.sizes), sharding.split_batch(self._mesh))
        outputs: dict[str, Array | Maps] = {}
        for name in batch.bucket.functions or self._programs:
            outputs |= self._programs[name](self._state, images, sizes)
        return batch.keys, outputs


@functools.lru_cache(maxsize=16)
def _program(function: Function, graphdef: nnx.GraphDef) -> Callable:
    """A function of a network, jitted; runners with the same function of the same kind of network share it."""
    run = lambda state, images, sizes: function(nnx.merge(graphdef, state), images, sizes)
    return compiler.jit(run, quick=True)


def _by_image(keys: Iterable[Hashable], outputs: dict) -> Iterator[tuple[Hashable, dict[str, np.ndarray]]]:
    for place, key in enumerate(keys):  # then come empty places
        yield key, {name: _output_of(output, place) for name, output in outputs.items()}


def _output_of(output: np.ndarray | Maps, place: int) -> np.ndarray:
    """One image's part of an output; a copy, because a slice would keep the whole batch."""
    if isinstance(output, Maps):
        height, width = output.sizes[place]
        return output.values[place, :height, :width].copy()
    return output[place].copy()


def with_mirror_images(
    images: UInt8[Array, "n h w 3"], sizes: Int[Array, "n 2"]
) -> tuple[UInt8[Array, "2*n h w 3"], Int[Array, "2*n 2"]]:
    """Images of a bucket and their sizes, each followed by its mirror image: so the two stay on one device."""
    both = jnp.stack([images, mirrored(images, sizes)], 1)
    return both.reshape(-1, *images.shape[1:]), jnp.repeat(sizes, 2, 0)


def mirrored(images: Shaped[Array, "n h w c"], sizes: Int[Array, "n 2"]) -> Shaped[Array, "n h w c"]:
    """Images (or maps) of a bucket, each mirrored about its own vertical axis."""
    columns = jnp.arange(images.shape[2])
    source = jnp.clip(sizes[:, 1, None] - 1 - columns, 0)  # beyond the image any pixel will do
    return jnp.take_along_axis(images, source[:, None, :, None], axis=2)
