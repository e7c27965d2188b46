"""Robust rules against slow references, their symmetries, and their guarantee on constructed worst cases."""

import math

import pytest
import torch
from conformance import robust_reference as slow
from conformance.robust_cases import CTX, RULES, F, aggregate, draws, rows_of

from headway.core.errors import ConfigError
from headway.core.stage import Aggregator
from headway.core.update import Rows, Update
from headway.numerics import distances, order_statistics
from headway.stages import (
    NNM,
    AdaptiveRobustClipping,
    Bucketing,
    Bulyan,
    CentredClipping,
    FLTrust,
    GeometricMedian,
    Krum,
    LossValidation,
    MajorityVote,
    Mean,
    MeanAroundMedian,
    Median,
    MinimumDiameter,
    MultiKrum,
    TrimmedMean,
)
from headway.stages.robust.pre_aggregation import bucket_mixing

ABOUT_ZERO = {"NormBound", "CentredClipping", "ARC and Median"}  # shorten towards a point that stays


@pytest.mark.parametrize("count", [11, 12])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_its_slow_reference(name, seed, count) -> None:
    rule, reference = RULES[name]
    x = draws(f"{seed}", count, 7)
    x[: F + 1] *= 5.0
    expected = torch.tensor(reference(x.tolist()), dtype=torch.float64)
    torch.testing.assert_close(aggregate(rule, x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in RULES if name not in ABOUT_ZERO | {"Bulyan"}])
def test_float32_updates_far_from_zero_are_compared_without_loss_of_digits(name) -> None:
    rule, reference = RULES[name]
    x = (1000.0 + draws("far", 11, 40) * 1e-2).float()
    expected = torch.tensor(reference(x.double().tolist()), dtype=torch.float64)
    torch.testing.assert_close(aggregate(rule, x), expected, rtol=0, atol=2e-4)


ORDER = [4, 0, 9, 2, 10, 7, 1, 3, 8, 6, 5]


@pytest.mark.parametrize("name", RULES)
def test_the_order_in_which_updates_arrive_does_not_matter_to_the_bit(name) -> None:
    rule, _ = RULES[name]
    x = draws("order", 11, 6)
    updates = {f"c{i:03d}": Update.of(x[i]) for i in range(11)}
    arrived = Rows.of({name: updates[name] for name in (f"c{i:03d}" for i in ORDER)})
    assert torch.equal(rule.reduce(arrived, rule.init(x[0]), CTX)[0].delta, aggregate(rule, x))


@pytest.mark.parametrize("name", RULES)
def test_it_does_not_matter_which_client_sent_which_update(name) -> None:
    """Not where two updates have one score, as the nearest two of Bulyan's last picks, or where either end of the
    longest distance may be left out, as with MinimumDiameter."""
    rule, _ = RULES[name]
    for seed in range(8):
        x = draws(f"order {seed}", 11, 6)
        torch.testing.assert_close(aggregate(rule, x[torch.tensor(ORDER)]), aggregate(rule, x), rtol=0, atol=1e-10)


EXACT = ("Median", "TrimmedMean", "MeanAroundMedian", "Krum", "MultiKrum", "Bulyan", "NNM and Median")


@pytest.mark.parametrize("count", [11, 12])
@pytest.mark.parametrize("name", EXACT)
def test_a_rule_is_its_slow_reference_where_numbers_and_distances_are_equal(name, count) -> None:
    """Attackers that send copies of one update are such a case."""
    rule, reference = RULES[name]
    for seed in range(8):
        x = draws(f"equal {seed}", count, 2).round()
        expected = torch.tensor(reference(x.tolist()), dtype=torch.float64)
        torch.testing.assert_close(aggregate(rule, x), expected, rtol=1e-12, atol=1e-12)


def test_of_the_numbers_nearest_to_the_median_none_is_farther_than_one_left_out() -> None:
    """The lowest number, of three attackers, is as far from the median, 0, as the highest."""
    x = torch.tensor([[-1.0], [-1.0], [-1.0], [0.0], [0.5], [0.6], [1.0]], dtype=torch.float64)
    assert float(aggregate(MeanAroundMedian(3), x)) == pytest.approx((-1 + 0 + 0.5 + 0.6) / 4)


@pytest.mark.parametrize("name", [name for name in RULES if name not in ABOUT_ZERO])
def test_a_shift_and_a_scale_of_all_updates_shift_and_scale_the_aggregate(name) -> None:
    rule, _ = RULES[name]
    x, shift = draws("shift", 11, 6), draws("by", 6)
    before = aggregate(rule, x)
    torch.testing.assert_close(aggregate(rule, x + shift), before + shift, rtol=0, atol=1e-9)
    torch.testing.assert_close(aggregate(rule, -3.0 * x), -3.0 * before, rtol=0, atol=1e-9)


