"""The learning rate over time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from headway.core.fields import at_least, between
from headway.core.registry import Plain


@dataclass(frozen=True)
class Schedule(Plain):
    """The learning rate over time, as a factor of a trainer's `lr`.

    Formula, t being the number of rounds, local epochs or local steps that are complete:

        constant:     1
        step:         factor ** (t // every)
        exponential:  factor ** t
        linear:       1 - (1 - floor) * min(t / horizon, 1)
        cosine:       floor + (1 - floor) * (1 + cos(pi * min(t / horizon, 1))) / 2

    over: what t counts; epochs and steps start anew in each round.

    Raises:
        ConfigError: for an unknown kind, or a factor, floor, horizon or interval out of range.

    >>> [Schedule(kind="step", every=2, factor=0.5)(t) for t in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    kind: Literal["constant", "step", "exponential", "linear", "cosine"] = "constant"
    over: Literal["rounds", "epochs", "steps"] = "rounds"
    factor: float = between(0, 1, 0.5, without=0)
    every: int = at_least(1, 1)
    horizon: int = at_least(1, 100)
    floor: float = between(0, 1, 0.0)

    def __call__(self, t: int) -> float:
        """The factor after t rounds, epochs or steps."""
        done = min(t / self.horizon, 1.0)
        if self.kind == "step":
            return float(self.factor ** (t // self.every))
        if self.kind == "exponential":
            return float(self.factor**t)
        if self.kind == "linear":
            return 1 - (1 - self.floor) * done
        if self.kind == "cosine":
            return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2
        return 1.0
