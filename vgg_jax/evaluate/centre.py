"""The centre crop: the single-crop accuracy that everybody reports, and the validation of a training run."""

from __future__ import annotations

import contextlib

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from vgg_jax.data.eval_stream import centre_crops
from vgg_jax.data.sources import Source
from vgg_jax.errors import DataError
from vgg_jax.evaluate.metrics import hits
from vgg_jax.parallel import batch_multiple, place_batch, prefetch


class CentreCropEvaluation:
    """Accuracy of a network on the centre crops of a source, each image exactly once.

    Args:
      graphdef: the network's structure, from `split_network`.
      source: the images.
      mesh: the devices.
      crop: side of the crop in pixels.
      scale: Q, what the smaller side of an image is rescaled to.
      batch_size: images at once over all devices; rounded up to a multiple of them, the last batch is padded.
      threads, on_error: of the reading, as in `centre_crops`.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        source: Source,
        mesh: Mesh,
        *,
        crop: int,
        scale: int,
        batch_size: int,
        threads: int = 0,
        on_error: str = "raise",
    ):
        self._source, self._mesh = source, mesh
        self._reading = {
            "batch_size": batch_multiple(min(batch_size, len(source)), mesh),
            "crop": crop,
            "smaller_side": scale,
            "process_index": jax.process_index(),
            "process_count": jax.process_count(),
            "threads": threads,
            "on_error": on_error,
        }
        self.problems: dict[str, str] = {}
        """Images that could not be read and were left out: {where: reason}."""

        def sums(trainable: nnx.State, rest: nnx.State, batch: dict) -> dict:
            scores = nnx.merge(graphdef, trainable, rest)(batch["image"]).mean((1, 2))
            entropy = optax.softmax_cross_entropy_with_integer_labels(scores, batch["label"])
            counted = {"loss": (entropy * batch["mask"]).sum(), "images": batch["mask"].sum()}
            return counted | hits(scores, batch["label"], batch["mask"])

        self._sums = jax.jit(sums)

    def __call__(self, trainable: nnx.State, rest: nnx.State) -> dict[str, float]:
        """Evaluates one set of parameters.

        Args:
          trainable, rest: the network's arrays, from `split_network`.

        Returns:
          `loss`, `top1` and `top5` as means (fractions) and `images`, how many were counted.

        Raises:
          DataError: an image cannot be read, or none can.
        """
        stream = centre_crops(self._source, **self._reading)
        totals = None
        place = lambda batch: place_batch({name: batch[name] for name in ("image", "label", "mask")}, self._mesh)
        with contextlib.closing(stream), prefetch(stream, place) as placed:
            for batch in placed:
                sums = self._sums(trainable, rest, batch)
                totals = sums if totals is None else jax.tree.map(jax.numpy.add, totals, sums)
        self.problems |= stream.problems
        totals = {name: float(value) for name, value in (totals or {"images": 0}).items()}
        images = totals.pop("images")
        if not images:
            raise DataError(f"{self._source.describe()}: no image could be read, there is nothing to evaluate on")
        return {name: total / images for name, total in totals.items()} | {"images": images}
