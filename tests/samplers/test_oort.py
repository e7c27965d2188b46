"""Oort against a slow implementation of Algorithm 1, and each of its parts by itself."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter

import numpy as np
import pytest
import torch
from histories import EVERY, PEOPLE, history
from test_draws import DRAWS, assert_frequencies, successive

import headway as hw
from headway.data.dataset.owners import client_ids
from headway.numerics.keys import Key
from headway.protocol.client_history import ClientHistory
from headway.protocol.reports import ClientReport

WINDOWS = [5.0, 5.0, 3.0, 4.0, 9.0, 2.0, 2.0, 7.0]


def row(known, name):
    """All that is known of a client."""
    place = known.places([name])
    return {"size": int(known.sizes[place])} | {
        column: known.column(column, place).item() for column in ("asked", "counted", "last", "loss", "seconds")
    }


def slow_pace(oort, known, times):
    step = oort.pace_s if oort.pace_s is not None else (sorted(times)[(len(times) - 1) // 2] if times else math.inf)
    totals, T = known.totals.tolist(), step
    for R in range(2 * oort.window, len(totals) + 1, oort.window):
        before, since = totals[R - 2 * oort.window : R - oort.window], totals[R - oort.window : R]
        if sum(before) > sum(since):
            T += step
    return T


def slow_oort(oort, known, clients, round_, key):
    """Algorithm 1, client by client, in plain Python; the same random numbers."""
    R, K = round_ + 1, oort.count
    people = sorted(clients)
    rows = {name: row(known, name) for name in people}
    if oort.exclude_after is not None:
        over = {name: max(0, rows[name]["counted"] - oort.exclude_after + 1) for name in people}
        ties = dict(zip(people, key.derive("allowed").bits(len(people)).tolist(), strict=True))
        order = sorted(people, key=lambda name: (over[name], ties[name]))
        people = sorted(order[: max(K, sum(not often for often in over.values()))])
    E = [name for name in people if not math.isnan(rows[name]["loss"])]
    rest = [name for name in people if name not in E]
    epsilon = max(oort.explore_least, oort.explore * oort.explore_decay**round_)
    m = math.floor((1 - epsilon) * K + 1e-9)
    m = min(max(m, K - len(rest)), len(E))
    times = [s for s in known.column("seconds", known.places(known.names)).tolist() if not math.isnan(s)]
    T = slow_pace(oort, known, times)
    chosen = []
    if m:
        U = {name: rows[name]["size"] * abs(rows[name]["loss"]) for name in E}
        limit = float(np.quantile(list(U.values()), oort.clip))
        U = {name: min(value, limit) for name, value in U.items()}
        if oort.normalised:
            low, high = min(U.values()), max(U.values())
            U = {name: (value - low) / ((high - low) or 1.0) for name, value in U.items()}
        Util = {}
        for name in E:
            Util[name] = U[name] + math.sqrt(0.1 * math.log(R) / (rows[name]["last"] + 1))
            if rows[name]["seconds"] > T:
                Util[name] *= (T / rows[name]["seconds"]) ** oort.penalty
        cutoff = oort.cutoff * sorted(Util.values(), reverse=True)[m - 1]
        W = [name for name in E if Util[name] >= cutoff]
        own = key.derive("exploit").uniform(len(W)).tolist()
        patience = {name: -math.log1p(-u) / Util[name] for name, u in zip(W, own, strict=True)}
        chosen += sorted(W, key=patience.get)[:m]
    own = key.derive("explore").uniform(len(rest)).tolist()
    known_times = [rows[name]["seconds"] for name in rest if not math.isnan(rows[name]["seconds"])]
    usual = sorted(known_times)[(len(known_times) - 1) // 2] if known_times else 1.0
    patience = {}
    for name, u in zip(rest, own, strict=True):
        seconds = rows[name]["seconds"]
        patience[name] = -math.log1p(-u) * max(usual if math.isnan(seconds) else seconds, 1e-9)
    chosen += sorted(rest, key=lambda name: (rows[name]["asked"], patience[name]))[: K - m]
    return tuple(sorted(chosen))


def of_thirty(seed, rounds=50):
    return history(client_ids(30), rounds, seed)


@pytest.mark.parametrize(
    "oort",
    [
        hw.Oort(count=8),
        hw.Oort(count=8, explore=0.2, explore_decay=1.0),
        hw.Oort(count=8, explore=0.0, explore_least=0.0, normalised=True),
        hw.Oort(count=8, explore=0.4, pace_s=0.1, window=5, penalty=0.7, cutoff=0.5, clip=0.6),
        hw.Oort(count=10, explore=0.1, explore_least=0.1, exclude_after=3, cutoff=1.0, clip=1.0),
        hw.Oort(count=12, exclude_after=1, window=7),
    ],
    ids=["default", "exploits", "normalised", "pacer", "excludes", "excludes most"],
)
@pytest.mark.parametrize("rounds", [0, 4, 50])
def test_it_is_the_slow_reference(oort, rounds):
    for seed in range(25):
        known, key = of_thirty(seed, rounds=rounds), Key.root(seed)
        there = random.Random(seed).sample(known.names, 24)
        found = oort.draw(there, rounds, key, known)
        assert found == slow_oort(oort, known, there, rounds, key)
        assert len(found) == oort.count


def told(losses, sizes=None, seconds=None, people=PEOPLE):
    """A roster after one round in which these clients reported."""
    known = ClientHistory(people, torch.tensor(sizes or [1] * len(people)), EVERY)
    reports = []
    for place, loss in enumerate(losses):
        clock = {"asked_s": 0.0, "ended_s": seconds[place]} if seconds else {}
        reports.append(ClientReport(people[place], "counted", metrics={"train_loss": loss, **clock}))
    known.record_round(0, people, people[: len(losses)], reports)
    return known


GREEDY = {"explore": 0.0, "explore_least": 0.0, "clip": 1.0, "cutoff": 1.0}


def test_statistical_utility_is_examples_times_mean_loss_and_is_clipped():
    known = told([1.0, 2.0, 3.0, 4.0, 100.0], sizes=[2, 1, 1, 1, 1], people=client_ids(5))
    value = hw.Oort(count=1, clip=1.0).utility(known, torch.arange(5), 0)  # ln 1 = 0: no staleness yet
    assert value.tolist() == [2.0, 2.0, 3.0, 4.0, 100.0]
    assert hw.Oort(count=1, clip=0.75).utility(known, torch.arange(5), 0).tolist() == [2.0, 2.0, 3.0, 4.0, 4.0]


def test_staleness_grows_with_the_rounds_and_less_for_those_who_came_lately():
    known = told([1.0, 1.0])
    for round_ in range(1, 20):
        known.record_round(
            round_, PEOPLE, PEOPLE[1:2], [ClientReport(PEOPLE[1], "counted", metrics={"train_loss": 1.0})]
        )
    bonus = hw.Oort(count=1).utility(known, torch.arange(2), 20) - 1.0
    assert bonus.tolist() == pytest.approx([math.sqrt(0.1 * math.log(21) / 1), math.sqrt(0.1 * math.log(21) / 20)])


def test_slow_clients_lose_by_the_power_of_their_excess():
    known = told([1.0] * 4, seconds=[5.0, 10.0, 20.0, 40.0])
    value = hw.Oort(count=1, pace_s=10.0).utility(known, torch.arange(4), 0)
    assert value.tolist() == [1.0, 1.0, 0.25, 0.0625]
    assert hw.Oort(count=1, penalty=0.0, pace_s=10.0).utility(known, torch.arange(4), 0).tolist() == [1.0] * 4
    assert hw.Oort(count=1).pace(known) == 10.0  # the lower median
    assert math.isinf(hw.Oort(count=1).pace(told([1.0])))


def test_the_pacer_relaxes_when_a_window_had_less_utility():
    known = told([1.0], seconds=[2.0])
    for round_, total in enumerate(WINDOWS[1:], start=1):
        known.record_round(
            round_, PEOPLE, PEOPLE[:1], [ClientReport(PEOPLE[0], "counted", metrics={"train_loss": total})]
        )
    known.totals[0] = WINDOWS[0]
    oort = hw.Oort(count=1, pace_s=3.0, window=2)  # windows of 10, 7, 11 and 9: two are less than the one before
    assert oort.pace(known) == 9.0
    paces = []
    for rounds in range(9):
        known.totals = torch.tensor(WINDOWS[:rounds], dtype=torch.float64)
        paces.append(oort.pace(known))
    assert paces == [3.0, 3.0, 3.0, 3.0, 6.0, 6.0, 6.0, 6.0, 9.0]


def test_exploitation_without_chance_takes_the_best():
    losses = [3.0, 9.0, 1.0, 7.0, 2.0, 8.0, 4.0, 6.0, 5.0]
    for seed in range(20):
        assert hw.Oort(count=3, **GREEDY).draw(PEOPLE, 0, Key.root(seed), told(losses)) == tuple(
            PEOPLE[place] for place in (1, 3, 5)
        )


def test_above_the_cut_off_chance_is_by_utility():
    """The second best has 8, of which 0.7 is 5.6: four are admitted."""
    losses = [3.0, 9.0, 1.0, 7.0, 2.0, 8.0, 4.0, 6.0, 5.0]
    known, oort = told(losses), hw.Oort(count=2, **{**GREEDY, "cutoff": 0.7})
    found = Counter()
    for number in range(DRAWS):
        found.update(oort.draw(PEOPLE, 0, Key.root(9).derive(number), known))
    admitted = {PEOPLE[place]: losses[place] for place in (1, 3, 5, 7)}
    expected = dict(zip(admitted, successive(list(admitted.values()), 2), strict=True))
    assert_frequencies({name: often / DRAWS for name, often in found.items()}, expected)
    assert set(found) == set(admitted)


def test_the_explored_share_decays_to_its_least():
    """Of ten, by the number of those of whom nothing is known."""
    people = client_ids(60)
    known = told([1.0] * 30, people=people)
    oort = hw.Oort(count=10, explore=0.9, explore_decay=0.9, explore_least=0.25)
    shares = []
    for round_ in (0, 1, 5, 11, 12, 50):
        cohort = oort.draw(people, round_, Key.root(round_), known)
        shares.append(sum(name in people[30:] for name in cohort))
    assert shares == [10 - math.floor(10 * (1 - max(0.25, 0.9 ** (r + 1))) + 1e-9) for r in (0, 1, 5, 11, 12, 50)]
    assert shares[0] == 9
    assert shares[-1] == 3


def test_a_cohort_is_full_when_all_or_none_are_explored():
    assert hw.Oort(count=5, explore=1.0, explore_least=1.0).draw(PEOPLE, 3, Key.root(0), told([1.0] * 9))
    assert len(hw.Oort(count=5).draw(PEOPLE, 3, Key.root(0), told([1.0] * 9))) == 5
    assert len(hw.Oort(count=5, **GREEDY).draw(PEOPLE, 3, Key.root(0), told([]))) == 5
    assert len(hw.Oort(count=5, **GREEDY).draw(PEOPLE, 3, Key.root(0), told([1.0] * 2))) == 5


def test_exploration_is_uniform_where_no_speed_is_known():
    known, found = told([]), Counter()
    for number in range(DRAWS):
        found.update(hw.Oort(count=3).draw(PEOPLE, 0, Key.root(4).derive(number), known))
    assert_frequencies({name: often / DRAWS for name, often in found.items()}, dict.fromkeys(PEOPLE, 1 / 3))


def test_exploration_prefers_fast_clients_and_those_never_asked():
    people = client_ids(4)
    known, seconds = ClientHistory(people, torch.ones(4, dtype=torch.int64), EVERY), (1.0, 2.0, 4.0)
    silent = [
        ClientReport(people[place], "dropped", metrics={"asked_s": 0.0, "ended_s": took})
        for place, took in enumerate(seconds)
    ]
    known.record_round(0, people, people[:3], silent)
    found = Counter()
    for number in range(DRAWS):
        cohort = hw.Oort(count=2).draw(people, 1, Key.root(5).derive(number), known)
        assert people[3] in cohort
        found.update(set(cohort) - {people[3]})
    speeds = [1 / took for took in seconds]
    expected = dict(zip(people[:3], successive(speeds, 1), strict=True))
    assert_frequencies({name: often / DRAWS for name, often in found.items()}, expected)


def test_who_counted_too_often_is_left_out_while_others_are_enough():
    known = told([9.0] * 3 + [1.0] * 6)
    again = [ClientReport(name, "counted", metrics={"train_loss": 9.0}) for name in PEOPLE[:3]]
    known.record_round(1, PEOPLE, PEOPLE[:3], again)
    assert set(hw.Oort(count=3, **GREEDY).draw(PEOPLE, 2, Key.root(0), known)) == set(PEOPLE[:3])
    for seed in range(10):
        cohort = hw.Oort(count=6, exclude_after=2, **GREEDY).draw(PEOPLE, 2, Key.root(seed), known)
        assert cohort == PEOPLE[3:]
        larger = hw.Oort(count=8, exclude_after=2, **GREEDY).draw(PEOPLE, 2, Key.root(seed), known)
        assert set(PEOPLE[3:]) < set(larger)
        assert len(larger) == 8


def test_the_median_is_the_lower_one():
    """As in the reference above."""
    seconds = [4.0, 1.0, 3.0, 2.0]
    assert hw.Oort(count=1).pace(told([1.0] * 4, seconds=seconds)) == statistics.median_low(seconds)
