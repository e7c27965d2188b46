"""What each sampler draws: its closed form, and how often, against exact probabilities."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest
import torch
from histories import PEOPLE, N, history

import headway as hw
from headway.data.dataset.owners import client_ids
from headway.numerics.keys import Key
from headway.protocol.client_history import ClientHistory
from headway.protocol.reports import ClientReport
from headway.samplers.drawing import by_weight, first_of

DRAWS = 4000


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: hw.Poisson(rate=0.0), r"Poisson\.rate must be above 0 and at most 1, found 0\.0"),
        (lambda: hw.Poisson(rate=1.5), r"Poisson\.rate must be above 0 and at most 1"),
        (lambda: hw.Poisson(rate="0.5"), r"Poisson\.rate must be a number"),
        (lambda: hw.Poisson(rate=0.5, most=0), r"Poisson\.most must be at least 1, found 0"),
        (lambda: hw.BySize(count=0), r"BySize\.count must be at least 1, found 0"),
        (lambda: hw.BySize(count=2.5), r"BySize\.count must be a whole number"),
        (lambda: hw.RoundRobin(count=-1), r"RoundRobin\.count must be at least 1"),
        (lambda: hw.LeastAvailable(count=0), r"LeastAvailable\.count must be at least 1"),
        (lambda: hw.PowerOfChoice(count=0, candidates=3), r"PowerOfChoice\.count must be at least 1"),
        (lambda: hw.PowerOfChoice(count=4, candidates=3), r"candidates must be at least its count, 4, found 3"),
        (lambda: hw.Oort(count=0), r"Oort\.count must be at least 1"),
        (lambda: hw.Oort(count=1, explore=1.5), r"Oort\.explore must be between 0 and 1, found 1\.5"),
        (lambda: hw.Oort(count=1, clip=-0.1), r"Oort\.clip must be between 0 and 1"),
        (lambda: hw.Oort(count=1, cutoff=math.nan), r"Oort\.cutoff must be a finite number"),
        (lambda: hw.Oort(count=1, penalty=-1.0), r"Oort\.penalty must be at least 0"),
        (lambda: hw.Oort(count=1, pace_s=0.0), r"Oort\.pace_s must be above 0 seconds"),
        (lambda: hw.Oort(count=1, window=0), r"Oort\.window must be at least 1"),
        (lambda: hw.Oort(count=1, exclude_after=0), r"Oort\.exclude_after must be at least 1"),
    ],
)
def test_a_value_out_of_range_is_refused(make, says):
    with pytest.raises(hw.ConfigError, match=says):
        make()


# how often ---------------------------------------------------------------------------------------------


def frequencies(draw):
    """How often each client is in a cohort, over many keys."""
    seen = Counter(itertools.chain.from_iterable(draw(Key.root(0).derive(number)) for number in range(DRAWS)))
    return {name: seen[name] / DRAWS for name in seen}


def successive(weights, count):
    """The probability of each to be among the first `count`, drawn one after another by weight: by enumeration."""
    inside = [0.0] * len(weights)
    for order in itertools.permutations(range(len(weights)), count):
        probability, left = 1.0, sum(weights)
        for place in order:
            probability *= weights[place] / left
            left -= weights[place]
        for place in order:
            inside[place] += probability
    return inside


def assert_frequencies(found, expected):
    """Within four standard deviations of a frequency of so many draws."""
    for name, probability in expected.items():
        spread = math.sqrt(probability * (1 - probability) / DRAWS)
        assert abs(found.get(name, 0.0) - probability) <= 4 * spread + 1e-12, name


def test_by_size_is_successive_sampling():
    sizes = [1, 2, 3, 10, 4]
    people = client_ids(len(sizes))
    known = ClientHistory(people, torch.tensor(sizes), {"sizes"})
    for count in (1, 2, 4):
        sampler = hw.BySize(count=count)
        found = frequencies(lambda key, sampler=sampler: sampler.draw(people, 0, key, known))
        assert_frequencies(found, dict(zip(people, successive(sizes, count), strict=True)))
    assert successive(sizes, 1) == [size / 20 for size in sizes]


def test_least_available_is_successive_sampling_by_the_inverse_share():
    """a was there in 1 of 8 rounds, b in 3, c in all; the round at hand counts too, for those who are there."""
    people = ("a", "b", "c", "d")
    known = ClientHistory(people, torch.ones(4, dtype=torch.int64), {"availability"})
    for round_ in range(8):
        known.record_round(round_, [c for c, often in (("a", 1), ("b", 3), ("c", 8)) if round_ < often], (), ())
    weights = {"a": 9 / 2, "b": 9 / 4, "c": 1.0}
    found = frequencies(lambda key: hw.LeastAvailable(count=2).draw(("c", "a", "b"), 8, key, known))
    assert_frequencies(found, dict(zip(weights, successive(list(weights.values()), 2), strict=True)))
    assert "d" not in found


def test_least_available_is_uniform_where_all_are_there():
    known = ClientHistory(PEOPLE, torch.ones(N, dtype=torch.int64), {"availability"})
    for round_ in range(5):
        known.record_round(round_, PEOPLE, (), ())
    found = frequencies(lambda key: hw.LeastAvailable(count=3).draw(PEOPLE, 5, key, known))
    assert_frequencies(found, dict.fromkeys(PEOPLE, 3 / N))


def test_poisson_draws_each_for_itself():
    cohorts = [set(hw.Poisson(rate=0.3).draw(PEOPLE, 0, Key.root(1).derive(n))) for n in range(DRAWS)]
    sizes = Counter(map(len, cohorts))
    binomial = {k: math.comb(N, k) * 0.3**k * 0.7 ** (N - k) for k in range(N + 1)}
    assert_frequencies({k: sizes[k] / DRAWS for k in sizes}, binomial)
    assert sizes[0] > 0
    for one, other in itertools.combinations(PEOPLE, 2):
        both = sum(one in cohort and other in cohort for cohort in cohorts) / DRAWS
        assert abs(both - 0.09) <= 4.5 * math.sqrt(0.09 * 0.91 / DRAWS)  # the largest of 36 of these
    assert hw.Poisson(rate=1.0).draw(PEOPLE, 0, Key.root(0)) == PEOPLE
    assert hw.Poisson(rate=0.5).draw((), 0, Key.root(0)) == ()


def test_truncated_poisson_is_poisson_up_to_its_limit():
    free, cut = hw.Poisson(rate=0.4), hw.Poisson(rate=0.4, most=3)
    inside, many = Counter(), 0
    for number in range(DRAWS):
        key = Key.root(2).derive(number)
        whole, part = free.draw(PEOPLE, 0, key), cut.draw(PEOPLE, 0, key)
        if len(whole) <= 3:
            assert part == whole
        else:
            many += 1
            assert len(part) == 3
            assert set(part) < set(whole)
            inside.update(whole.index(client) * 2 // len(whole) for client in part)
    assert many > DRAWS / 3
    expected = cut.facts(N).expected
    exact = sum(min(k, 3) * math.comb(N, k) * 0.4**k * 0.6 ** (N - k) for k in range(N + 1))
    assert expected == pytest.approx(exact, rel=1e-12)
    found = frequencies(lambda key: cut.draw(PEOPLE, 0, key))
    assert_frequencies(found, dict.fromkeys(PEOPLE, exact / N))


def test_the_two_kinds_of_poisson_are_told_apart():
    plain, cut = hw.Poisson(rate=0.01).facts(1_000_000), hw.Poisson(rate=0.01, most=10_000).facts(1_000_000)
    assert (plain.kind, plain.rate, plain.most, plain.expected) == ("poisson", 0.01, None, 10_000.0)
    assert (cut.kind, cut.rate, cut.most) == ("truncated poisson", 0.01, 10_000)
    deviation = math.sqrt(10_000 * 0.99)  # half of the normal distribution is cut: E min = mean - sd / sqrt(2 pi)
    assert cut.expected == pytest.approx(10_000 - deviation / math.sqrt(2 * math.pi), abs=0.05)
    assert hw.Poisson(rate=0.5).facts(None).expected is None
    assert {hw.Uniform(count=3).facts(9).rate, hw.Uniform(count=3).facts(9).most} == {None}


def test_who_weighs_nothing_is_drawn_when_nobody_else_is_left():
    weights = torch.tensor([0.0, 2.0, 0.0, 0.0, 1.0])
    found = Counter()
    for number in range(DRAWS):
        drawn = by_weight(weights, 3, Key.root(number))
        assert {1, 4} < set(drawn)
        found.update(set(drawn) - {1, 4})
    assert_frequencies({k: v / DRAWS for k, v in found.items()}, dict.fromkeys((0, 2, 3), 1 / 3))


def test_first_of_is_sorting():
    drawn = random.Random(0)
    for _ in range(100):
        one = [drawn.randint(0, 3) for _ in range(13)]
        other = [drawn.random() for _ in range(13)]
        expected = sorted(sorted(range(13), key=lambda i: (one[i], other[i]))[:5])
        assert first_of(5, torch.tensor(one), torch.tensor(other)) == expected


# turns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("population", "count"), [(9, 4), (10, 5), (7, 7), (11, 3)])
def test_round_robin_asks_everybody_within_a_turn_and_is_even(population, count):
    people = client_ids(population)
    known, asked, orders = (
        ClientHistory(people, torch.ones(population, dtype=torch.int64), {"participation"}),
        Counter(),
        set(),
    )
    for round_ in range(40):
        cohort = hw.RoundRobin(count=count).draw(people, round_, Key.root(3).derive(round_), known)
        asked.update(cohort)
        orders.add(cohort)
        known.record_round(round_, people, cohort, [])
        if round_ + 1 == -(-population // count):
            assert set(asked) == set(people)
        assert max(asked.values()) - min(asked[name] for name in people) <= 1
    assert (len(orders) == 1) == (population == count)


def test_round_robin_lets_those_come_first_who_were_away():
    people = client_ids(6)
    known = ClientHistory(people, torch.ones(6, dtype=torch.int64), {"participation"})
    for round_ in range(4):
        cohort = hw.RoundRobin(count=2).draw(people[:4], round_, Key.root(round_), known)
        known.record_round(round_, people[:4], cohort, [])
    assert hw.RoundRobin(count=2).draw(people, 4, Key.root(4), known) == people[4:]


def test_round_robin_breaks_ties_evenly():
    known = ClientHistory(PEOPLE, torch.ones(N, dtype=torch.int64), {"participation"})
    found = frequencies(lambda key: hw.RoundRobin(count=2).draw(PEOPLE, 0, key, known))
    assert_frequencies(found, dict.fromkeys(PEOPLE, 2 / N))


# power of choice ---------------------------------------------------------------------------------------


def slow_power(known, clients, key, count, candidates, losses):
    """Algorithm: candidates by exponential keys of their sizes, then the largest losses; ties by a keyed order."""
    people = sorted(clients)
    sizes = {name: int(size) for name, size in zip(known.names, known.sizes, strict=True)}
    own = key.derive("candidates").uniform(len(people)).tolist()
    patience = {name: -math.log1p(-u) / sizes[name] for name, u in zip(people, own, strict=True)}
    chosen = sorted(sorted(people, key=patience.get)[:candidates])
    told = [name for name in chosen if name in losses]
    ties = dict(zip(told, key.derive("ties").bits(len(told)).tolist(), strict=True))
    return tuple(chosen), tuple(sorted(sorted(told, key=lambda name: (-losses[name], ties[name]))[:count]))


@pytest.mark.parametrize(("count", "candidates"), [(1, 1), (2, 4), (4, 7), (3, 9), (4, 50)])
def test_power_of_choice_is_the_slow_reference(count, candidates):
    sampler = hw.PowerOfChoice(count=count, candidates=candidates)
    for seed in range(40):
        drawn, key, known = random.Random(seed), Key.root(seed), history(seed=seed)
        losses = {name: float(drawn.randint(0, 3)) for name in PEOPLE if drawn.random() < 0.8}
        asked, expected = slow_power(known, PEOPLE, key, count, candidates, losses)
        assert sampler.measured(PEOPLE, 3, key, known) == asked
        reports = [ClientReport(c, "counted", metrics={"train_loss": losses[c]}) for c in asked if c in losses]
        known.set_fresh_losses([*reports, *(ClientReport(c, "dropped") for c in asked if c not in losses)])
        assert sampler.draw(PEOPLE, 3, key, known) == expected


def test_power_of_choice_without_asking_uses_the_losses_reported_last():
    sampler = hw.PowerOfChoice(count=3, candidates=6, refresh=False)
    unknown = 0
    for seed in range(40):
        key, known = Key.root(seed), history(seed=seed)
        last = known.column("loss", known.places(PEOPLE)).tolist()
        unknown += sum(map(math.isnan, last))
        losses = {n: math.inf if math.isnan(loss) else loss for n, loss in zip(PEOPLE, last, strict=True)}
        assert sampler.measured(PEOPLE, 3, key, known) == ()
        assert sampler.draw(PEOPLE, 3, key, known) == slow_power(known, PEOPLE, key, 3, 6, losses)[1]
    assert unknown > 40


def test_a_loss_that_is_no_number_is_the_worst():
    known = history()
    known.set_fresh_losses([ClientReport(c, "counted", metrics={"train_loss": float(i)}) for i, c in enumerate(PEOPLE)])
    sampler = hw.PowerOfChoice(count=1, candidates=N)
    assert sampler.draw(PEOPLE, 0, Key.root(0), known) == (PEOPLE[-1],)
    known.set_fresh_losses(
        [ClientReport(c, "counted", metrics={"train_loss": math.nan if not i else 1.0}) for i, c in enumerate(PEOPLE)]
    )
    assert sampler.draw(PEOPLE, 0, Key.root(0), known) == (PEOPLE[0],)
    known.set_fresh_losses([])
    assert sampler.draw(PEOPLE, 0, Key.root(0), known) == ()
