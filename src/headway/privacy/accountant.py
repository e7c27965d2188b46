"""The accountant: the epsilon of all that was spent in an account, at a delta."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from headway.privacy.gaussian_epsilon import gaussian_epsilon
from headway.privacy.renyi import renyi_epsilon
from headway.privacy.spends import Spend, joined_multiplier

INTERVAL = 1e-4  # of the privacy loss that is one step of a discrete distribution
CLOSED_FORM, LOSS_DISTRIBUTION, RENYI = "closed form of the Gaussian", "privacy loss distribution", "Renyi divergence"


def epsilon(counts: Mapping[Spend, int], delta: float, interval: float | None = None) -> float:
    """The epsilon at a delta of spends, each composed so many times, also where a later one depends on earlier ones.

    Gaussian noise without sampling has a closed form.  Samples are composed as privacy loss distributions by
    dp-accounting, under the relation of the spends.  Where there is Skellam noise, all is composed as Renyi
    divergences, for adding or removing a unit; the library's own Renyi accountant is not used.

    interval: composes at once with steps of this size of the privacy loss, and keeps nothing, where one more of the
    same is not asked for next; a coarse one is faster, and its epsilon larger.

    Reference: Koskela, Jaelkoe and Honkela, arXiv 1906.03049; Doroshenko et al., arXiv 2207.04380, for the
    distributions; Chua et al., arXiv 2508.15089, for truncated samples.

    >>> round(epsilon({Spend(2.0): 16}, 1e-6), 6)
    10.997151
    """
    items = tuple(sorted(counts.items(), key=repr))
    return _epsilon(items, delta) if interval is None else _computed(items, delta, interval)


def method_of(counts: Mapping[Spend, int]) -> str:
    """How the epsilon of spends is computed."""
    if any(spend.skellam for spend in counts):
        return RENYI
    return CLOSED_FORM if all(spend.rate == 1 for spend in counts) else LOSS_DISTRIBUTION


@lru_cache(maxsize=1)
def accountant_version() -> str:
    """The library that composes privacy loss distributions, with its version."""
    return f"dp-accounting {importlib.metadata.version('dp-accounting')}"


@lru_cache(maxsize=1024)
def _epsilon(items: tuple[tuple[Spend, int], ...], delta: float) -> float:
    return _computed(items, delta)


def _computed(items: tuple[tuple[Spend, int], ...], delta: float, interval: float | None = None) -> float:
    counts = {spend: times for spend, times in items if times}
    if not counts:
        return 0.0
    if any(spend.noise_multiplier == 0 for spend in counts):
        return math.inf
    if any(spend.skellam for spend in counts):
        return renyi_epsilon(counts, delta)
    whole = _unsampled_multiplier(counts)
    sampled = {spend: times for spend, times in counts.items() if spend.rate < 1}
    if not sampled:
        return gaussian_epsilon(whole, delta)
    if interval is None:
        parts = [_composed(spend, times) for spend, times in sampled.items()]
    else:
        parts = [_distribution(spend, interval).self_compose(times) for spend, times in sampled.items()]
    if math.isfinite(whole):
        parts.append(_distribution(Spend(whole, relation=next(iter(counts)).relation), interval or INTERVAL))
    total = parts[0]
    for part in parts[1:]:
        total = total.compose(part)
    return float(total.get_epsilon_for_delta(delta))


def _unsampled_multiplier(counts: Mapping[Spend, int]) -> float:
    """The multiplier of all Gaussian releases without sampling, together."""
    return joined_multiplier(spend.noise_multiplier / times**0.5 for spend, times in counts.items() if spend.rate == 1)


@lru_cache(maxsize=64)
def _composed(spend: Spend, times: int) -> Any:
    """The distribution of so many spends: that of fewer by the lowest binary digit, with a power of two.

    A round thereby costs about one composition, and the result does not depend on which rounds were asked for before.
    """
    lowest = times & -times
    power = _power(spend, lowest.bit_length() - 1)
    return power if times == lowest else _composed(spend, times - lowest).compose(power)


@lru_cache(maxsize=64)
def _power(spend: Spend, exponent: int) -> Any:
    """The distribution of 2^exponent spends."""
    if exponent == 0:
        return _distribution(spend, INTERVAL)
    half = _power(spend, exponent - 1)
    return half.compose(half)


def _distribution(spend: Spend, interval: float) -> Any:
    """The privacy loss distribution of one spend."""
    import dp_accounting
    from dp_accounting.pld import privacy_loss_distribution as distributions

    neighbours = dp_accounting.NeighboringRelation
    relation = neighbours.ADD_OR_REMOVE_ONE if spend.relation == "add_remove" else neighbours.REPLACE_SPECIAL
    if spend.most is None:
        return distributions.from_gaussian_mechanism(
            spend.noise_multiplier,
            sampling_prob=spend.rate,
            value_discretization_interval=interval,
            neighboring_relation=relation,
        )
    return distributions.from_truncated_subsampled_gaussian_mechanism(
        dataset_size=spend.population,
        sampling_probability=spend.rate,
        truncated_batch_size=spend.most,
        noise_multiplier=spend.noise_multiplier,
        value_discretization_interval=interval,
        neighboring_relation=relation,
    )
