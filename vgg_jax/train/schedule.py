"""The learning rate as the run goes on: on a plateau, by steps, or fixed (Sec. 3.1)."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict


@dataclasses.dataclass
class Schedule:
    """A fixed learning rate after a warm-up, and what the loop asks of every schedule.

    Its `state` goes into every checkpoint; `observe` is given the monitored metric of each evaluation.

    Args:
      rate: the learning rate at the beginning.
      warmup_steps: over which it rises linearly.
      factor: of each drop.
    """

    rate: float
    warmup_steps: int = 0
    factor: float = 0.1

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return warm * self.rate * self.factor ** self.drops_before(step)

    def drops_before(self, step: int) -> int:
        """How often the rate has fallen when `step` is taken."""
        del step
        return 0

    def observe(self, step: int, value: float) -> str:
        """Takes the monitored metric after `step` steps; returns what it decided, for the log, or ""."""
        del step, value
        return ""

    @property
    def finished(self) -> bool:
        """Whether the schedule itself ends the run before its last step."""
        return False

    @property
    def state(self) -> dict:
        """What a checkpoint keeps, JSON values."""
        return {}

    def restore(self, state: dict) -> None:
        """Puts back what `state` gave."""
        del state


@dataclasses.dataclass
class Steps(Schedule):
    """Falls at given steps."""

    boundaries: tuple[int, ...] = ()

    def drops_before(self, step: int) -> int:
        return sum(step >= boundary for boundary in self.boundaries)


@dataclasses.dataclass
class Plateau(Schedule):
    """Falls when the monitored metric stops improving; after the last fall the next plateau ends the run.

    Args:
      drops: falls in all, 3 in the paper.
      patience: evaluations in a row without improvement that make a plateau.
      threshold: what the metric, a fraction, must rise by to count as improved.
      min_interval: steps that must pass after a fall before the next.
    """

    drops: int = 3
    patience: int = 5
    threshold: float = 0.001
    min_interval: int = 0

    def __post_init__(self):
        self._best, self._best_step, self._waited, self._dropped_at, self._finished = -1.0, 0, 0, [], False

    def drops_before(self, step: int) -> int:
        return sum(step >= dropped for dropped in self._dropped_at)

    def observe(self, step: int, value: float) -> str:
        if value > self._best + self.threshold:
            self._best, self._best_step, self._waited = value, step, 0
            return ""
        self._waited += 1
        since = step - (self._dropped_at[-1] if self._dropped_at else 0)
        if self._waited < self.patience or since < self.min_interval:
            return ""
        why = f"no rise above {self._best:.2%} (step {self._best_step}) in {self._waited} evaluations"
        self._waited = 0
        if len(self._dropped_at) == self.drops:
            self._finished = True
            return f"{why}: stopping after {self.drops} drops of the learning rate"
        self._dropped_at.append(step)
        return f"{why}: learning rate falls to {self.rate_at(max(step, self.warmup_steps)):.1e}"

    @property
    def finished(self) -> bool:
        return self._finished

    @property
    def state(self) -> dict:
        return {
            "best": self._best,
            "best_step": self._best_step,
            "waited": self._waited,
            "dropped_at": list(self._dropped_at),
            "finished": self._finished,
        }

    def restore(self, state: dict) -> None:
        self._best, self._best_step, self._waited = state["best"], state["best_step"], state["waited"]
        self._dropped_at, self._finished = list(state["dropped_at"]), state["finished"]


def make_schedule(config: ConfigDict) -> Schedule:
    """The schedule that `config.schedule` asks for, starting at `config.train.learning_rate`."""
    common = config.train.learning_rate, config.schedule.warmup_steps, config.schedule.factor
    if config.schedule.kind == "plateau":
        names = ("drops", "patience", "threshold", "min_interval")
        return Plateau(*common, **{name: config.schedule[name] for name in names})
    if config.schedule.kind == "step":
        return Steps(*common, boundaries=tuple(config.schedule.boundaries))
    return Schedule(*common)