KAPPA = {  # (f, kappa)-robustness of arXiv 2302.01772: |A - mean of honest|^2 <= kappa * mean |x_i - mean|^2
    "Median": 4 * (1 + 1 / 7) ** 2,
    "TrimmedMean": 6 * F / 7 * (1 + F / 7) * 2,
    "Krum": 6 * (1 + F / 7),
    "GeometricMedian": 4 * (1 + F / 7) ** 2,
    "NNM and Krum": 8 * F / 9 * (6 * (1 + F / 7) + 1),
    "NNM and Median": 8 * F / 9 * (4 * (1 + F / 7) ** 2 + 1),
}


def hostile(honest):
    """Sets of F attackers that see the honest updates."""
    mean, spread = honest.mean(0), honest.std(0)
    yield from ([mean - z * spread] * F for z in (0.5, 1.0, 1.5, 3.0, 10.0))
    yield [-10 * mean] * F
    yield [mean + 1e6, mean - 1e6]
    yield [honest[0]] * F
    yield [honest[3] + 1e-3, honest[3] - 1e-3]
    yield [torch.full_like(mean, 1e30)] * F
    yield [torch.zeros_like(mean)] * F


@pytest.mark.parametrize("name", KAPPA)
@pytest.mark.parametrize("seed", range(5))
def test_the_guarantee_holds_on_constructed_worst_cases(name, seed) -> None:
    """`F` attackers of 9 move the aggregate no farther from the honest mean than kappa times the honest variance."""
    honest = draws(f"honest {seed}", 9 - F, 5) + 3.0
    variance = float(((honest - honest.mean(0)) ** 2).sum(1).mean())
    for attackers in hostile(honest):
        x = torch.cat([torch.stack(attackers), honest])
        away = float(((aggregate(RULES[name][0], x) - honest.mean(0)) ** 2).sum())
        assert away <= KAPPA[name] * variance


def test_one_attacker_moves_the_mean_anywhere() -> None:
    honest = draws("honest", 8, 5)
    x = torch.cat([torch.full((1, 5), 1e30).double(), honest])
    assert float(x.mean(0).norm()) > 1e29
    assert float(aggregate(Median(1), x).norm()) < 10


def test_bulyan_scores_anew_after_each_pick() -> None:
    """Picked by scores of the beginning, other updates are chosen."""
    differs = 0
    for seed in range(20):
        x = draws(f"bulyan {seed}", 7, 3)
        once = sorted(range(7), key=slow.scores(x.tolist(), 1).__getitem__)[:5]
        fixed = torch.tensor(slow.around_median([x[i].tolist() for i in once], 3), dtype=torch.float64)
        again = torch.tensor(slow.bulyan(x.tolist(), 1), dtype=torch.float64)
        torch.testing.assert_close(aggregate(Bulyan(1), x), again)
        differs += not torch.allclose(fixed, again)
    assert differs


def test_krum_counts_the_nearest_but_two_and_the_attackers() -> None:
    """With n - f - 1 neighbours, as some libraries take, another update would be chosen."""
    x = torch.tensor([[0.0], [1.0], [2.1], [3.0], [-4.0], [7.0], [9.0]], dtype=torch.float64)
    assert aggregate(Krum(1), x).tolist() == slow.krum(x.tolist(), 1)
    apart = [[abs(a - b) ** 2 for b in x.flatten().tolist()] for a in x.flatten().tolist()]
    scores = [sum(sorted(row)[1:5]) for row in apart]  # n - f - 2 = 4
    assert aggregate(Krum(1), x).tolist() == x[scores.index(min(scores))].tolist()


def test_the_geometric_median_at_an_update_is_that_update() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.1], [0.0, 1.0], [0.1, -1.0]], dtype=torch.float64)
    assert torch.equal(aggregate(GeometricMedian(1), x), x[0])
    same = torch.cat([x[1:2]] * 4 + [x[2:4]])
    assert torch.equal(aggregate(GeometricMedian(1), same), x[1])


