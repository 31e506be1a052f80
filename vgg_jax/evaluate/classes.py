"""The classes of an evaluation, where a network knows more of them than the source has (Imagenette's ten, say)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vgg_jax.data.source import Source
from vgg_jax.errors import DataError
from vgg_jax.weights.classes import imagenet, labeled, positions

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class EvalClasses(NamedTuple):
    """The classes that an image may be taken for."""

    names: tuple[str, ...]
    outputs: Int[np.ndarray, " classes"]
    """Which of the network's outputs they are."""
    of_source: Int[np.ndarray, " source_classes"]
    """The positions in `names` of the source's classes."""
    note: str = ""
    """Where the network knows more classes than the source has: over which it is evaluated."""

    @property
    def beyond_source(self) -> bool:
        """Whether an image may be taken for a class that is not among those of the source."""
        return len(self.names) > len(self.of_source)

    def restricted(self, posteriors: Float[np.ndarray, "n outputs"]) -> Float[np.ndarray, "n classes"]:
        """A network's posteriors of these classes; where they are not all of its classes, renormalized to sum to 1."""
        chosen = posteriors[:, self.outputs]
        if len(self.outputs) == posteriors.shape[1]:
            return chosen
        return chosen / np.maximum(chosen.sum(1, keepdims=True), np.finfo(np.float32).tiny)


def eval_classes(known: Sequence[str], source: Source, choice: str, name: str) -> EvalClasses:
    """Finds a source's classes, in whatever order, among a network's.

    An ImageNet class is the same whether it is named by its WordNet id alone, as in data sets, or by id and name, as in
    weights.

    Args:
      known: the network's classes.
      source: the images.
      choice: where the network knows more classes than the source has, over which it is evaluated: "all" of its own, or
        the "source"'s; "" where that does not matter.
      name: of the network, for messages.

    Raises:
      DataError: the network's classes have no names, the source has others, or there is no choice where it matters.
    """
    asked = source.classes
    if not known:
        raise DataError(f"{name} does not name its classes: what it answers on {source.name} has no meaning")
    outputs, unknown = positions(asked, known)
    if unknown:
        more = f" and {len(unknown) - 1:,} more" if unknown[1:] else ""
        its = f"{', '.join(known[:3])}{', ...' if known[3:] else ''}"
        raise DataError(
            f"{name} has no class {unknown[0]!r}{more} of {source.describe()}; its own {len(known):,} are {its}"
        )
    if len(asked) == len(known):
        return EvalClasses(tuple(asked), outputs, np.arange(len(asked)))
    if choice == "source":
        note = f"; over these {len(asked):,} of the network's {len(known):,}, posteriors renormalized"
        return EvalClasses(tuple(asked), outputs, np.arange(len(asked)), note)
    if choice == "all":
        note = f"; over all {len(known):,} of the network"
        return EvalClasses(tuple(known), np.arange(len(known)), outputs, note)
    raise DataError(
        f"{name} knows {len(known):,} classes, {source.name} has {len(asked):,} of them: "
        f"--config.evaluate.classes=source evaluates over these {len(asked):,}, by renormalized posteriors; "
        f"--config.evaluate.classes=all over all {len(known):,}"
    )


def is_ilsvrc_validation(source: Source) -> bool:
    """Whether these are the images of the paper's tables: all of ILSVRC-2012's validation."""
    of_imagenet = tuple(map(labeled, source.classes)) == imagenet()
    altered = source.name.startswith("tfds:imagenet2012_")  # such as imagenet2012_corrupted
    return source.split == "validation" and len(source) == 50_000 and of_imagenet and not altered
