"""The waits between attempts to reach a server: longer each time, and drawn, so that agents do not come at once."""

from __future__ import annotations

import random
from dataclasses import dataclass

SHORTEST_S, LONGEST_S = 0.25, 30.0


@dataclass
class Backoff:
    """Waits that double, each drawn between a half and the whole of its length.

    Formula: wait k is uniform in `[d/2, d]`, `d = min(longest, shortest 2^k)`; k starts again at 0 with each success.
    """

    shortest: float = SHORTEST_S
    longest: float = LONGEST_S
    failures: int = 0

    def wait(self, at_least: float = 0.0) -> float:
        """The seconds to wait before the next attempt; at_least: what the server has asked for."""
        whole = min(self.longest, self.shortest * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return max(at_least, random.uniform(whole / 2, whole))  # not a draw that a result depends on

    def reset(self) -> None:
        """After a success the waits are short again."""
        self.failures = 0
