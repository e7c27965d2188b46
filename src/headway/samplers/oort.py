"""Oort: the clients first whose examples teach most in the least time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from headway.core.fields import at_least, between, positive
from headway.core.flow import Reading, SamplerFacts
from headway.core.sampler import samplers
from headway.numerics.keys import Key
from headway.protocol.client_history import ClientHistory
from headway.samplers.drawing import FixedNumber, by_weight, first_of, waits


@final
@samplers.register
@dataclass(frozen=True)
class Oort(FixedNumber):
    """A fixed number: most by the utility of their last reports, some of the clients without a report.

        U_i    = |B_i| sqrt(mean of squared losses)            statistical utility, at most the `clip` quantile of all
        util_i = (U_i + sqrt(0.1 ln R / L_i)) (T / t_i)^alpha  the last factor only where T < t_i
        admit    the m best by util, and all above `cutoff` times the m-th; draw m of them with P proportional to util
        explore  K - m of the clients without a loss; m = floor((1 - e_R) K), e_R = max(least, first decay^(R-1))
        T      = pace (1 + how many windows of `window` rounds had less utility than the window before)

    R: the round, from 1; L_i: the last round in which i counted; t_i: the seconds that it took by the run's clock.  K:
    `count`.  explore, explore_decay, explore_least: first, decay and least of the share e_R.  alpha: `penalty`.
    pace_s: the pacer's step in seconds, and the T of the beginning.  exclude_after: a client that has counted so often
    is not asked again, as long as enough others are available.  normalised: whether U is scaled to 0 .. 1 by least and
    largest before the staleness is added, as the authors' code does; as the paper writes it, staleness only parts
    clients of like utility, as U is in examples times loss.

    Explored first are the least often asked ones; of these the faster ones with more weight, 1 / t_i, where something
    is known of their time (they answered, or failed to in so long).  Without a clock no time is known, and what is left
    is the statistical utility.  The server must see single clients' losses.

    Differs from the paper: clients report the mean loss of their local steps, so U_i = |B_i| mean loss, which is less
    than the root of the mean square where losses are uneven.  If `pace_s` is not given it is the median of the known
    times.  Like the authors' code, not Algorithm 1, the pacer compares windows that do not overlap; that code takes T
    from a percentile of the times instead.  A round's utility is that of all who counted in it.  Exclusion never makes
    a cohort smaller: if too few are left, the ones that counted least often are asked after all.

    Raises:
        ConfigError: for a number out of range; when drawing, if fewer are available.
        ChainRefused: in an algorithm whose chain protects single clients' numbers.

    Reference: Lai et al., arXiv 2010.06081 (OSDI 2021), Algorithm 1 and section 4.

    >>> import torch
    >>> people = tuple("abc")
    >>> history = ClientHistory(people, torch.tensor([9, 9, 9]), Oort(count=1).facts(3).reads)
    >>> Oort(count=2).draw(people, 0, Key.root(0), history) == Oort(count=2).draw(people, 0, Key.root(0), history)
    True
    """

    explore: float = between(0, 1, 0.9)
    explore_decay: float = between(0, 1, 0.98)
    explore_least: float = between(0, 1, 0.2)
    penalty: float = at_least(0, 2.0)
    cutoff: float = between(0, 1, 0.95)
    clip: float = between(0, 1, 0.95)
    pace_s: float | None = positive(None, unit="seconds")
    window: int = at_least(1, 20)
    exclude_after: int | None = at_least(1, None)
    normalised: bool = False

    def choose(self, history: ClientHistory, places: Tensor, count: int, round: int, key: Key) -> list[int]:
        """The clients with the most utility, and the explored ones."""
        available = self._allowed(history, places, count, key.derive("allowed"))
        fresh = history.column("loss", available).isnan()
        explored, others = available[~fresh], available[fresh]
        exploited = math.floor((1 - self._share(round)) * count + 1e-9)  # 0.1 of 10 is one
        exploited = min(max(exploited, count - len(others)), len(explored))
        chosen = self._exploit(history, explored, exploited, round, key.derive("exploit"))
        return chosen + self._explore(history, others, count - exploited, key.derive("explore"))

    def facts(self, population: int | None) -> SamplerFacts:
        """The cohort has a fixed size; sizes, participation, losses and times are read."""
        reads: frozenset[Reading] = frozenset({"sizes", "participation", "losses", "times"})
        return SamplerFacts("oort", float(self.count), population, reads=reads)

    def _share(self, round: int) -> float:
        """Of the cohort that is explored."""
        return max(self.explore_least, self.explore * self.explore_decay**round)

    def _allowed(self, history: ClientHistory, available: Tensor, count: int, key: Key) -> Tensor:
        """The rows of clients that have not counted too often; if too few, the least often counted ones."""
        if self.exclude_after is None:
            return available
        counts = history.column("counted", available)
        over = (counts - self.exclude_after + 1).clamp_min(0)
        allowed = max(count, int((over == 0).sum()))
        return available[first_of(allowed, over, key.bits(len(available)))]

    def _exploit(self, history: ClientHistory, explored: Tensor, count: int, round: int, key: Key) -> list[int]:
        """The rows of clients with a reported loss, by utility."""
        if not count:
            return []
        utility = self.utility(history, explored, round)
        least = self.cutoff * float(utility.sort(descending=True).values[count - 1])
        admitted = utility >= least
        drawn = by_weight(utility[admitted], count, key)
        chosen: list[int] = explored[admitted][drawn].tolist()
        return chosen

    def _explore(self, history: ClientHistory, others: Tensor, count: int, key: Key) -> list[int]:
        """The rows of clients without a report, the least often asked first; of these by speed, if known."""
        if not count:
            return []
        seconds = history.column("seconds", others)
        usual = float(seconds.nanmedian()) if bool((~seconds.isnan()).any()) else 1.0
        speed = 1 / seconds.nan_to_num(nan=usual).clamp_min(1e-9)
        drawn = first_of(count, history.column("asked", others), waits(speed, key))
        chosen: list[int] = others[drawn].tolist()
        return chosen

    def utility(self, history: ClientHistory, places: Tensor, round: int) -> Tensor:
        """util of the clients in these rows, with a reported loss each, float64 `[n]`."""
        value = history.sizes[places] * history.column("loss", places).abs()
        value = value.clamp_max(float(torch.quantile(value, self.clip)))
        if self.normalised:
            span = float(value.max() - value.min())
            value = (value - value.min()) / (span or 1.0)
        last = history.column("last", places) + 1
        value = value + (0.1 * math.log(round + 1) / last.double()).sqrt()
        seconds = history.column("seconds", places)
        pace = self.pace(history)
        slow = seconds > pace  # never where it is not known
        return torch.where(slow, value * (pace / seconds) ** self.penalty, value)

    def pace(self, history: ClientHistory) -> float:
        """The preferred seconds T of this round; infinite if no time is known."""
        step = self.pace_s
        if step is None:
            seconds = history.column("seconds", torch.arange(len(history.sizes)))
            step = float(seconds.nanmedian()) if bool((~seconds.isnan()).any()) else math.inf
        whole = len(history.totals) // self.window
        sums = history.totals[: whole * self.window].view(whole, self.window).sum(1)
        return step * (1 + int((sums[:-1] > sums[1:]).sum()))
