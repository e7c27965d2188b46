"""The noise that a promise needs, and the rounds that it allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from headway.core.errors import ConfigError
from headway.core.facts import PrivacyEvent
from headway.privacy.account_book import AccountBook
from headway.privacy.accountant import INTERVAL
from headway.privacy.accountant import epsilon as epsilon_of
from headway.privacy.renyi import renyi_epsilon
from headway.privacy.spends import Account, Sampling, Spend

PRECISION = 1e-7  # of the logarithms of epsilon and of the noise
COARSE = 1e-3  # steps of the privacy loss with which noise is looked for first
FEW_ORDERS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
MOST_STEPS = 20
LARGEST, SMALLEST = 1e6, 1e-3  # factors of noise that are looked at


def epsilon_after(
    events: Sequence[PrivacyEvent], sampling: Sampling, rounds: int, delta: float, account: Account = "client"
) -> float:
    """The epsilon of an account after so many rounds of these events."""
    counts, left = _counts(events, sampling, rounds, delta, account)
    return epsilon_of(counts, left, INTERVAL) if left > 0 else math.inf


def noise_for(
    epsilon: float,
    delta: float,
    rounds: int,
    sampling: Sampling,
    events: Sequence[PrivacyEvent] = (PrivacyEvent("gaussian", 1.0, 1.0),),
    account: Account = "client",
) -> float:
    """The smallest factor by which the noise of events keeps an account within epsilon over so many rounds.

    By default the events are one Gaussian release of multiplier 1 a round, so that the factor is its noise multiplier.

    Raises:
        ConfigError: if no noise does, since too much of delta is lost otherwise, or noise is no part of the account.

    >>> round(noise_for(10.997151, 1e-6, 16, Sampling()), 4)
    2.0
    """

    def excess(log_factor: float, interval: float | None) -> float:
        counts, left = _counts(scaled(events, math.exp(log_factor)), sampling, rounds, delta, account)
        if left <= 0 or not counts:
            return math.inf if left <= 0 else -math.inf
        found = renyi_epsilon(counts, left, FEW_ORDERS) if interval is None else epsilon_of(counts, left, interval)
        return math.log(max(found, 1e-12)) - math.log(epsilon)

    start = _first_within(lambda log_factor: excess(log_factor, None))
    if start is None:
        raise ConfigError(
            f"no noise keeps epsilon {epsilon:g} at delta {delta:g}: rounds with too few clients are skipped, and that "
            "alone shows more. Draw more clients, lower the fewest updates of a round, or allow a larger delta."
        )
    root = _root(lambda log_factor: excess(log_factor, COARSE), start, start - 0.1)
    root = _root(lambda log_factor: excess(log_factor, INTERVAL), root, root - 1e-3)
    while excess(root, INTERVAL) > 0:  # it is on either side of the promise
        root += PRECISION
    return math.exp(root)


def _root(excess: Callable[[float], float], x: float, y: float) -> float:
    """A root of a falling function by secants, from two places near it."""
    at_x, at_y = excess(x), excess(y)
    for _ in range(MOST_STEPS):
        if abs(at_y) < PRECISION or at_x == at_y:
            break
        step = at_y * (y - x) / (at_y - at_x)
        x, at_x = y, at_y
        y = max(y - max(min(step, 1.0), -1.0), math.log(SMALLEST))
        at_y = excess(y)
    return y


def _first_within(excess: Callable[[float], float]) -> float | None:
    """The logarithm of the least factor whose Renyi divergence keeps the promise, roughly; `None` if none does."""
    low, high = math.log(SMALLEST), math.log(LARGEST)
    if excess(high) > 0:
        return None
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def _counts(
    events: Sequence[PrivacyEvent], sampling: Sampling, rounds: int, delta: float, account: Account
) -> tuple[dict[Spend, int], float]:
    """The spends of so many rounds, and what skipped rounds leave of delta."""
    book = AccountBook()
    for round_ in range(rounds):
        book.add(events, round_, sampling)
    return book.counts().get(account, {}), book.delta_left(account, delta)


def rounds_within(
    events: Sequence[PrivacyEvent],
    sampling: Sampling,
    epsilon: float,
    delta: float,
    most: int,
    account: Account = "client",
) -> int:
    """How many rounds of these events keep an account within epsilon, of `most` that are looked at.

    >>> rounds_within([PrivacyEvent("gaussian", 2.0, 1.0)], Sampling(), 10.997152, 1e-6, 100)
    16
    """
    low, high = 0, most + 1  # so many are within, so many are not or were not asked for
    while high - low > 1:
        middle = (low + high) // 2
        within = epsilon_after(events, sampling, middle, delta, account) <= epsilon
        low, high = (middle, high) if within else (low, middle)
    return low


def scaled(events: Sequence[PrivacyEvent], factor: float) -> list[PrivacyEvent]:
    """The events with more noise, or less."""
    made = []
    for event in events:
        details = dict(event.details)
        if isinstance(variance := details.get("variance"), (int, float)):
            details["variance"] = variance * factor**2
        made.append(replace(event, noise_multiplier=event.noise_multiplier * factor, details=details))
    return made