def test_the_geometric_median_of_two_or_of_equal_updates_is_in_the_middle() -> None:
    two = torch.tensor([[0.0, 2.0], [4.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(aggregate(GeometricMedian(0), two), two.mean(0))
    assert torch.equal(aggregate(GeometricMedian(1), two[:1].expand(5, 2)), two[0])


def test_centred_clipping_keeps_its_centre() -> None:
    rule, x = CentredClipping(0.5, 2), draws("centre", 7, 4)
    centre, state = [0.0] * 4, rule.init(x[0])
    for _ in range(3):
        update, state = rule.reduce(rows_of(x), state, CTX)
        centre = slow.centred_clipping(x.tolist(), 0.5, 2, centre)
        torch.testing.assert_close(update.delta, torch.tensor(centre, dtype=torch.float64))
        assert torch.equal(state["delta"], update.delta)


@pytest.mark.parametrize(
    "rule", [Krum(F), MultiKrum(F), GeometricMedian(F), MinimumDiameter(F), NNM(F, Krum(F))], ids=repr
)
def test_the_same_clients_are_chosen_for_all_vectors(rule) -> None:
    x, control = draws("x", 11, 6), draws("control", 11, 6)
    update, _ = rule.reduce(rows_of(x, control=control), rule.init(x[0]), CTX)
    together = aggregate(rule, torch.cat([x, control], dim=1))
    torch.testing.assert_close(torch.cat([update.delta, update.vectors["control"]]), together)


@pytest.mark.parametrize("rows", [1, 3])
def test_fl_trust_is_its_slow_reference(rows) -> None:
    x = draws("trust", 6, 5)
    rule = FLTrust("c002")
    expected = torch.tensor(slow.fl_trust(x.tolist(), 2), dtype=torch.float64)
    torch.testing.assert_close(aggregate(rule, x), expected)


def test_fl_trust_ignores_what_points_away_and_refuses_a_round_without_its_root() -> None:
    x = torch.tensor([[1.0, 0.0], [-5.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    assert not aggregate(FLTrust("c000"), x).any()
    with pytest.raises(Exception, match="root data of FLTrust"):
        aggregate(FLTrust("server"), x)


@pytest.mark.parametrize("outer", [NNM, Bucketing, AdaptiveRobustClipping, MajorityVote, LossValidation])
@pytest.mark.parametrize("then", [FLTrust(), MajorityVote(), LossValidation()], ids=lambda rule: type(rule).__name__)
def test_a_rule_that_knows_clients_by_name_cannot_stand_behind_another(outer, then) -> None:
    """Mixed updates are no client's, and what a rule does before it aggregates would not be done."""
    with pytest.raises(ConfigError, match=rf"{type(then).__name__} needs each client's own update, by its name"):
        outer(then=then)


def test_buckets_are_random_means_that_hold_every_update_once() -> None:
    mixing = bucket_mixing(torch.tensor([3, 1, 4, 0, 2]), 2)
    assert mixing.shape == (3, 5)
    torch.testing.assert_close(mixing.sum(1), torch.ones(3, dtype=torch.float64))
    assert (mixing > 0).sum(0).tolist() == [1] * 5
    x = draws("buckets", 12, 3)
    one = aggregate(Bucketing(2, MeanAroundMedian(0)), x)
    torch.testing.assert_close(one, x.mean(0))


@pytest.mark.parametrize(
    "rule", [TrimmedMean(0), MeanAroundMedian(0), MultiKrum(0), MinimumDiameter(0), CentredClipping(1e30)]
)
def test_without_attackers_averaging_rules_are_the_mean_over_clients(rule: Aggregator) -> None:
    x = draws("mean", 9, 4)
    torch.testing.assert_close(aggregate(rule, x), x.mean(0))


def test_a_block_of_columns_is_sorted_at_a_time(monkeypatch) -> None:
    x = draws("wide", 11, 50).float()
    whole = [aggregate(rule, x) for rule in (Median(2), Krum(2), NNM(2, Median(2)), GeometricMedian(2))]
    monkeypatch.setattr(order_statistics, "COLUMNS", 7)
    monkeypatch.setattr(distances, "COLUMNS", 7)
    for before, rule in zip(whole, (Median(2), Krum(2), NNM(2, Median(2)), GeometricMedian(2)), strict=True):
        torch.testing.assert_close(aggregate(rule, x), before, rtol=1e-5, atol=1e-6)


def test_columns_sorted_in_threads_are_those_sorted_in_one() -> None:
    rows, before = torch.randn(5, 3 * order_statistics.COLUMNS + 1), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = order_statistics.of_sorted_columns(rows, order_statistics.median_of_sorted)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, rows.median(0).values.double())


def test_no_rule_gives_what_is_not_finite_for_updates_near_the_largest_number() -> None:
    x = draws("large", 11, 4).float() * 1e18
    for rule, _ in RULES.values():
        assert math.isfinite(float(aggregate(rule, x).abs().max()))


@pytest.mark.parametrize("size", [1e20, 3e38])
@pytest.mark.parametrize("name", [name for name in RULES if "(0)" not in name])
def test_huge_attackers_do_not_blind_a_rule_to_what_honest_updates_differ_in(name, size) -> None:
    """In float32 a square of theirs is infinite, and their mean takes all digits from the others."""
    rule, reference = RULES[name]
    honest = draws("honest", 9, 30).float()
    sign = torch.tensor([1.0, -1.0]).unsqueeze(1)
    x = torch.cat([size * sign * torch.ones(2, 30), honest])
    expected = torch.tensor(reference(x.double().tolist()), dtype=torch.float64)
    found = aggregate(rule, x)
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_weights_do_not_count() -> None:
    x = draws("weights", 11, 4)
    for rule, _ in RULES.values():
        rows = rows_of(x)
        heavy = type(rows)(rows.names, rows.vectors, rows.weights * torch.arange(11).double())
        one, other = rule.reduce(rows, rule.init(x[0]), CTX)[0], rule.reduce(heavy, rule.init(x[0]), CTX)[0]
        assert torch.equal(one.delta, other.delta)
    assert Mean.whole_cohort is False
