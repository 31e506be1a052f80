"""What runs a network on buckets: batches under way one after another, a program for every shape of bucket.

`scorer` computes posteriors with it (Sec. 3.2), `vgg_jax.inference.features` activations (App. B).
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Int, Shaped, UInt8

from vgg_jax import compiler, sharding
from vgg_jax.inference.buckets import Batcher, PaddedBatch, ScaledImage
from vgg_jax.model.vgg import VGG
from vgg_jax.prefetch import prefetch

AHEAD = 4
"""Batches that are under way while the next program is compiled."""


class Runner(abc.ABC):
    """A network's programs on buckets: one batch is placed and one computed while another's results are fetched.

    Args:
      net: the network.
      functions: what is computed, by name: functions of the net's graphdef and state, of images in the upper left
        corners of one bucket and of what else `_run` gives them; `flip` is static.
      smallest: the sides of an empty place's image in pixels: the least that the functions can work on.
      batch_size: images of the crop's size at once, over all devices of this process; larger images are fewer. By
        default what suits the devices.
      mesh: the devices; by default all of this process.

    Attributes:
      batcher: what the buckets cost, `batcher.waste` and `batcher.shapes`.
    """

    def __init__(
        self,
        net: VGG,
        functions: Mapping[str, Callable],
        smallest: int,
        batch_size: int | None = None,
        mesh: Mesh | None = None,
    ):
        self._mesh = mesh or sharding.local_mesh()
        pixels = batch_size * net.crop**2 if batch_size else self._mesh.size * _batch_pixels()
        self.batcher = Batcher(pixels, self._mesh.size, smallest)
        self.use(nnx.state(net))
        jit = functools.partial(compiler.jit, quick=True, static_argnames="flip")
        graphdef = nnx.graphdef(net)
        self._programs = {name: jit(functools.partial(function, graphdef)) for name, function in functions.items()}

    def use(self, *state: nnx.State) -> None:
        """Takes other parameters for the same network: the parts of its state, in any split."""
        whole = nnx.merge_state(*state) if len(state) > 1 else state[0]
        here = jax.tree.map(lambda a: a if a.is_fully_addressable else a.addressable_data(0), whole)
        self._state = sharding.place_state(here, self._mesh)

    @abc.abstractmethod
    def _run(self, purpose: Hashable, images: jax.Array, sizes: jax.Array) -> dict[str, jax.Array]:
        """The results of a batch, under way: arrays of shape (places, ...) by name."""

    def _results(self, views: Iterable[ScaledImage]) -> Iterator[tuple[PaddedBatch, dict[str, np.ndarray]]]:
        """The results of views, batch by batch, in whatever order is fast."""
        with prefetch(self.batcher.pack(views), self._begun, AHEAD) as batches:
            for packed, results in batches:
                yield packed, jax.device_get(results)

    def _begun(self, packed: PaddedBatch) -> tuple[PaddedBatch, dict[str, jax.Array]]:
        """A batch and its results, under way. Called in a thread: programs are compiled while earlier batches run."""
        images, sizes = jax.device_put((packed.images, packed.sizes), sharding.split_batch(self._mesh))
        return packed, self._run(packed.bucket.purpose, images, sizes)


def with_mirror_images(
    images: UInt8[Array, "n h w 3"], sizes: Int[Array, "n 2"]
) -> tuple[UInt8[Array, "2*n h w 3"], Int[Array, "2*n 2"]]:
    """Images on a bucket and their sizes, each followed by its mirror image: so the two stay on one device."""
    both = jnp.stack([images, mirrored(images, sizes)], 1)
    return both.reshape(-1, *images.shape[1:]), jnp.repeat(sizes, 2, 0)


def mirrored(images: Shaped[Array, "n h w c"], sizes: Int[Array, "n 2"]) -> Shaped[Array, "n h w c"]:
    """Images (or maps) on a bucket, each mirrored about its own vertical axis."""
    columns = jnp.arange(images.shape[2])
    source = jnp.clip(sizes[:, 1, None] - 1 - columns, 0)  # beyond the image any pixel will do
    return jnp.take_along_axis(images, source[:, None, :, None], axis=2)


def _batch_pixels() -> int:
    return 2**18 if jax.default_backend() == "cpu" else 2**22
