"""Which protections compose: every pair of the table, accepted, accepted on a condition, or refused with a sentence."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import headway as hw
from headway.core.errors import ChainRefused, ConfigError
from headway.core.flow import SamplerFacts
from headway.core.stage import Stage, stages
from headway.training import LocalSGD

CLIP, CODE, SUM = hw.Clip(1.0), hw.Quantize(16), hw.SecureSum(mode="ideal")
BUCKETS = hw.SecureSum(buckets=3, min_cohort=3, min_survivors=2)
APART, EQUAL, SHARES = hw.Clip(1.0, others=0.1), hw.Mean("clients"), hw.Skellam(1.0, survivors=4)
EXPECTED, NOISE = hw.Mean("expected"), hw.GaussianNoise(1.0)
LOCAL, SKELLAM = hw.LocalGaussian(1.0), ("Skellam" in stages.names() and stages.get("Skellam")) or None
KRUM, MEDIAN = hw.Krum(1), hw.Median(1)
LATE = hw.Quorum(count=8, late="keep")


def build(*links: Stage | None, quorum: hw.Quorum | None = None, trainer: object = None, size: int = 1000) -> list[str]:
    """The warnings of an algorithm of these stages; `None` stands for one that is left out."""
    chain = hw.chain(*[link for link in links if link is not None])
    sampler = hw.Uniform(10)
    algorithm = hw.Algorithm(chain, trainer or LocalSGD(lr=0.1), sampler, quorum or hw.Quorum())
    return list(algorithm.flows(population=100)[-1].warnings)


# a pair, stages (with or without the condition), and who is named as the cause where it is refused
ACCEPTED: dict[str, Sequence[Stage | None]] = {
    "SecureSum, central noise (C1)": (CLIP, CODE, SUM, EXPECTED, NOISE),
    "SecureSum, local noise is of reals; Skellam of integers (C2)": (CLIP, CODE, SUM, EXPECTED),
    "SecureSum, Clip at the client (C4)": (CLIP, CODE, SUM, hw.Mean("clients")),
    "SecureSum, Quantize of one scale (C5)": (CLIP, CODE, SUM, hw.Mean("clients")),
    "SecureSum, SCAFFOLD: delta and control, each on its scale (C7)": (hw.Scaffold(), APART, CODE, SUM, EQUAL),
    "SecureSum, RandomK of a public seed (X6)": (hw.RandomK(0.5), CLIP, CODE, SUM, EQUAL),
    "central noise, RandomK before Clip (C12)": (hw.RandomK(0.5), CLIP, EXPECTED, NOISE),
    "Quantize, SCAFFOLD: a scale for each (C26)": (hw.Scaffold(), APART, CODE, EQUAL),
    "SecureSum, Skellam: integers, and a minimum of survivors (C2)": (CLIP, CODE, SHARES, SUM, EXPECTED),
    "SecureSum, ServerAdam": (CLIP, CODE, SUM, hw.Mean("clients"), hw.ServerAdam()),
    "SecureSum, ECGR": (hw.ECGR(), CLIP, CODE, SUM, hw.Mean("clients")),
    "SecureSum in buckets, robust rule (X3)": (CLIP, CODE, BUCKETS, MEDIAN),
    "SecureSum in buckets, mixed neighbours (X3)": (CLIP, CODE, BUCKETS, hw.NNM(1, MEDIAN)),
    "SecureSum in buckets, Skellam of the shares in one (C2)": (CLIP, CODE, hw.Skellam(1.0, 3), BUCKETS, MEDIAN),
    "SecureSum in buckets, SCAFFOLD and whole clients": (hw.Scaffold(), APART, CODE, BUCKETS, hw.GeometricMedian(1)),
    "SecureSum in buckets, ECGR and ServerAdam": (hw.ECGR(), CLIP, CODE, BUCKETS, MEDIAN, hw.ServerAdam(tau=1e-3)),
    "SecureSum, weights with a cap": (hw.Weigh("capped", 9), CLIP, CODE, SUM, EXPECTED),
    "central noise, local noise: two accounts (C9)": (CLIP, LOCAL, EXPECTED, NOISE),
    "central noise, Clip is required": (CLIP, EXPECTED, NOISE),
    "central noise, Quantize after Clip (C11)": (CLIP, CODE, EXPECTED, NOISE),
    "central noise, SCAFFOLD under one clip (C13)": (hw.Scaffold(), CLIP, EXPECTED, NOISE),
    "central noise, ServerAdam": (CLIP, EXPECTED, NOISE, hw.ServerAdam()),
    "central noise, ECGR before the clip (C16)": (hw.ECGR(), CLIP, EXPECTED, NOISE),
    "local noise, robust rule, with a warning (C17)": (CLIP, LOCAL, KRUM),
    "local noise, ServerAdam": (CLIP, LOCAL, hw.Mean("clients"), hw.ServerAdam()),
    "local noise, ECGR before the clip (C16)": (hw.ECGR(), CLIP, LOCAL, hw.Mean("clients")),
    "robust rule, Clip": (CLIP, KRUM),
    "robust rule, Quantize": (CLIP, CODE, KRUM),
    "robust rule, SCAFFOLD: the same clients for both vectors (C21)": (hw.Scaffold(), KRUM),
    "robust rule, ServerAdam of no small tau (C23)": (KRUM, hw.ServerAdam(tau=1e-3)),
    "robust rule, ECGR": (hw.ECGR(), MEDIAN),
    "Clip, Quantize in order (C24)": (CLIP, CODE, hw.Mean("clients")),
    "Clip, SCAFFOLD (C25)": (hw.Scaffold(), CLIP, hw.Mean("clients")),
    "Clip, ServerAdam": (CLIP, hw.Mean(), hw.ServerAdam()),
    "Clip, ECGR": (hw.ECGR(), CLIP, hw.Mean()),
    "Quantize, ServerAdam": (CLIP, CODE, hw.Mean("clients"), hw.ServerAdam()),
    "Quantize, ECGR": (hw.ECGR(), CLIP, CODE, hw.Mean("clients")),
    "SCAFFOLD, ServerAdam, with a warning (C30)": (hw.Scaffold(), hw.Mean("clients"), hw.ServerAdam()),
    "SCAFFOLD, ECGR": (hw.Scaffold(), hw.ECGR(), hw.Mean("clients")),
    "ServerAdam, ECGR": (hw.ECGR(), hw.Mean(), hw.ServerAdam()),
}
BY_EXAMPLE = {
    "noise on every step, ECGR of noised steps (C16)": (hw.ECGR(), hw.Mean()),
    "noise on every step, central noise: two accounts (C9)": (CLIP, EXPECTED, NOISE),
    "noise on every step, SecureSum": (CLIP, CODE, SUM, hw.Mean("clients")),
}
WARNED = {
    "local noise, robust rule, with a warning (C17)": "Krum compares updates",
    "SCAFFOLD, ServerAdam, with a warning (C30)": "no theory",
    "SecureSum, Clip at the client (C4)": "lies",
}
REFUSED: dict[str, tuple[Sequence[Stage | None], str]] = {
    "SecureSum, robust rule (X3)": ((CLIP, CODE, SUM, KRUM), "SecureSum"),
    "SecureSum in buckets, attackers of half the buckets (X3)": ((CLIP, CODE, BUCKETS, hw.Median(2)), "SecureSum"),
    "SecureSum in buckets, the mean of them (X3)": ((CLIP, CODE, BUCKETS, EQUAL), "SecureSum"),
    "SecureSum in buckets, central noise (X10)": ((CLIP, CODE, BUCKETS, MEDIAN, NOISE), "Median"),
    "SecureSum in buckets, a rule that reads single updates": ((CLIP, CODE, BUCKETS, hw.AFL()), "SecureSum"),
    "SecureSum in buckets, weights": ((hw.Weigh("capped", 5), CLIP, CODE, BUCKETS, MEDIAN), "Weigh"),
    "SecureSum in buckets, Skellam of more than one has": (
        (CLIP, CODE, hw.Skellam(1.0, 4), BUCKETS, MEDIAN),
        "Skellam",
    ),
    "SecureSum without Clip (C4)": ((CODE, SUM, hw.Mean("clients")), "Quantize"),
    "SecureSum without Quantize (C5)": ((CLIP, SUM, hw.Mean("clients")), "SecureSum"),
    "SecureSum, weights without a limit": ((CLIP, CODE, SUM, hw.Mean()), "Quantize"),
    "SecureSum, AFL's losses": ((CLIP, CODE, SUM, hw.AFL()), "SecureSum"),
    "local noise of reals behind a secure sum (C2)": ((CLIP, CODE, LOCAL, SUM, EXPECTED), "Quantize"),
    "Quantize, SCAFFOLD: one scale for both (C26)": ((hw.Scaffold(), CLIP, CODE, EQUAL), "Scaffold"),
    "Skellam without a secure sum (C2)": ((CLIP, CODE, SHARES, EXPECTED), "Skellam"),
    "Skellam without Quantize (C2)": ((CLIP, SHARES, SUM, EXPECTED), "Skellam"),
    "Skellam of more survivors than a sum has (C2)": ((CLIP, CODE, hw.Skellam(1.0, 6), SUM, EXPECTED), "Skellam"),
    "Skellam, weights that differ": ((hw.Weigh("capped", 5), CLIP, CODE, SHARES, SUM, EXPECTED), "Weigh"),
    "central noise, robust rule (X10)": ((CLIP, KRUM, NOISE), "Krum"),
    "central noise, mixed neighbours (X10)": ((CLIP, hw.NNM(1, hw.Median(1)), NOISE), "NNM"),
    "central noise without Clip": ((EXPECTED, NOISE), "GaussianNoise"),
    "central noise, a denominator of those that answered": ((CLIP, hw.Mean("clients"), NOISE), "Mean"),
    "central noise, weights by examples": ((CLIP, hw.Weigh("examples"), EXPECTED, NOISE), "Clip|Weigh"),
    "RandomK after Clip (C24)": ((CLIP, hw.RandomK(0.5), EQUAL), "RandomK|Clip"),
    "Quantize before Clip (C24)": ((CODE, CLIP, hw.Mean("clients")), "Clip|Quantize"),
    "Quantize without Clip": ((CODE, hw.Mean("clients")), "Quantize"),
    "local noise before Clip (C12)": ((LOCAL, CLIP, EXPECTED), "Clip|LocalGaussian"),
    "robust rule, a rule by coordinate and SCAFFOLD (C21)": ((hw.Scaffold(), MEDIAN), "Scaffold"),
    "robust rule, ServerAdam of a small tau (C23)": ((KRUM, hw.ServerAdam(tau=1e-4)), "Krum"),
    "robust rule, ServerYogi of a small tau (C23)": ((KRUM, hw.ServerYogi(tau=1e-5)), "Krum"),
    "votes of replicas, SecureSum (X3)": ((CLIP, CODE, SUM, hw.MajorityVote()), "SecureSum"),
    "votes of replicas, sums of buckets": ((CLIP, CODE, BUCKETS, hw.MajorityVote()), "SecureSum"),
    "votes of replicas, rounding at the client": ((CLIP, CODE, hw.MajorityVote()), "Quantize"),
    "votes of replicas, noise at the client": ((CLIP, LOCAL, hw.MajorityVote()), "gaussian noise"),
    "votes of replicas, memory": ((hw.ClientMomentum(), hw.MajorityVote()), "ClientMomentum|Uniform"),
    "robust rule, weights": ((hw.Weigh("capped", 5), KRUM), "Weigh"),
}
LATE_ACCEPTED: dict[str, Sequence[Stage | None]] = {
    "async, local noise (C19)": (CLIP, LOCAL, hw.Mean("clients")),
    "async, robust rule of a buffer that is large enough (C22)": (hw.Staleness(), hw.Krum(1)),
    "async, Clip": (hw.Staleness(), CLIP, hw.Mean()),
    "async, Quantize": (hw.Staleness(), CLIP, CODE, hw.Mean("clients")),
    "async, ServerAdam, with a warning (C31)": (hw.Staleness(), hw.Mean(), hw.ServerAdam()),
    "async, ECGR before the staleness weight (C32)": (hw.ECGR(), hw.Staleness(), hw.Mean()),
}
LATE_REFUSED: dict[str, tuple[Sequence[Stage | None], str]] = {
    "async, SecureSum (X8)": ((CLIP, CODE, SUM, hw.Mean("clients")), "Quorum"),
    "async, SecureSum in buckets (X8)": ((CLIP, CODE, BUCKETS, MEDIAN), "Quorum"),
    "async, Skellam (C19)": ((CLIP, CODE, SHARES, SUM, hw.Mean("clients")), "Quorum"),
    "async, SCAFFOLD (X29)": ((hw.Scaffold(), hw.Mean("clients")), "Quorum"),
    "async, FedDyn": ((hw.FedDyn(), hw.Mean("clients")), "Quorum"),
    "async, robust rule of a small buffer (C22)": ((hw.Staleness(), hw.Krum(4)), "Quorum"),
    "async, ECGR after the staleness weight (C32)": ((hw.Staleness(), hw.ECGR(), hw.Mean()), "ECGR|Staleness"),
}
NOT_BUILT = {"TopK": "X6 C12 C18 X20 C24 C26 C27", "ErrorFeedback": "a residual never leaves the client"}


@pytest.mark.parametrize("pair", ACCEPTED)
def test_a_pair_that_composes_is_accepted(pair) -> None:
    warnings = build(*ACCEPTED[pair])
    if pair in WARNED:
        assert any(any(word in warning for word in WARNED[pair].split("|")) for warning in warnings), warnings


def refused(links: Sequence[Stage | None], quorum: hw.Quorum | None = None) -> ChainRefused:
    with pytest.raises(ChainRefused) as caught:
        build(*links, quorum=quorum)
    error = caught.value
    assert all(part.strip() for part in (error.needed, error.found, error.caused_by, error.do_this))
    return error


@pytest.mark.parametrize("pair", REFUSED)
def test_a_pair_that_cannot_mean_anything_is_refused_with_its_cause(pair) -> None:
    links, cause = REFUSED[pair]
    error = refused(links)
    assert any(name in str(error) for name in cause.split("|")), str(error)


@pytest.mark.parametrize("pair", BY_EXAMPLE)
def test_a_pair_that_composes_with_privacy_of_single_examples_is_accepted(pair) -> None:
    build(*BY_EXAMPLE[pair], trainer=hw.DPSGD(lr=0.1, noise_multiplier=1.0))


@pytest.mark.parametrize("pair", LATE_ACCEPTED)
def test_a_pair_that_composes_with_late_updates_is_accepted(pair) -> None:
    build(*LATE_ACCEPTED[pair], quorum=LATE)


@pytest.mark.parametrize("pair", LATE_REFUSED)
def test_a_pair_that_late_updates_break_is_refused_with_its_cause(pair) -> None:
    links, cause = LATE_REFUSED[pair]
    error = refused(links, LATE)
    assert any(name in str(error) for name in cause.split("|")), str(error)


def test_late_updates_get_no_amplification_by_sampling() -> None:
    """C15: a client may be in any buffer, so that no share of the population is drawn."""
    links = hw.chain(hw.Staleness(), CLIP, EXPECTED, NOISE)
    sampler = hw.Algorithm(links, LocalSGD(lr=0.1), hw.Uniform(10), LATE).flows(population=100)[-1].sampler
    assert isinstance(sampler, SamplerFacts)
    assert sampler.rate is None


def test_a_threshold_that_two_lists_of_survivors_could_meet_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 threshold"):
        hw.SecureSum(threshold=0.55)


def test_stages_that_are_not_built_have_no_row_yet() -> None:
    """One that is added needs its cells in this file."""
    assert not NOT_BUILT.keys() & set(stages.names())
