"""Classification: multinomial logistic regression on the class scores of random crops (Sec. 3.1)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vgg_jax.config import eval_scale
from vgg_jax.data.open import open_source
from vgg_jax.data.source import Source
from vgg_jax.errors import DataError
from vgg_jax.evaluate.dataset import evaluate_dataset
from vgg_jax.evaluate.metrics import hits, summary, warn_of_few_classes
from vgg_jax.inference.runner import Runner
from vgg_jax.inference.scorer import eval_views, posterior_runner
from vgg_jax.model.vgg import VGG
from vgg_jax.progress import Progress
from vgg_jax.tasks.random_crops import RandomCrops
from vgg_jax.train.step import Metrics

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class Classification(RandomCrops):
    """The class of every image, and the error on the validation split.

    Args:
      config: the run's.
      mesh: all devices.
      workdir: the run's folder; the color statistics are kept in its `colors.json`.

    Raises:
      DataError: the source or a split of it is not there, or its color statistics cannot be computed.
    """

    monitor = "top1"

    def __init__(self, config: ConfigDict, mesh: Mesh, workdir: Path):
        data = config.data
        source, validation_source = (open_source(data.source, s) for s in (data.train_split, data.validation_split))
        _check_classes(source)
        warn_of_few_classes(len(source.classes))
        super().__init__(config, mesh, workdir, source, validation_source, len(source.classes))
        self._views = eval_views([config.evaluate.validation], [eval_scale(config)])
        self._runner: Runner | None = None

    def criterion(self, outputs: Float[Array, "n h w classes"], batch: dict[str, Array]) -> tuple[Array, Metrics]:
        """`classification_loss`."""
        return classification_loss(outputs, batch)

    def evaluate(self, net: VGG) -> dict[str, float]:
        """`loss`, `top1` and `top5` on the validation split, and `images`, how many were counted.

        Raises:
          DataError: an image cannot be read, or none can.
        """
        if self._runner is None:  # its programs are compiled once
            size = self.config.evaluate.batch_size or None
            self._runner = posterior_runner(net, self.config.data.flip, batch_size=size)
        self._runner.use(nnx.state(net))
        progress = Progress("validation")
        predictions = evaluate_dataset(
            self._runner, self.validation_source, self._views, progress=progress, **self.reading
        )
        progress.clear()
        self.problems |= predictions.problems
        return summary(np.mean(list(predictions.posteriors.values()), axis=0), predictions.labels)


def _check_classes(source: Source) -> None:
    """Refuses a source of one class.

    Raises:
      DataError: there is nothing to tell apart.
    """
    if len(source.classes) < 2:
        raise DataError(
            f"{source.describe()}: there is nothing to tell {source.classes[0]!r} from; the classes of a folder are "
            "the folders directly in it, or in its train/"
        )


def classification_loss(scores: Float[Array, "n h w classes"], batch: dict[str, Array]) -> tuple[jax.Array, Metrics]:
    """Cross-entropy of the soft-max, top-1 and top-5 hits, each summed over the images whose mask is 1.

    Args:
      scores: maps of class scores, which are averaged over their places.
      batch: `label` (n,) int32 and `mask` (n,) float32.
    """
    scores = scores.mean((1, 2))
    entropy = optax.softmax_cross_entropy_with_integer_labels(scores, batch["label"])
    total = (entropy * batch["mask"]).sum()
    return total, {"loss": total, **hits(scores, batch["label"], batch["mask"])}
