"""The cost of privacy events, as an accountant composes it: which noise, on which sample, in which account."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from headway.core.errors import ConfigError
from headway.core.facts import PrivacyEvent, Relation, SamplerFacts
from headway.core.flow import Flow

Account = Literal["client", "example", "local"]
ACCOUNTS: Mapping[Account, str] = {
    "client": "one client's part in what the server releases",
    "example": "one example's part in the updates of its client",
    "local": "one client's part in its own messages",
}


def account_of(event: PrivacyEvent) -> Account:
    """The account of an event: the promises of different accounts are separate numbers, and never added.

    >>> account_of(PrivacyEvent("gaussian", 1.0, 1.0, at="client"))
    'local'
    """
    if event.unit == "example":
        return "example"
    return "local" if event.at == "client" else "client"


@dataclass(frozen=True, slots=True)
class Sampling:
    """The sampling of clients that was executed.

    rate: of independent draws, the probability of each client; `None` for every other sampling, which amplifies
    nothing.  most: the largest cohort of truncated draws.  expected: the mean size of a cohort.
    least: the fewest clients of a round: one with fewer is skipped, which shows that there were fewer; 0 where
    noise is released of nobody, too.
    """

    kind: str = "unknown"
    rate: float | None = None
    most: int | None = None
    population: int | None = None
    expected: float | None = None
    least: int = 0

    @classmethod
    def of_flow(cls, last: Flow) -> Sampling:
        """The sampling of an algorithm with these facts after its last stage.  Where the server sees each update,
        noise is released also of nobody; a secure sum is of no fewer clients than may be asked, and remain."""
        always = last.server_sees == "each" and last.min_updates <= 1
        return cls.of(last.sampler, 0 if always else max(last.min_updates, last.min_cohort))

    @classmethod
    def of(cls, facts: SamplerFacts | None, least: int = 0) -> Sampling:
        """The sampling of a sampler with these facts."""
        if facts is None:
            return cls(least=least)
        return cls(facts.kind, facts.rate, facts.most, facts.population, facts.expected, least)

    @property
    def amplifies(self) -> bool:
        """Whether it is independent draws, the only sampling that the accountant has amplification for; truncated ones
        need the number of clients."""
        return self.rate is not None and self.rate < 1 and (self.most is None or self.population is not None)

    @property
    def lost_delta(self) -> float:
        """The delta of skipping a round with fewer than `least` clients, where draws amplify:
        `q P(X = least - 1)`, X binomial of the other clients.  It is what the client decides alone.

        >>> Sampling("poisson", 0.5, None, 3, 1.5, least=2).lost_delta
        0.25
        """
        if not self.amplifies or self.least <= 0:
            return 0.0
        if self.population is None or self.rate is None:
            return 1.0
        others, k = self.population - 1, self.least - 1
        if k > others:
            return 0.0
        return self.rate * math.comb(others, k) * self.rate**k * (1 - self.rate) ** (others - k)

    @property
    def summary(self) -> str:
        """The sampling in words, with what the accountant makes of it."""
        if not self.amplifies:
            return f"{self.kind} sampling, which amplifies nothing: every client is taken to be in every round"
        text = f"independent draws with probability {self.rate:g}"
        return text if self.most is None else f"{text}, at most {self.most} of {self.population} clients"

    def to_values(self) -> dict[str, Any]:
        """The sampling in plain values."""
        return {**asdict(self), "amplifies": self.amplifies}


@dataclass(frozen=True, slots=True)
class Spend:
    """One release of an account: a Gaussian of this noise multiplier and Skellam noise, on one sample of units.

    noise_multiplier: of all Gaussian releases of the sample together, infinite for none.  skellam: for each such
    release the L1 and L2 sensitivity in whole units, and the variance of the sum.
    rate, most, population: of Poisson sampling, truncated where `most` is given; rate 1 amplifies nothing.
    """

    noise_multiplier: float
    skellam: tuple[tuple[float, float, float], ...] = ()
    rate: float = 1.0
    most: int | None = None
    population: int | None = None
    relation: Relation = "add_remove"


@dataclass(frozen=True, slots=True)
class Cost:
    """So many times a spend in an account."""

    account: Account
    spend: Spend
    times: int = 1


def joined_multiplier(multipliers: Iterable[float]) -> float:
    """The noise multiplier of several Gaussian releases of one sample, together: `(sum z_i^-2)^(-1/2)`.

    >>> round(joined_multiplier([1.5, 1.5]), 9), joined_multiplier([])
    (1.060660172, inf)
    """
    each = list(multipliers)
    if any(z == 0 for z in each):
        return 0.0
    precision = math.fsum(z**-2 for z in each)
    return precision**-0.5 if precision else math.inf


def costs(events: Sequence[PrivacyEvent], sampling: Sampling) -> list[Cost]:
    """The costs of the events of one round, without those of noise that is correlated over rounds.

    Releases of one cohort are joined before the amplification by its sampling, since they are of the same sample.
    There is none where an event says that draws do not amplify it.

    Raises:
        ConfigError: if the events of an account have different relations, or one lacks a detail.
    """
    found = list(_example_costs(events))
    for account in ("client", "local"):
        own = [e for e in events if account_of(e) == account and e.mechanism != "matrix"]
        if not own:
            continue
        if len(relations := sorted({e.relation for e in own})) > 1:
            raise ConfigError(f"the privacy events of one round have the relations {' and '.join(relations)}: use one.")
        spend = _joined(own)
        if account == "client" and sampling.amplifies and all(event.draws_amplify for event in own):
            population = None if sampling.most is None else sampling.population
            spend = replace(spend, rate=sampling.rate or 1.0, most=sampling.most, population=population)
        found.append(Cost(account, spend))
    return found


def accounts_of(events: Sequence[PrivacyEvent]) -> tuple[Account, ...]:
    """The accounts that events are in."""
    found = {account_of(event) for event in events}
    return tuple(account for account in ACCOUNTS if account in found)


def detail(event: PrivacyEvent, name: str) -> float:
    """A number that the accountant needs of a mechanism.

    Raises:
        ConfigError: if the event lacks it.
    """
    value = event.details.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(
            f"the accounting of {event.mechanism} noise needs {name!r} in the details of its privacy event, found "
            f"{value!r}: a stage must put it there."
        )
    return float(value)


def _example_costs(events: Iterable[PrivacyEvent]) -> Iterator[Cost]:
    """The costs of noise on local steps: so many releases a round, each on a Poisson sample of a client's examples."""
    for event in events:
        if account_of(event) != "example":
            continue
        rate, steps = detail(event, "sample_rate"), math.ceil(detail(event, "steps"))
        yield Cost("example", Spend(event.noise_multiplier, rate=min(rate, 1.0), relation=event.relation), steps)


def _joined(events: Sequence[PrivacyEvent]) -> Spend:
    """The releases of one cohort, of one relation, as one spend without sampling."""
    gaussian = joined_multiplier(event.noise_multiplier for event in events if event.mechanism == "gaussian")
    details = [event for event in events if event.mechanism == "skellam"]
    skellam = tuple((detail(each, "l1"), detail(each, "l2"), detail(each, "variance")) for each in details)
    return Spend(gaussian, skellam, relation=events[0].relation)
