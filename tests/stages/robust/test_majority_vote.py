"""Votes among replicas: equal to the slow reference, liars named, honest replicas alike on every engine."""

from dataclasses import replace

import pytest
import torch
from conformance import robust_reference as slow
from toys import weights_and_reports

import headway as hw
from headway.attacks import ScaledUpdate, SignFlip
from headway.attacks.attack_plan import AttackPlan
from headway.attacks.attacked_engine import AttackedEngine
from headway.core.errors import ChainRefused, ConfigError, DataError
from headway.core.update import Rows
from headway.engines.wire_engine import WireEngine
from headway.numerics.keys import Key
from headway.stages.robust.majority_vote import agreement

DATA = hw.data.load("digits", partition={"kind": "iid", "replicas": 3}, clients=12)
TASK = hw.Task(model=lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.Dropout(0.1)))
TRAINER = hw.LocalSGD(lr=0.1, batch_size=64)


def rows_of(vectors: dict[str, list[float]]) -> Rows:
    names = tuple(sorted(vectors))
    return Rows(names, {"delta": torch.tensor([vectors[name] for name in names])}, torch.ones(len(names)))


def run(engine=None, rule=None, data=DATA, rounds=2, sampler=None):
    algorithm = hw.Algorithm(hw.chain(rule or hw.MajorityVote()), TRAINER, sampler or hw.All())
    run = hw.Run(algorithm, data, TASK, rounds=rounds, seed=3, engine=engine or hw.LocalEngine(), evaluate_every=None)
    return weights_and_reports(run)


# the rule ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tolerance", [0.0, 0.05])
def test_it_is_its_slow_reference(seed, tolerance):
    draw, vectors = Key.root(seed), {}
    for group in range(5):
        honest = draw.derive("honest", group).uniform(4).float()
        for number in range(3):
            kind = int(draw.derive(group, number).integers(0, 3, 1))
            near = honest * (1 + 1e-3 * number * bool(tolerance))
            vectors[f"g{group}.{number}"] = (near if kind else -near).tolist()
    rule, rows = hw.MajorityVote(3, tolerance), rows_of(vectors)
    left_out, votes = rule.left_out(rows, None), slow.majority_vote(vectors, 3, tolerance)
    named = {name for name, why in left_out.items() if why.status == "rejected"}
    unknown = {name for name, why in left_out.items() if why.status == "dropped"}
    assert named == {liar for _, liars in votes.values() if liars is not None for liar in liars}
    assert unknown == {name for name in vectors if votes[name.split(".")[0]][1] is None}
    won = [vote for vote, _ in votes.values() if vote is not None]
    kept = rows_of({name: vector for name, vector in vectors.items() if name not in left_out})
    for given in (rows, kept):  # the vote is the same without those that it has left out
        found, _ = rule.reduce(given, {}, None)
        torch.testing.assert_close(found.delta.tolist(), slow.mean(won), rtol=1e-6, atol=1e-7)


def test_a_liar_is_named_and_a_group_without_a_majority_is_left_out():
    honest = {f"{group}.{n}": [1.0, 2.0] for group in "abc" for n in range(3)}
    rows = rows_of({**honest, "a.1": [9.0, 9.0], "b.0": [5.0, 5.0], "b.2": [-5.0, 5.0]})
    found = hw.MajorityVote(3, 0.0).left_out(rows, None)
    assert {name: why.status for name, why in found.items()} == {
        "a.1": "rejected",
        "b.0": "dropped",
        "b.1": "dropped",
        "b.2": "dropped",
    }
    assert "not that of the 2 of 3 replicas of 'a'" in found["a.1"].reason
    assert "1 of the 3 replicas of 'b' agree, and 2 must" in found["b.1"].reason


def test_more_replicas_than_declared_and_a_lone_one_have_no_vote():
    """A group that strangers have joined, and one of which a single replica has come."""
    rows = rows_of({**{f"a.{n}": [1.0] for n in range(4)}, "b.1": [1.0], **{f"c.{n}": [2.0] for n in range(2)}})
    found = hw.MajorityVote(3, 0.0).left_out(rows, None)
    assert set(found) == {"a.0", "a.1", "a.2", "a.3", "b.1"}
    assert "has 4 replicas, and 3 are declared" in found["a.0"].reason
    update, _ = hw.MajorityVote(3, 0.0).reduce(rows_of({"c.0": [2.0], "c.1": [2.0]}), {}, None)
    assert update.delta.tolist() == [2.0]


def test_fewer_groups_than_the_rule_behind_it_needs_leave_everybody_out():
    rows = rows_of({f"{group}.{n}": [float(n) if group == "a" else 1.0] for group in "abc" for n in range(3)})
    found = hw.MajorityVote(3, 0.0, then=hw.Median(1)).left_out(rows, None)
    assert set(found) == set(rows.names)
    assert "2 groups have a majority, and Median needs 3" in found["b.0"].reason


