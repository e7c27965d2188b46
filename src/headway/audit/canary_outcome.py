"""The epsilon that canaries show, beside the one that the ledger counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from headway.audit.canaries import COARSEST, CanaryEstimate

Verdict = Literal["failed", "succeeded", "not judged"]
TOLERANCE = 1.25  # times the ledger's epsilon: above it, noise or clip are not what the ledger counts


@dataclass(frozen=True, slots=True)
class CanaryOutcome:
    """The canaries' epsilons beside the ledger's, for one release and for the run.

    release, run: the ledger's.  shown, low, high: the canaries' for one release, with two standard errors;
    shown_run: what the run would have with the noise that they show.
    fresh: whether each round's noise should be independent of the others'.
    """

    where: str
    estimate: CanaryEstimate
    claimed: float
    delta: float
    release: float
    shown: float
    low: float
    high: float
    rounds: int
    fresh: bool = True
    run: float | None = None
    shown_run: float | None = None

    @property
    def ratio(self) -> float:
        """The larger of the two ratios of the canaries' epsilon and the ledger's."""
        found = [_ratio(self.shown, self.release)]
        if self.run is not None and self.shown_run is not None:
            found.append(_ratio(self.shown_run, self.run))
        return max(found)

    @property
    def verdict(self) -> Verdict:
        """Whether the canaries show more than the ledger counts; not judged where they are too few."""
        if self.repeats or (self.ratio > TOLERANCE and (self.sure or self.low > TOLERANCE * self.release)):
            return "succeeded"
        return "failed" if self.sure and self.ratio <= TOLERANCE else "not judged"

    @property
    def sure(self) -> bool:
        """Whether there are canaries enough."""
        return self.estimate.error <= COARSEST

    @property
    def repeats(self) -> bool:
        """Whether noise that should be new in each round is that of the round before."""
        return self.fresh and abs(self.estimate.repeats) > 0.1 + 5 / math.sqrt(self.estimate.size)


def _ratio(shown: float, promised: float) -> float:
    if math.isinf(promised):
        return 0.0
    return shown / promised if promised > 0 else (math.inf if shown > 0 else 0.0)
