"""The privacy of one run, as a page shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headway.privacy.spends import ACCOUNTS


@dataclass(frozen=True)
class PrivacyFacts:
    """The privacy of one run, as its ledger and journal hold it.

    name: of the run, empty where there is only one.  curves: the epsilon of each account by round.
    budgets: the largest epsilon of an account, where it has one.  delta: of all accounts.  sampling: in words.
    releases: a row of texts for each release of a round.  others: what else is released or seen, how it is protected,
    and to whom.  trouble: why the ledger is not to be trusted; empty if nothing is known against it.
    """

    name: str
    curves: Mapping[str, Mapping[int, float]]
    budgets: Mapping[str, float | None] = field(default_factory=dict)
    delta: float | None = None
    sampling: str = ""
    releases: Sequence[Sequence[str]] = ()
    others: Sequence[Sequence[str]] = ()
    trouble: str = ""

    @property
    def accounts(self) -> list[str]:
        """The accounts that it has."""
        return [account for account in ACCOUNTS if account in self.curves or account in self.budgets]
