"""Protocol 1 of localization: the boxes that a network sees in the central crop of an image (App. A).

They are averaged, coordinate by coordinate, with those of the mirror image, as posteriors are (Sec. 3.2); Appendix A
does not say whether the paper's are.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from vgg_jax.data.boxes import from_window, mirrored
from vgg_jax.data.sampler import Requests
from vgg_jax.data.source import Source
from vgg_jax.data.training_batches import TrainingBatches
from vgg_jax.inference.buckets import ScaledImage
from vgg_jax.inference.runner import Runner
from vgg_jax.model.box_outputs import boxes_of
from vgg_jax.model.vgg import VGG

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt8

_READ = 32  # images at once


class CentralBoxes:
    """A network that localizes as a function of the images of a source.

    Args:
      net: the network.
      scale: Q, what an image's smaller side is rescaled to, in pixels: at least the net's crop.
      flip: whether the mirror image counts too.
      batch_size: as in `vgg_jax.inference.runner.Runner`.
    """

    def __init__(self, net: VGG, scale: int, flip: bool, *, batch_size: int | None = None):
        self._scale = scale
        self.runner = Runner(net, _FUNCTIONS[flip], smallest=net.crop, batch_size=batch_size)

    def __call__(
        self, source: Source, indices: Sequence[int], problems: dict[str, str], *, threads: int = 0, on_error="raise"
    ) -> Iterator[tuple[int, Float[np.ndarray, "boxes 4"]]]:
        """The boxes in some images of a source, in whatever order is fast.

        Args:
          source: the images.
          indices: which of them.
          problems: with on_error="skip" is given what cannot be read, {name: reason}.
          threads: how many read and decode, 0 for one per core.
          on_error: "raise", or "skip" to leave out what cannot be read.

        Yields:
          (index, corners in pixels of the image as it was decoded), a box for each class or one for all.

        Raises:
          DataError: an image cannot be read, or none can.
        """
        crop, indices = self.runner.net.crop, np.asarray(indices, np.int64)

        def requests(k: int) -> Requests:
            some = indices[k * _READ : (k + 1) * _READ]
            index = np.pad(some, (0, _READ - len(some)), constant_values=-1)
            return Requests(index, np.full(_READ, self._scale, np.int32), np.full((_READ, 2), 0.5))

        def crops() -> Iterator[ScaledImage]:
            options = {"stop": -(-len(indices) // _READ), "threads": threads, "on_error": on_error}
            with contextlib.closing(TrainingBatches(source, requests, crop=crop, **options)) as batches:
                for batch in batches:
                    for row in np.flatnonzero(batch["mask"]):
                        yield ScaledImage((batch["index"][row], tuple(batch["window"][row])), batch["image"][row])
                    problems.update(batches.problems)

        for (index, window), outputs in self.runner(crops()):
            yield int(index), from_window(outputs["boxes"], np.array(window))


def _boxes(net: VGG, images: UInt8[Array, "n h w 3"], sizes: Int[Array, "n 2"], *, flip: bool) -> dict[str, Array]:
    """The boxes in images of the crop's size, or their averages with those of the mirror images; `sizes` are known."""
    del sizes
    crops = images[:, : net.crop, : net.crop]
    both = jnp.stack([crops, crops[:, :, ::-1]] if flip else [crops], 1)
    boxes = boxes_of(net(both.reshape(-1, *crops.shape[1:]))[:, 0, 0])
    boxes = boxes.reshape(*both.shape[:2], *boxes.shape[1:])
    return {"boxes": (boxes[:, 0] + mirrored(boxes[:, 1])) / 2 if flip else boxes[:, 0]}


_FUNCTIONS = {flip: functools.partial(_boxes, flip=flip) for flip in (False, True)}  # so that programs are shared
