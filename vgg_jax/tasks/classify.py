"""Classification: multinomial logistic regression on the class scores (Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vgg_jax.config import test_scale
from vgg_jax.evaluate.metrics import hits
from vgg_jax.model.vgg import VGG


class Classification:
    """What the training loop asks of a task: its data, its loss, and how good a state is.

    Args:
      config: the run's.
      mesh: the devices.

    Attributes:
      source: the training images.
      classes: names of the outputs.
      steering: the metric of `evaluate` that the schedule follows and the best checkpoint is chosen by.

    Raises:
      DataError: the source or a split of it is not there.
    """

    steering = "top1"

    def __init__(self, config: ConfigDict, mesh: Mesh):
        # The data wing brings TensorFlow, which the loss does not need.
        from vgg_jax.data.sources import open_source

        self._config, self._mesh = config, mesh
        self.source = open_source(config.data.source, config.data.train_split)
        self.held_out = open_source(config.data.source, config.data.validation_split)
        self.classes = self.source.classes

    def loss(self, net: VGG, images: jax.Array, batch: dict[str, jax.Array], keys: jax.Array) -> tuple[jax.Array, dict]:
        """`classification_loss`."""
        return classification_loss(net, images, batch, keys)

    def evaluator(self, graphdef: nnx.GraphDef) -> Callable[[nnx.State, nnx.State], dict[str, float]]:
        """A function of a state's `trainable` and `rest` to its metrics on the validation split."""
        from vgg_jax.evaluate.centre import CentreCropEvaluation

        return CentreCropEvaluation(
            graphdef,
            self.held_out,
            self._mesh,
            crop=self._config.data.crop,
            scale=test_scale(self._config),
            batch_size=self._config.evaluate.batch_size,
            threads=self._config.data.threads,
            on_error=self._config.data.on_error,
        )


def classification_loss(
    net: VGG, images: jax.Array, batch: dict[str, jax.Array], keys: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of the soft-max, top-1 and top-5 hits, each summed over the images whose mask is 1.

    Args:
      net: the network; dropout is drawn from `keys`.
      images: augmented RGB, shape (n, crop, crop, 3).
      batch: `label` (n,) int32 and `mask` (n,) float32.
      keys: one PRNG key an image.
    """
    scores = net(images, keys=keys).mean((1, 2))
    entropy = optax.softmax_cross_entropy_with_integer_labels(scores, batch["label"])
    total = (entropy * batch["mask"]).sum()
    return total, {"loss": total, **hits(scores, batch["label"], batch["mask"])}
