"""Classification: multinomial logistic regression on the class scores (Sec. 3.1)."""

from __future__ import annotations

import jax
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from vgg_jax.config import eval_scale
from vgg_jax.data.open import open_source
from vgg_jax.data.source import Source
from vgg_jax.evaluate.dataset import evaluate_dataset
from vgg_jax.evaluate.metrics import hits, summary
from vgg_jax.inference.scorer import eval_views, posterior_runner
from vgg_jax.model.vgg import VGG


class Classification:
    """What the training loop asks of a task: its data, its loss, and how good a state is.

    Args:
      config: the run's.

    Attributes:
      source: the training images.
      classes: names of the outputs.
      monitor: the metric of `evaluate` that the schedule follows and the best checkpoint is chosen by.

    Raises:
      DataError: the source or a split of it is not there.
    """

    monitor = "top1"

    def __init__(self, config: ConfigDict):
        self._config = config
        self.source = open_source(config.data.source, config.data.train_split)
        self.validation_source = open_source(config.data.source, config.data.validation_split)
        self.classes = self.source.classes

    def loss(self, net: VGG, images: jax.Array, batch: dict[str, jax.Array], keys: jax.Array) -> tuple[jax.Array, dict]:
        """`classification_loss`."""
        return classification_loss(net, images, batch, keys)

    def evaluator(self, graphdef: nnx.GraphDef) -> Validation:
        """A function of a state's `trainable` and `rest` to its metrics on the validation split."""
        return Validation(graphdef, self.validation_source, self._config)


class Validation:
    """How good a state of the network is on the held-out images, by the protocol that the config names.

    Args:
      graphdef: the network's structure, from `split_network`.
      source: the held-out images.
      config: the run's; `config.evaluate` says how.

    Attributes:
      problems: images that could not be read and were left out: {where: reason}.
    """

    def __init__(self, graphdef: nnx.GraphDef, source: Source, config: ConfigDict):
        self._graphdef, self._source, self._config, self._runner = graphdef, source, config, None
        self._views = eval_views([config.evaluate.validation], [eval_scale(config)])
        self.problems: dict[str, str] = {}

    def __call__(self, trainable: nnx.State, rest: nnx.State) -> dict[str, float]:
        """`loss`, `top1` and `top5` (fractions), and `images`, how many were counted.

        Raises:
          DataError: an image cannot be read, or none can.
        """
        config = self._config
        if self._runner is None:
            net = nnx.merge(self._graphdef, trainable, rest)
            batch_size = config.evaluate.batch_size or None
            self._runner = posterior_runner(net, self._views, config.data.flip, batch_size=batch_size)
        self._runner.use(trainable, rest)
        options = {"threads": config.data.threads, "on_error": config.data.on_error}
        predictions = evaluate_dataset(self._runner, self._source, self._views, **options)
        self.problems |= predictions.problems
        return summary(np.mean([predictions.posteriors[view] for view in self._views], axis=0), predictions.labels)


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
