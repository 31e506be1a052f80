"""What a network scored on a source, and the rows of the paper's tables that it gives (Sec. 4.1 to 4.4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from vgg_jax.evaluate.paper import Setting
from vgg_jax.evaluate.posteriors import Posteriors, fused
from vgg_jax.evaluate.tables import Row, row
from vgg_jax.inference.scorer import PROTOCOLS


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
    """By dense, crops and centre, what the protocols average."""
    source: str
    """Describes it."""
    of_the_paper: bool
    """Whether network and images are the paper's."""
    problems: dict[str, str]
    """Images that could not be read and are not counted: {name: reason}."""

    @property
    def any_part(self) -> Posteriors:
        """One of the parts: they are of the same network on the same images, in the same order."""
        return next(iter(self.parts.values()))

    @property
    def network(self) -> str:
        return self.any_part.about["network"]

    @property
    def S(self) -> tuple[int, int]:
        """(Smin, Smax) of its training; (0, 0) if that is not known."""
        return tuple(self.any_part.about["S"])

    def scales_of(self, protocol: str) -> tuple[int, ...]:
        """All the Q that a protocol is evaluated at together."""
        return (self.scale,) if protocol == "centre" else self.scales

    def posteriors(self, protocol: str, scales: tuple[int, ...]) -> np.ndarray:
        """By one protocol, averaged over scales Q: float32 (images, classes)."""
        return fused([self.parts[part].at(*scales) for part in PROTOCOLS[protocol]])

    def rows(self) -> list[Row]:
        """The rows of Tables 3 to 5."""
        single, several = (self.scale,), self.scales
        rows = []
        for protocol in self.protocols:
            if protocol in ("centre", "dense") or len(several) == 1:
                rows.append(self._row(protocol, single, {"centre": 0, "dense": 3}.get(protocol, 5)))
            if protocol == "dense" and len(several) > 1:
                rows.append(self._row(protocol, several, 4))
            beside_crops = protocol == "dense" and len(self.protocols) > 2
            if len(several) > 1 and (protocol in ("crops", "both") or beside_crops):
                rows.append(self._row(protocol, several, 5))
        return rows

    def _row(self, protocol: str, scales: tuple[int, ...], table: int) -> Row:
        setting, labels = Setting(self.network, self.S, scales, protocol), self.any_part.labels
        return row(setting, self.posteriors(protocol, scales), labels, table=table, of_the_paper=self.of_the_paper)


def fusion_rows(results: Sequence[EvaluationResult]) -> list[Row]:
    """The rows of Table 6: the average over the networks, each over its own scales."""
    rows, first = [], results[0]
    for protocol in first.protocols:
        if not all(set(PROTOCOLS[protocol]) <= set(result.parts) for result in results):
            continue
        scales = [result.scales_of(protocol) for result in results]
        average = np.mean([r.posteriors(protocol, q) for r, q in zip(results, scales, strict=True)], axis=0)
        alike = len({result.S for result in results}) == len(set(scales)) == 1
        setting = Setting(
            " + ".join(result.network for result in results),
            first.S if alike else (0, 0),
            scales[0] if alike else tuple(sorted({q for each in scales for q in each})),
            protocol,
        )
        of_the_paper = alike and all(result.of_the_paper for result in results)
        rows.append(row(setting, average, first.any_part.labels, table=6, of_the_paper=of_the_paper))
    return rows
