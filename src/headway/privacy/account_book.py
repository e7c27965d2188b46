"""What a run has spent, account by account: from the events of rounds to epsilon."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headway.core.errors import ConfigError
from headway.core.facts import PrivacyEvent
from headway.privacy.accountant import epsilon
from headway.privacy.spends import ACCOUNTS, Account, Sampling, Spend, account_of, costs, detail


@dataclass
class _Attempt:
    """The events of one attempt of a round, with the sampling of its cohort."""

    sampling: Sampling
    events: list[PrivacyEvent] = field(default_factory=list)

    @property
    def hides_presence(self) -> bool:
        """Whether it must not show that a client took part, and not only what its data were."""
        return any(account_of(event) == "client" and event.relation == "add_remove" for event in self.events)


class AccountBook:
    """The spends of all rounds so far.

    Every reservation counts.  The events of a round that are reserved apart, since clients draw some of the noise and
    the server the rest, are of one cohort and joined; a round that is reserved once more counts once more.
    Correlated noise is one release of all its rounds, however many of them there were.
    """

    def __init__(self) -> None:
        self._counts: dict[Account, Counter[Spend]] = {}
        self._rounds: dict[int, list[_Attempt]] = {}
        self._correlated: dict[tuple[Account, Spend], Counter[int]] = {}

    def add(self, events: Sequence[PrivacyEvent], round_: int, sampling: Sampling) -> None:
        """Adds the events of one reservation.

        Raises:
            ConfigError: for events that cannot be accounted for.
        """
        attempts = self._rounds.setdefault(round_, [])
        places = {event.at == "server" for event in events}
        free = [each for each in attempts if not {e.at == "server" for e in each.events} & places]
        if free:
            attempt = free[0]
            self._count(attempt, -1)
        else:
            attempts.append(attempt := _Attempt(sampling))
        attempt.events.extend(events)
        self._count(attempt, 1)
        for event in events:
            if event.mechanism == "matrix":
                _check_rounds(event, round_)
                spend = Spend(event.noise_multiplier, relation=event.relation)
                self._correlated.setdefault((account_of(event), spend), Counter())[round_] += 1

    def until(self, round_: int) -> AccountBook:
        """The spends of the rounds up to one, and without those after it, which a resumed run goes through again."""
        if not self._rounds or max(self._rounds) <= round_:
            return self
        other = AccountBook()
        for each in sorted(number for number in self._rounds if number <= round_):
            for attempt in self._rounds[each]:
                for server in (False, True):  # as they were reserved, so that those of one attempt are joined again
                    events = [event for event in attempt.events if (event.at == "server") is server]
                    if events:
                        other.add(events, each, attempt.sampling)
        return other

    def copy(self) -> AccountBook:
        """A book with the same spends."""
        other = AccountBook()
        other._counts = {account: Counter(each) for account, each in self._counts.items()}
        other._rounds = {
            round_: [_Attempt(each.sampling, list(each.events)) for each in attempts]
            for round_, attempts in self._rounds.items()
        }
        other._correlated = {key: Counter(each) for key, each in self._correlated.items()}
        return other

    def counts(self) -> dict[Account, dict[Spend, int]]:
        """How often each spend was made, by account."""
        found: dict[Account, Counter[Spend]] = {account: Counter(each) for account, each in self._counts.items()}
        for (account, spend), rounds in self._correlated.items():
            found.setdefault(account, Counter())[spend] += max(rounds.values())
        kept = {account: {s: n for s, n in found[account].items() if n} for account in ACCOUNTS if account in found}
        return {account: each for account, each in kept.items() if each}

    def epsilons(self, delta: float) -> dict[Account, float]:
        """The epsilon of each account that has spends, at a delta, of which rounds that can be skipped take a part."""
        found: dict[Account, float] = {}
        for account, each in self.counts().items():
            left = self.delta_left(account, delta)
            found[account] = epsilon(each, left) if left > 0 else math.inf
        return found

    def delta_left(self, account: Account, delta: float) -> float:
        """What rounds that can be skipped leave of a delta, where it must not show that a client took part."""
        if account != "client":
            return delta
        attempts = [each for every in self._rounds.values() for each in every]
        return delta - math.fsum(each.sampling.lost_delta for each in attempts if each.hides_presence)

    def _count(self, attempt: _Attempt, sign: int) -> None:
        for cost in costs(attempt.events, attempt.sampling):
            self._counts.setdefault(cost.account, Counter())[cost.spend] += sign * cost.times


def exceeded(epsilons: Mapping[Account, float], limits: Mapping[Account, float | None]) -> Account | None:
    """The first account that is above its budget; `None` if all are within."""
    for account, spent in epsilons.items():
        limit = limits.get(account)
        if limit is not None and spent > limit:
            return account
    return None


def _check_rounds(event: PrivacyEvent, round_: int) -> None:
    """Refuses a round for which correlated noise was not made."""
    planned = int(detail(event, "rounds"))
    if round_ >= planned:
        raise ConfigError(
            f"the correlated noise is made for {planned} rounds, and round {round_ + 1} would need noise of its own: "
            "set run.rounds to that number at most, or make the noise for more rounds from the start."
        )
