"""The clients' standings: the score against its formula, and how quarantine begins and ends."""

import json
import statistics

import pytest
import torch

from headway.protocol.reports import Reports
from headway.protocol.reputation import Reputation
from headway.protocol.standings import Standing, Standings, StandingsRecord, compared

NAMES = [f"c{index}" for index in range(7)]


def rows(seed=0, count=7, size=12):
    generator = torch.Generator().manual_seed(seed)
    return torch.ones(count, size) + 0.5 * torch.randn(count, size, generator=generator)


def lower_median(values):
    return sorted(values)[(len(values) - 1) // 2]


def weights(values):
    middle = lower_median(values)
    spread = max(1.4826 * lower_median([abs(value - middle) for value in values]), 0.1 * middle)
    return [1.0 if value <= middle else min(1.0, 3 * spread / (value - middle)) for value in values]


def by_formula(deltas, before):
    """The scores and the next direction, a client at a time."""
    deltas = [delta.double() for delta in deltas]
    count, lengths = len(deltas), [float(delta.norm()) for delta in deltas]
    short = [d * min(1.0, lower_median(lengths) / n) if n else d for d, n in zip(deltas, lengths, strict=True)]
    cosines = [float(d @ before) / (n * float(before.norm()) or 1e-300) for d, n in zip(deltas, lengths, strict=True)]
    middle = lower_median(cosines)
    error = 1.4826 * lower_median([abs(cosine - middle) for cosine in cosines]) / count**0.5
    direction = [min(max(c / middle, 0.0), 1.0) if middle > error else 1.0 for c in cosines]
    others = [sum(s for j, s in enumerate(short) if j != i) / (count - 1) for i in range(count)]
    apart = weights([float((d - other).norm()) for d, other in zip(deltas, others, strict=True)])
    fits = [a * b * c for a, b, c in zip(weights(lengths), direction, apart, strict=True)]
    return fits, 0.97 * before + 0.03 * sum(short) / count


@pytest.mark.parametrize("change", [1.0, -1.0, 40.0, -3.0, 0.0])
def test_scores_follow_the_formula(change):
    deltas, before = rows(), torch.ones(12).double()
    deltas[3] *= change
    fits, after = compared(deltas, before)
    wanted, direction = by_formula(deltas, before)
    assert fits.tolist() == pytest.approx(wanted, abs=1e-9)
    assert torch.allclose(after, direction, rtol=1e-9, atol=1e-12)
    assert ((fits >= 0) & (fits <= 1)).all()
    if change <= 0 or change > 5:
        assert float(fits[3]) < 0.2
        assert float(fits.min()) == float(fits[3])


def test_scores_do_not_depend_on_the_order_of_clients():
    deltas, before = rows(), torch.ones(12).double()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(compared(deltas, before)[0][order], compared(deltas[order], before)[0], atol=1e-12)


@pytest.mark.parametrize("number", [3e38, -3e38, float("inf"), float("nan"), 1e200])
def test_a_huge_update_hides_nobody_and_leaves_the_direction_bounded(number):
    deltas, before = rows().double(), torch.ones(12).double()
    deltas[1] = -deltas[1]
    alone = compared(deltas, before)[0]
    deltas[0] = number
    fits, after = compared(deltas, before)
    assert float(fits[0]) == pytest.approx(0, abs=1e-30)
    assert float(fits[1]) < 0.01
    assert float((fits[2:] - alone[2:]).abs().max()) < 0.5
    assert bool(torch.isfinite(after).all())
    assert float(after.norm()) <= float(before.norm()) + 0.03 * float(deltas[2:].norm(dim=1).max())


def test_a_cohort_without_a_common_direction_and_one_that_is_too_small_say_nothing():
    deltas = torch.cat([torch.eye(6), -torch.eye(6)])
    assert compared(deltas, torch.ones(6).double())[0].tolist() == [1.0] * 12
    few = Standings(Reputation()).after(0, Reports(["a", "b"]), {"a": torch.ones(3), "b": -torch.ones(3)})
    assert few.clients == {}
    assert few.centre is None


def after(standings, round_, refused=("c0",)):
    statuses = ["rejected" if name in refused else "counted" for name in NAMES]
    deltas = {name: delta for name, delta in zip(NAMES, rows(), strict=True) if name not in refused}
    return standings.after(round_, Reports(NAMES, statuses), deltas)


POLICY = Reputation(quarantine_below=0.5, patience=2, rounds=3, memory=0.5, most=0.3)


def test_a_client_comes_into_quarantine_and_on_probation_after_it():
    standings, remarks = Standings(POLICY), []
    for round_ in range(3):
        before, standings = standings, after(standings, round_)
        remarks += standings.remarks(before, round_)
    assert standings.clients["c0"] == Standing(0.125, 1, 6)  # below 0.5 after the second and the third round
    assert [round_ for round_ in range(9) if standings.excluded(round_) == ("c0",)] == [0, 1, 2, 3, 4, 5]
    assert standings.until(3) == {"c0": 6}
    assert len(remarks) == 1
    assert "c0 (0.12)" in remarks[0]
    assert standings.drawable(NAMES, 4, lambda left: True) == (NAMES[1:], ())
    assert standings.drawable(NAMES, 6, lambda left: True) == (NAMES, ())
    again = after(standings, 6)  # on probation: starts at the threshold, and one round is enough
    assert again.clients["c0"] == Standing(0.25, 1, 10)
    good = after(standings, 6, refused=())
    assert good.clients["c0"].score > 0.5
    assert good.clients["c0"].against == 0
    assert not good.excluded(7)


def test_no_more_than_a_share_is_in_quarantine_the_worst_first():
    standings = after(after(Standings(POLICY), 0, NAMES), 1, NAMES)
    standings = after(standings, 2, NAMES[:6])
    assert len(standings.excluded(3)) == 2  # 0.3 of 7
    assert set(standings.excluded(3)) < set(NAMES)


def test_a_round_that_cannot_be_filled_takes_the_best_out_of_quarantine():
    clients = {name: Standing(index / 10, 1, 9) for index, name in enumerate(NAMES[:3])}
    standings = Standings(POLICY, clients)
    assert standings.excluded(5) == ("c0", "c1", "c2")
    assert standings.drawable(NAMES, 5, lambda left: len(left) >= 6) == (NAMES[2:][:0] + NAMES[1:], ("c1", "c2"))
    assert standings.drawable(["c0", "c1"], 5, lambda left: bool(left)) == (["c1"], ("c1",))


def test_scores_alone_exclude_nobody():
    standings = Standings(Reputation(memory=0.0))
    for round_ in range(9):
        standings = after(standings, round_)
    assert standings.clients["c0"].score == 0
    assert not standings.excluded(9)
    assert statistics.fmean(standings.scores_of(NAMES[1:]).values()) > 0.9


def test_a_record_is_restored_to_the_bit():
    record, other = StandingsRecord(POLICY), StandingsRecord(POLICY)
    for round_ in range(4):
        record.now = after(record.now, round_)
    values, tensors = record.to_state()
    other.from_state(json.loads(json.dumps(values)), {**tensors, "params": torch.ones(1)})
    assert other.now.clients == record.now.clients
    assert torch.equal(other.now.centre, record.now.centre)
    assert after(other.now, 9).clients == after(record.now, 9).clients
