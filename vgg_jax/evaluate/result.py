"""What a network scored on a source, and the rows of the paper's tables that it gives (Sec. 4.1 to 4.4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from vgg_jax.evaluate.paper import Setting
from vgg_jax.evaluate.posteriors import Posteriors, fused
from vgg_jax.evaluate.tables import Row, fused_row, row
from vgg_jax.inference.scorer import PROTOCOLS, EvalView, eval_views

ROWS: dict[str, tuple[tuple[int, str], ...]] = {
    "center": ((0, "single"),),
    "dense": ((3, "single"), (4, "several"), (5, "several")),
    "crops": ((5, "several"),),
    "both": ((5, "several"),),
}
"""The rows that a protocol fills: in which table, over which Q. Its last row's Q are those of its fusion."""


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """A network's posteriors on a source by several protocols."""

    name: str
    """Of the checkpoint, or where the weights are from."""
    scale: int
    """Q of single-scale evaluation."""
    scales: tuple[int, ...]
    """Q of multi-scale evaluation."""
    protocols: tuple[str, ...]
    parts: dict[str, Posteriors]
    """By dense, crops and center, what the protocols average."""
    source: str
    """Describes it."""
    of_the_paper: bool
    """Whether network and images are the paper's."""

    @property
    def any_part(self) -> Posteriors:
        """One of the parts: they are of the same network on the same images, in the same order."""
        return next(iter(self.parts.values()))

    def scales_of(self, protocol: str) -> tuple[int, ...]:
        """All the Q that a protocol is evaluated at together."""
        return _scales(ROWS[protocol][-1][1], self.scale, self.scales)

    def scored(self, protocol: str, scales: tuple[int, ...]) -> tuple[Setting, np.ndarray]:
        """By one protocol, averaged over scales Q: what it is of, and float32 (images, classes)."""
        about = self.any_part.about
        setting = Setting(about["network"], tuple(about["S"]), scales, protocol)
        return setting, fused([self.parts[part].at(*scales) for part in PROTOCOLS[protocol]])

    def rows(self) -> list[Row]:
        """The rows of Tables 3 to 5, and of the center crop."""
        return [
            row(
                *self.scored(protocol, _scales(which, self.scale, self.scales)),
                self.any_part.labels,
                table=table,
                of_the_paper=self.of_the_paper,
            )
            for protocol in self.protocols
            for table, which in ROWS[protocol]
            if self._wanted(protocol, table)
        ]

    def _wanted(self, protocol: str, table: int) -> bool:
        """Dense at several Q is a row where there are several, and is compared with crops where there are crops."""
        if (protocol, table) not in (("dense", 4), ("dense", 5)):
            return True
        return len(self.scales) > 1 and (table == 4 or not {"crops", "both"}.isdisjoint(self.protocols))


def needed_views(protocols: Sequence[str], scale: int, scales: tuple[int, ...]) -> list[EvalView]:
    """What the rows of some protocols average.

    >>> needed_views(["center", "dense"], 48, (40, 48))
    [EvalView(protocol='center', scale=48), EvalView(protocol='dense', scale=40), EvalView(protocol='dense', scale=48)]
    """
    rows = [(protocol, which) for protocol in protocols for _, which in ROWS[protocol]]
    return sorted({view for protocol, which in rows for view in eval_views([protocol], _scales(which, scale, scales))})


def _scales(which: str, scale: int, scales: tuple[int, ...]) -> tuple[int, ...]:
    return {"single": (scale,), "several": scales}[which]


def fusion_rows(results: Sequence[EvaluationResult]) -> list[Row]:
    """The rows of Table 6: the average over the networks, each over its own scales."""
    labels, of_the_paper = results[0].any_part.labels, all(result.of_the_paper for result in results)
    return [
        fused_row([r.scored(protocol, r.scales_of(protocol)) for r in results], labels, of_the_paper=of_the_paper)
        for protocol in results[0].protocols
        if all(set(PROTOCOLS[protocol]) <= set(result.parts) for result in results)
    ]
