"""The privacy of a run as its file asks for it: the budget, and what else may be released."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from headway.core.fields import between, positive
from headway.core.registry import Plain
from headway.privacy.spends import Account

LARGEST_DELTA = 1e-5


@dataclass(frozen=True)
class PrivacyOptions(Plain):
    """The table [privacy] of a run file.

    epsilon, delta: the budget: a round that would pass it is refused, and the run ends before it.  Without epsilon
    there is no limit, and the ledger is kept all the same.  delta is below 1 over the number of clients by default.
    example_epsilon, local_epsilon: budgets of their own for the promise to single examples, and for that which each
    message of a client makes by itself; by default both are held to epsilon.
    client_metrics: of a chain that protects clients, "off" asks no client for metrics on its own test part; "released"
    does, and the ledger lists them as a release without noise.  A central test set costs nothing either way.
    randomness: where noise and masks come from: "derived" from the run's seed, so that a simulation repeats, or
    "system", from the operating system; by default derived in a simulation, and system between real machines.

    Raises:
        ConfigError: for a number out of range.
    """

    epsilon: float | None = positive(None)
    delta: float | None = between(0, 1, None, without=0)
    example_epsilon: float | None = positive(None)
    local_epsilon: float | None = positive(None)
    client_metrics: Literal["off", "released"] = "off"
    randomness: Literal["derived", "system"] | None = None

    def limit(self, account: Account) -> float | None:
        """The budget of an account; `None` for no limit."""
        own = {"example": self.example_epsilon, "local": self.local_epsilon}.get(account)
        return self.epsilon if own is None else own

    @property
    def limited(self) -> bool:
        """Whether any account has a budget."""
        return any(limit is not None for limit in self.budget_values().values())

    def delta_for(self, population: int | None) -> float:
        """The delta: what is asked for, else the smaller of 1e-5 and `population^-1.1`.

        >>> PrivacyOptions().delta_for(1000), PrivacyOptions(delta=1e-6).delta_for(None)
        (1e-05, 1e-06)
        """
        if self.delta is not None:
            return float(self.delta)
        return LARGEST_DELTA if not population else min(LARGEST_DELTA, float(f"{population**-1.1:.1e}"))

    def budget_values(self) -> dict[str, Any]:
        """The budget in plain values."""
        names = ("epsilon", "example_epsilon", "local_epsilon")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def of_budget(cls, values: Mapping[str, Any]) -> PrivacyOptions:
        """The options with the budget and delta that a ledger holds; one of an earlier version may hold others."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in values.items() if value is not None and name in known})
