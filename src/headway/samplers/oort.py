"""Oort: those first whose examples teach most in the least time."""

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
    """A fixed number: most by the utility of what they reported last, some of whom nothing is known yet.

        U_i    = |B_i| sqrt(mean of squared losses)            statistical utility, at most the `clip` quantile of all
        util_i = (U_i + sqrt(0.1 ln R / L_i)) (T / t_i)^alpha  the last factor only where T < t_i
        admit    the m best by util, and all above `cutoff` times the m-th; draw m of them with P proportional to util
        explore  K - m of those that never reported a loss; m = floor((1 - e_R) K), e_R = max(least, first decay^(R-1))
        T      = pace (1 + how many windows of `window` rounds had less utility than the window before)

    R: the round, from 1; L_i: the last round in which i counted; t_i: the seconds that it took by the run's clock.  K:
    `count`.  explore, explore_decay, explore_least: first, decay and least of the share e_R.  alpha: `penalty`.
    pace_s: the pacer's step in seconds, and the T of the beginning.  exclude_after: who has counted so often is not
    asked again, as long as enough others are there.  normalised: whether U is brought to 0 .. 1 by least and largest
    before the staleness is added, as the authors' code does; as the paper writes it, staleness only parts clients of
    like utility, as U is in examples times loss.

    Explored first are those asked least often; of these the faster ones with more weight, 1 / t_i, where something is
    known of their time (they answered, or failed to in so long).  Without a clock no time is known, and what is left is
    the statistical utility.  The server must see single clients' losses.

    Differs from the paper: clients report the mean loss of their local steps, so U_i = |B_i| mean loss, which is less
    than the root of the mean square where losses are uneven.  If `pace_s` is not given it is the median of the known
    times.  Like the authors' code, not Algorithm 1, the pacer compares windows that do not overlap; that code takes T
    from a percentile of the times instead.  A round's utility is that of all who counted in it.  Exclusion never makes
    a cohort smaller: if too few are left, those who counted least often are asked after all.

    Raises:
        ConfigError: for a number out of range; when drawing, if fewer are there.
        ChainRefused: in an algorithm whose chain protects single clients' numbers.

    Reference: Lai et al., arXiv 2010.06081 (OSDI 2021), Algorithm 1 and section 4.

    >>> import torch
    >>> known, people = ClientHistory(tuple("abc"), torch.tensor([9, 9, 9]), Oort(count=1).facts(3).reads), tuple("abc")
    >>> Oort(count=2).draw(people, 0, Key.root(0), known) == Oort(count=2).draw(people, 0, Key.root(0), known)
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

    def choose(self, known: ClientHistory, places: Tensor, count: int, round: int, key: Key) -> list[int]:
        """Those with utility, and those to be explored."""
        there = self._allowed(known, places, count, key.derive("allowed"))
        fresh = known.column("loss", there).isnan()
        explored, others = there[~fresh], there[fresh]
        exploited = math.floor((1 - self._share(round)) * count + 1e-9)  # 0.1 of 10 is one
        exploited = min(max(exploited, count - len(others)), len(explored))
        chosen = self._exploit(known, explored, exploited, round, key.derive("exploit"))
        return chosen + self._explore(known, others, count - exploited, key.derive("explore"))

    def facts(self, population: int | None) -> SamplerFacts:
        """The cohort has a fixed size; sizes, turns, losses and times are read."""
        reads: frozenset[Reading] = frozenset({"sizes", "turns", "losses", "times"})
        return SamplerFacts("oort", float(self.count), population, reads=reads)

    def _share(self, round: int) -> float:
        """Of the cohort that is explored."""
        return max(self.explore_least, self.explore * self.explore_decay**round)

    def _allowed(self, known: ClientHistory, there: Tensor, count: int, key: Key) -> Tensor:
        """Those who have not counted too often; if they are fewer than `count`, with those who did least often."""
        if self.exclude_after is None:
            return there
        turns = known.column("counted", there)
        over = (turns - self.exclude_after + 1).clamp_min(0)
        allowed = max(count, int((over == 0).sum()))
        return there[first_of(allowed, over, key.bits(len(there)))]

    def _exploit(self, known: ClientHistory, explored: Tensor, count: int, round: int, key: Key) -> list[int]:
        """Of those who reported, by utility."""
        if not count:
            return []
        utility = self.utility(known, explored, round)
        least = self.cutoff * float(utility.sort(descending=True).values[count - 1])
        admitted = utility >= least
        drawn = by_weight(utility[admitted], count, key)
        chosen: list[int] = explored[admitted][drawn].tolist()
        return chosen

    def _explore(self, known: ClientHistory, others: Tensor, count: int, key: Key) -> list[int]:
        """Of those who never reported: who was asked least often; of these by speed, as far as it is known."""
        if not count:
            return []
        seconds = known.column("seconds", others)
        usual = float(seconds.nanmedian()) if bool((~seconds.isnan()).any()) else 1.0
        speed = 1 / seconds.nan_to_num(nan=usual).clamp_min(1e-9)
        drawn = first_of(count, known.column("asked", others), waits(speed, key))
        chosen: list[int] = others[drawn].tolist()
        return chosen

    def utility(self, known: ClientHistory, places: Tensor, round: int) -> Tensor:
        """util of the clients in these rows, who have all reported a loss, float64 `[n]`."""
        value = known.sizes[places] * known.column("loss", places).abs()
        value = value.clamp_max(float(torch.quantile(value, self.clip)))
        if self.normalised:
            span = float(value.max() - value.min())
            value = (value - value.min()) / (span or 1.0)
        last = known.column("last", places) + 1
        value = value + (0.1 * math.log(round + 1) / last.double()).sqrt()
        seconds = known.column("seconds", places)
        pace = self.pace(known)
        slow = seconds > pace  # never where it is not known
        return torch.where(slow, value * (pace / seconds) ** self.penalty, value)

    def pace(self, known: ClientHistory) -> float:
        """The preferred seconds T of this round; infinite if no time is known."""
        step = self.pace_s
        if step is None:
            seconds = known.column("seconds", torch.arange(len(known.sizes)))
            step = float(seconds.nanmedian()) if bool((~seconds.isnan()).any()) else math.inf
        whole = len(known.totals) // self.window
        sums = known.totals[: whole * self.window].view(whole, self.window).sum(1)
        return step * (1 + int((sums[:-1] > sums[1:]).sum()))