@pytest.mark.parametrize("size", [1e-20, 1.0, 3e38])
def test_agreement_is_relative_and_never_reaches_what_is_far(size):
    rows = size * torch.tensor([[1.0, 0.0], [1.0, 1e-6], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    assert agreement(rows, 1e-4).tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]


# runs ----------------------------------------------------------------------------------------------------------


def test_replicas_hold_the_same_data_and_groups_share_none():
    assert DATA.clients[:3] == ("client-0.1", "client-0.2", "client-0.3")
    for first in range(0, 12, 3):
        group = DATA.clients[first : first + 3]
        for part in (DATA.train, DATA.test):
            assert len({tuple(part[client].tolist()) for client in group}) == 1
    held = torch.cat([DATA.train[client] for client in DATA.clients[::3]])
    assert len(held) == len(held.unique())


ENGINES = {
    "one by one": lambda: hw.LocalEngine(lanes=1),
    "lanes": lambda: hw.LocalEngine(lanes=5),
    "wire": WireEngine,
}


@pytest.mark.parametrize("engine", ENGINES)
def test_honest_replicas_agree_and_the_aggregate_is_that_of_one_of_each(engine):
    exact = engine != "lanes"
    found, reports = run(ENGINES[engine](), hw.MajorityVote(3, 0.0 if exact else 1e-4))
    assert [report.count("counted") for report in reports] == [12, 12]
    train = {client: DATA.train[client] for client in DATA.clients}
    assert len(train) == 12
    mean, _ = run(ENGINES["one by one"](), hw.MajorityVote(3, 0.0))
    assert torch.equal(found, mean) if exact else torch.allclose(found, mean, atol=1e-5)


@pytest.mark.parametrize("attack", [SignFlip(), ScaledUpdate(10.0)])
def test_liars_change_nothing_and_are_named_in_the_report(attack):
    """One in each group, which a mean would follow: the weights are those without an attack."""
    liars = ("client-0.1", "client-1.3", "client-2.2", "client-3.1")
    engine = AttackedEngine(hw.LocalEngine(lanes=1), AttackPlan(attack, liars))
    found, reports = run(engine, hw.MajorityVote(3, 0.0))
    honest, _ = run(hw.LocalEngine(lanes=1), hw.MajorityVote(3, 0.0))
    assert torch.equal(found, honest)
    for report in reports:
        assert {row.client for row in report.clients if row.status == "rejected"} == set(liars)
        assert report.count("counted") == 8
        assert any("client-1.3" in note and "rejected" in note for note in report.notes)


def test_liars_that_are_most_of_a_group_need_a_rule_behind_the_vote():
    liars = ("client-0.1", "client-0.2")
    attack = AttackPlan(ScaledUpdate(50.0), liars)
    found, reports = run(
        AttackedEngine(hw.LocalEngine(lanes=1), attack), hw.MajorityVote(3, 0.0, hw.Median(1)), rounds=1
    )
    honest, _ = run(hw.LocalEngine(lanes=1), hw.MajorityVote(3, 0.0, hw.Median(1)), rounds=1)
    assert {row.client for row in reports[0].clients if row.status == "rejected"} == {"client-0.3"}
    assert float((found - honest).abs().max()) < 0.2


# refusals ------------------------------------------------------------------------------------------------------

REFUSED = {
    "a secure sum": ((hw.Clip(), hw.Quantize(), hw.SecureSum()), "only their sum"),
    "sums of buckets": ((hw.Clip(), hw.Quantize(), hw.SecureSum(buckets=5)), "5 buckets"),
    "rounding at the client": ((hw.Clip(), hw.Quantize()), "numbers that each client encodes"),
    "noise at the client": ((hw.Clip(), hw.LocalGaussian(1.0)), "gaussian noise"),
    "memory": ((hw.ClientMomentum(),), "ClientMomentum, which keeps"),
    "memory of SCAFFOLD": ((hw.Scaffold(),), "Scaffold, which keeps"),
    "weights": ((hw.Weigh("capped", 5),), "Weigh"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_let_honest_replicas_differ_is_refused(name):
    front, found = REFUSED[name]
    then = hw.GeometricMedian(1)
    with pytest.raises(ChainRefused) as refused:
        hw.Algorithm(hw.chain(*front, hw.MajorityVote(3, then=then)), TRAINER, hw.All())
    assert found in refused.value.found


def test_cohorts_without_all_replicas_and_updates_of_a_deadline_are_refused():
    with pytest.raises(ChainRefused, match="every client in every round"):
        hw.Algorithm(hw.chain(hw.MajorityVote()), TRAINER, hw.Uniform(6)).flows(population=12)
    with pytest.raises(ChainRefused, match="at its own pace"):
        hw.Algorithm(hw.chain(hw.MajorityVote()), TRAINER, hw.All(), hw.Quorum(deadline_s=5.0, work="partial"))


def test_clients_that_are_in_no_groups_are_refused_before_any_training():
    alone = hw.data.load("digits", partition={"kind": "iid"}, clients=6)
    with pytest.raises(ConfigError, match="'client-0' has 1: client-0"):
        run(data=alone)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"partition": {"kind": "iid", "replicas": 3}, "clients": 10}, DataError, "groups of 3"),
        ({"partition": {"kind": "iid", "replicas": 1}, "clients": 3}, DataError, "at least 2"),
        ({"partition": {"kind": "iid", "replicas": 2.5}, "clients": 5}, ConfigError, "whole number"),
        (
            {"partition": {"kind": "iid", "replicas": 2}, "clients": 4, "shift": {"kind": "rotation"}},
            ConfigError,
            "replicas hold the same",
        ),
    ],
)
def test_partitions_that_make_no_replicas_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        hw.data.load("digits", **options)


def test_an_example_that_others_than_replicas_hold_is_refused():
    held = {client: DATA.train[client] for client in DATA.clients}
    held["client-0.2"] = DATA.train["client-1.1"]
    with pytest.raises(DataError, match="held more than once"):
        replace(DATA, train=held)


def test_rules_that_are_none_are_refused():
    with pytest.raises(ConfigError, match="must be a rule for a whole cohort"):
        hw.MajorityVote(then=hw.Mean())
