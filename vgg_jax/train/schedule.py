"""The learning rate as the run goes on: on a plateau, by steps, or fixed (Sec. 3.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from ml_collections import ConfigDict


@dataclasses.dataclass
class Schedule:
    """A learning rate that falls at given steps, if any, after a warm-up; and what the loop asks of every schedule.

    Its `state` goes into every checkpoint; `observe` is given the monitored metric of each evaluation.

    Args:
      rate: the learning rate at the beginning.
      warmup_steps: over which it rises linearly.
      factor: of each drop.
      boundaries: the steps at which it drops.
    """

    rate: float
    warmup_steps: int = 0
    factor: float = 0.1
    boundaries: Sequence[int] = ()

    finished: ClassVar[bool] = False
    """Whether the schedule itself ends the run before its last step."""
    state: ClassVar[dict] = {}
    """What a checkpoint keeps, JSON values."""

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return warm * self.rate * self.factor ** sum(step >= boundary for boundary in self.boundaries)

    def observe(self, step: int, value: float) -> str:
        """Takes the monitored metric after `step` steps; returns what it decided, for the log, or ""."""
        del step, value
        return ""

    def restore(self, state: dict) -> None:
        """Puts back what `state` gave."""
        del state


class Plateau(Schedule):
    """Falls when the monitored metric stops improving; after the last fall the next plateau ends the run.

    Args:
      drops: falls in all, 3 in the paper.
      patience: evaluations in a row without improvement that make a plateau.
      threshold: what the metric, a fraction, must rise by to count as improved.
      min_interval: steps that must pass after a fall before the next.
      common: `rate`, `warmup_steps` and `factor`, as `Schedule` has them.
    """

    def __init__(
        self, *, drops: int = 3, patience: int = 5, threshold: float = 0.001, min_interval: int = 0, **common: float
    ):
        super().__init__(**common)
        self._drops, self._patience, self._threshold, self._min_interval = drops, patience, threshold, min_interval
        self.restore({})

    @property
    def state(self) -> dict:
        return {
            "best": self._best,
            "best_step": self._best_step,
            "waited": self._waited,
            "dropped_at": list(self.boundaries),
            "finished": self.finished,
        }

    def restore(self, state: dict) -> None:
        fresh = {"best": -1.0, "best_step": 0, "waited": 0, "dropped_at": [], "finished": False}
        state = fresh | state  # empty where the run began with another kind of schedule
        self._best, self._best_step, self._waited = state["best"], state["best_step"], state["waited"]
        self.boundaries, self.finished = list(state["dropped_at"]), state["finished"]

    def observe(self, step: int, value: float) -> str:
        if value > self._best + self._threshold:
            self._best, self._best_step, self._waited = value, step, 0
            return ""
        self._waited += 1
        since = step - (self.boundaries[-1] if self.boundaries else 0)
        if self._waited < self._patience or since < self._min_interval:
            return ""
        why = f"no rise above {self._best:.2%} (step {self._best_step}) in {self._waited} evaluations"
        self._waited = 0
        if len(self.boundaries) == self._drops:
            self.finished = True
            return f"{why}: stopping after {self._drops} drops of the learning rate"
        self.boundaries.append(step)
        return f"{why}: learning rate falls to {self.rate_at(max(step, self.warmup_steps)):.1e}"


def make_schedule(config: ConfigDict) -> Schedule:
    """The schedule that `config.schedule` asks for, starting at `config.train.learning_rate`."""
    given = dict(config.schedule)
    kind, boundaries = given.pop("kind"), tuple(given.pop("boundaries"))
    if kind == "plateau":
        return Plateau(rate=config.train.learning_rate, **given)
    return Schedule(config.train.learning_rate, given["warmup_steps"], given["factor"], boundaries)
