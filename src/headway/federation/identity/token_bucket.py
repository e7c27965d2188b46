"""The rate of requests that a node may make."""

from __future__ import annotations

import time
from dataclasses import dataclass

LEAST = 10_000  # nodes, below which all are kept


@dataclass
class _Level:
    left: float
    at: float


class TokenBuckets:
    """A bucket for each node: `burst` requests at once, refilled with `rate` in a second."""

    def __init__(self, rate: float = 100.0, burst: float = 400.0) -> None:
        assert rate > 0
        assert burst >= 1
        self.rate, self.burst = rate, burst
        self._levels: dict[str, _Level] = {}
        self._look_at = LEAST

    def take(self, node: str, now: float | None = None) -> float:
        """Takes one request of a node.

        now: seconds on the monotonic clock, by default the current.

        Returns:
            0 if it may be carried out, or the seconds until one may.
        """
        now = time.monotonic() if now is None else now
        level = self._levels.get(node)
        if level is None:
            self._forget_full(now)
            level = self._levels[node] = _Level(self.burst, now)
        level.left = min(self.burst, level.left + self.rate * max(0.0, now - level.at))
        level.at = now
        if level.left >= 1:
            level.left -= 1
            return 0.0
        return (1 - level.left) / self.rate

    def _forget_full(self, now: float) -> None:
        """Drops the buckets that are full again, so that names that nobody uses cost no memory."""
        if len(self._levels) < self._look_at:
            return
        full = [node for node, level in self._levels.items() if level.left + self.rate * (now - level.at) >= self.burst]
        for node in full:
            del self._levels[node]
        self._look_at = max(LEAST, 2 * len(self._levels))
