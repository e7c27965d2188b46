"""The privacy ledger of a run: a release is written before it is made, and one that would pass the budget refused."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from headway.core import fault_points
from headway.core.errors import ConfigError, PrivacyBudgetSpent
from headway.privacy.account_book import AccountBook, exceeded
from headway.privacy.accountant import accountant_version, method_of
from headway.privacy.ledger_file import Entry, LedgerFile, plain
from headway.privacy.options import PrivacyOptions
from headway.privacy.spends import ACCOUNTS, Account, Sampling, accounts_of, detail
from headway.privacy.terms import PrivacyTerms, event_of, event_values
from headway.protocol.effects import Reserve


@dataclass(frozen=True, slots=True)
class PrivacySpent:
    """What a run has spent.

    epsilons: by account.  limits: the budget of each account, where it has one.  releases: how many were reserved.
    """

    epsilons: Mapping[Account, float] = field(default_factory=dict)
    limits: Mapping[Account, float | None] = field(default_factory=dict)
    delta: float = 0.0
    releases: int = 0

    @property
    def summary(self) -> str:
        """The epsilons in words, rounded up.

        >>> PrivacySpent({"client": 1.234}, {"client": 8.0}, 1e-5, 3).summary
        'epsilon 1.24 of 8'
        """
        return spent_text(self.epsilons, self.limits)


class Ledger:
    """The ledger of a run.

    terms: of each of its rounds.  file: where it is kept.  delta: of every account.

    Raises:
        RunFolderError: if the file's chain is broken.
        ConfigError: for events that cannot be accounted for.
    """

    def __init__(self, terms: PrivacyTerms, options: PrivacyOptions, file: LedgerFile) -> None:
        self.terms, self.options, self.file = terms, options, file
        self.delta = options.delta_for(terms.population)
        self.accounts = accounts_of(terms.events)
        self.limits: dict[Account, float | None] = {account: options.limit(account) for account in self.accounts}
        self._book = book_of(file.entries)
        if not file.entries:
            self._append({"kind": "start", **self._start_values})
        elif self._latest_start() != self._start_values:
            self._append({"kind": "resume", **self._start_values})

    def spent(self, until: int | None = None) -> PrivacySpent:
        """What is spent so far, 0 in an account before its first release; with the rounds up to `until` alone, counted
        from 1, where it is given."""
        book = self._book if until is None else self._book.until(until - 1)
        found = book.epsilons(self.delta)
        epsilons: dict[Account, float] = {account: found.get(account, 0.0) for account in self.accounts}
        releases = sum(entry["kind"] == "reserve" for entry in self.file.entries)
        return PrivacySpent(epsilons, self.limits, self.delta, releases)

    def lines(self) -> list[str]:
        """What is promised, a sentence for each account."""
        spent = self.spent()
        return [
            f"Privacy, {ACCOUNTS[account]}: epsilon {epsilon_text(found)} at delta {self.delta:g}"
            + ("." if (limit := self.limits[account]) is None else f", of a budget of {limit:g}.")
            for account, found in spent.epsilons.items()
        ]

    def refusal(self, round_: int) -> str | None:
        """Why the round after `round_` would not be allowed, as a sentence; `None` if it would be."""
        planned = [int(detail(event, "rounds")) for event in self.terms.events if event.mechanism == "matrix"]
        if planned and round_ >= min(planned):
            return f"the correlated noise is made for {min(planned)} rounds: another one would need noise of its own"
        if all(limit is None for limit in self.limits.values()):
            return None
        after = self._book.copy()
        after.add(self.terms.events, round_, self.terms.sampling)
        return self._refusal(after.epsilons(self.delta), round_)

    def reserve(self, effect: Reserve, *, asked: int, population: int) -> None:
        """Writes events, on the disk when this returns; from then on they are spent, whatever becomes of the round.

        asked: the size of the cohort.  population: how many clients there were.

        Raises:
            PrivacyBudgetSpent: if a budget would be passed; nothing is written then.
            RunFolderError: if the disk refuses.
        """
        after = self._book.copy()
        after.add(effect.events, effect.round, self.terms.sampling)
        epsilons = after.epsilons(self.delta)
        if (reason := self._refusal(epsilons, effect.round)) is not None:
            raise PrivacyBudgetSpent(reason)
        counts = after.counts()
        fault_points.at("before a reservation is on disk")
        self._append(
            {
                "kind": "reserve",
                "round": effect.round + 1,
                "events": [event_values(event) for event in effect.events],
                "sampling": self.terms.sampling.to_values(),
                "asked": asked,
                "population": population,
                "epsilon": dict(epsilons),
                "delta": self.delta,
                "method": {account: method_of(each) for account, each in counts.items()},
            }
        )
        self._book = after
        fault_points.at("after a reservation is on disk")

    def _refusal(self, epsilons: Mapping[Account, float], round_: int) -> str | None:
        account = exceeded(epsilons, self.limits)
        if account is None:
            return None
        now = self._book.epsilons(self.delta).get(account, 0.0)
        return (
            f"the privacy budget allows no round {round_ + 1}: epsilon would be {epsilon_text(epsilons[account])} at "
            f"delta {self.delta:g}, above the budget of {self.limits[account]:g} ({ACCOUNTS[account]}); "
            f"{epsilon_text(now)} is spent. More rounds need more noise or a larger sample to hide in from the "
            "start: `headway privacy plan` computes them."
        )

    def _append(self, values: Mapping[str, Any]) -> Entry:
        return self.file.append({**values, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})

    @cached_property
    def _start_values(self) -> dict[str, Any]:
        budget = {**self.options.budget_values(), "delta": self.delta}
        values = {"budget": budget, "terms": self.terms.to_values(), "accountant": accountant_version()}
        return dict(plain(values))

    def _latest_start(self) -> dict[str, Any]:
        latest = next(entry for entry in reversed(self.file.entries) if entry["kind"] in ("start", "resume"))
        return {name: latest.get(name) for name in self._start_values}


def book_of(entries: list[Entry]) -> AccountBook:
    """The spends that entries hold.

    Raises:
        ConfigError: for an entry that cannot be read.
    """
    book = AccountBook()
    for entry in entries:
        if entry["kind"] == "reserve":
            add_entry(book, entry)
    return book


def add_entry(book: AccountBook, entry: Entry) -> None:
    """Adds the spends of a reservation's entry.

    Raises:
        ConfigError: if it cannot be read.
    """
    book.add([event_of(each) for each in entry["events"]], int(entry["round"]) - 1, sampling_of(entry["sampling"]))


def sampling_of(values: Mapping[str, Any]) -> Sampling:
    """The sampling of what `Sampling.to_values` gave.

    Raises:
        ConfigError: for something else.
    """
    try:
        return Sampling(**{name: value for name, value in values.items() if name != "amplifies"})
    except TypeError as error:
        raise ConfigError(f"{values!r} is no sampling.") from error


def spent_text(epsilons: Mapping[Any, float | None], limits: Mapping[Any, float | None]) -> str:
    """The epsilon of each account with its budget, in words; accounts without a release have spent nothing."""
    every = {**dict.fromkeys(limits, 0.0), **epsilons}
    return ", ".join(
        f"{'' if account == 'client' else f'{account} '}epsilon {epsilon_text(math.inf if found is None else found)}"
        + ("" if (limit := limits.get(account)) is None else f" of {limit:g}")
        for account, found in every.items()
    )


def epsilon_text(epsilon: float) -> str:
    """An epsilon with three figures, never rounded down.

    >>> epsilon_text(1.23401), epsilon_text(0.0), epsilon_text(12.0), epsilon_text(math.inf)
    ('1.24', '0', '12', 'infinite')
    """
    if not math.isfinite(epsilon):
        return "infinite"
    if epsilon <= 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(epsilon)) - 2)
    return f"{math.ceil(round(epsilon / unit, 6)) * unit:.3g}"
