"""Attackers in a simulation: what the server receives, what the guard refuses, and what a rule withstands."""

from dataclasses import dataclass

import pytest
import torch

import headway as hw
from headway.attacks import (
    ALIE,
    Attack,
    AttackedEngine,
    AttackPlan,
    Backdoor,
    FallOfEmpires,
    HeavyWeight,
    InnerProduct,
    LabelFlip,
    LineSearch,
    NotFinite,
    SignFlip,
)
from headway.core.errors import ConfigError
from headway.data import Examples, FederatedData
from headway.numerics.keys import Key

CLIENTS = 7


def data(seed=0):
    draw = Key.root(seed)
    truth = draw.derive("w").uniform(12).reshape(4, 3) - 0.5
    parts = {}
    for index in range(CLIENTS):
        x = 4 * draw.derive("x", index).uniform(4 * (20 + index)).reshape(-1, 4) - 2
        parts[f"c{index}"] = (x.float(), (x @ truth).argmax(1))
    return FederatedData.from_clients(parts, name="planes")


def train(engine, *links, rounds=3, **options):
    task = hw.Task(model=lambda: torch.nn.Linear(4, 3))
    algorithm = hw.Algorithm(hw.chain(*links), hw.LocalSGD(lr=0.1, batch_size=8), hw.All())
    run = hw.Run(algorithm, data(), task, rounds=rounds, engine=engine, **options)
    reports = list(run)
    run.close()
    return run.state, reports


def beginning():
    algorithm = hw.Algorithm(hw.chain(hw.Mean("clients")), hw.LocalSGD(lr=0.1, batch_size=8), hw.All())
    return hw.Run(algorithm, data(), hw.Task(model=lambda: torch.nn.Linear(4, 3)), rounds=1).state.params


@pytest.mark.parametrize("links", [(hw.Mean("clients"),), (hw.Median(1),), (hw.Mean(), hw.ServerAdam())], ids=repr)
@pytest.mark.parametrize("lanes", [1, 4])
def test_before_the_attack_begins_all_is_as_without_one(links, lanes):
    plan = AttackPlan(SignFlip(), count=2, from_round=9)
    attacked = train(AttackedEngine(hw.LocalEngine(lanes=lanes), plan), *links)[0].params
    torch.testing.assert_close(attacked, train(hw.LocalEngine(lanes=lanes), *links)[0].params, rtol=0, atol=1e-7)


def test_the_attack_begins_with_its_round():
    plan = AttackPlan(SignFlip(5.0), count=2, from_round=3)
    two = train(AttackedEngine(hw.LocalEngine(), plan), hw.Mean("clients"), rounds=2)[0].params
    plain = train(hw.LocalEngine(), hw.Mean("clients"), rounds=2)[0].params
    torch.testing.assert_close(two, plain, rtol=0, atol=1e-7)
    three = train(AttackedEngine(hw.LocalEngine(), plan), hw.Mean("clients"), rounds=3)[0].params
    assert not torch.allclose(three, train(hw.LocalEngine(), hw.Mean("clients"), rounds=3)[0].params, atol=1e-3)


@dataclass(frozen=True)
class Copied(Attack):
    """The attackers' own examples, as if they were others."""

    def poison(self, examples, classes, key):
        return Examples(examples.inputs.clone(), examples.targets.clone())


@pytest.mark.parametrize("attack", [LabelFlip(), Backdoor(boost=1.0)], ids=repr)
@pytest.mark.parametrize("workers", [False, True], ids=["here", "workers"])
def test_examples_are_poisoned_from_the_round_on_in_which_the_attack_begins(attack, workers):
    def attacked(attack, rounds):
        inner = hw.ProcessEngine(workers=2, lanes=1) if workers else hw.LocalEngine()
        engine = AttackedEngine(inner, AttackPlan(attack, count=2, from_round=3))
        return train(engine, hw.ClientMomentum(0.9), hw.Mean("clients"), rounds=rounds)[0].params

    plain = train(hw.LocalEngine(), hw.ClientMomentum(0.9), hw.Mean("clients"), rounds=4)[0].params
    two = train(hw.LocalEngine(), hw.ClientMomentum(0.9), hw.Mean("clients"), rounds=2)[0].params
    torch.testing.assert_close(attacked(attack, 2), two, rtol=0, atol=1e-7)
    assert not torch.allclose(attacked(attack, 4), plain, atol=1e-4)
    torch.testing.assert_close(attacked(Copied(), 4), plain, rtol=0, atol=1e-7)  # clients keep their memory


def test_honest_replicas_of_an_attacker_keep_their_examples_and_name_it():
    replicas = hw.data.load("digits", partition={"kind": "iid", "replicas": 3}, clients=6)
    algorithm = hw.Algorithm(hw.chain(hw.MajorityVote()), hw.LocalSGD(lr=0.1, batch_size=64), hw.All())
    task = hw.Task(model=lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)))
    engine = AttackedEngine(hw.LocalEngine(), AttackPlan(LabelFlip(), attackers=("client-1.3",)))
    run = hw.Run(algorithm, replicas, task, rounds=1, engine=engine, evaluate_every=None)
    (report,) = list(run)
    run.close()
    assert {each.client for each in report.clients if each.status == "rejected"} == {"client-1.3"}
    assert {each.status for each in report.clients if each.client != "client-1.3"} == {"counted"}


def test_the_mean_of_reversed_updates_is_that_by_hand():
    """One round: the mean of 5 honest updates and 2 reversed ones."""
    single = [train(hw.LocalEngine(), hw.Mean("clients"), rounds=1)[0].params]
    plan = AttackPlan(InnerProduct(3.0), count=2, knows="everyone")
    moved = train(AttackedEngine(hw.LocalEngine(), plan), hw.Mean("clients"), rounds=1)[0].params
    honest_only = AttackPlan(FallOfEmpires(1.0), count=2, knows="everyone")  # (1 - 1) mean: zeros
    zeros = train(AttackedEngine(hw.LocalEngine(), honest_only), hw.Mean("clients"), rounds=1)[0].params
    start = beginning()
    honest = (zeros - start) * 7 / 5  # the honest mean
    torch.testing.assert_close(moved - start, (5 * honest - 2 * 3 * honest) / 7, rtol=1e-4, atol=1e-6)
    assert not torch.equal(single[0], moved)


@pytest.mark.parametrize("workers", [False, True], ids=["here", "workers"])
def test_an_attack_repeats_to_the_bit_in_any_engine(workers):
    def engine():
        inner = hw.ProcessEngine(workers=2, lanes=1) if workers else hw.LocalEngine()
        return AttackedEngine(inner, AttackPlan(LineSearch(ALIE()), count=2, knows="everyone"))

    first, again = train(engine(), hw.Median(2))[0], train(engine(), hw.Median(2))[0]
    assert torch.equal(first.params, again.params)


@pytest.mark.parametrize("knows", ["everyone", "attackers"])
@pytest.mark.parametrize("rule", [hw.FLTrust("c0"), hw.LossValidation("c0")], ids=repr)
def test_attackers_can_search_against_a_rule_that_knows_clients_by_name(rule, knows):
    plan = AttackPlan(LineSearch(InnerProduct()), count=2, knows=knows)
    searched = train(AttackedEngine(hw.LocalEngine(), plan), rule)[0]
    assert not torch.equal(searched.params, train(hw.LocalEngine(), rule)[0].params)


def test_the_client_with_the_server_s_own_data_is_no_attacker():
    engine = AttackedEngine(hw.LocalEngine(), AttackPlan(SignFlip(), count=2))
    train(engine, hw.FLTrust("c6"))
    assert engine.attackers == ("c4", "c5")


def test_attackers_that_know_all_updates_rehearse_the_rule_itself():
    """Its aggregate in the rehearsal of the first round is that of the round, with the root's update in its place."""
    rehearsed, rule = [], hw.FLTrust("c0")

    @dataclass(frozen=True)
    class Rehearsed(Attack):
        def craft(self, view):
            rehearsed.append(view.rule(view.everyone(view.own)))
            return view.own

    plan = AttackPlan(Rehearsed(), count=2, knows="everyone")
    moved = train(AttackedEngine(hw.LocalEngine(), plan), rule, rounds=1)[0].params
    torch.testing.assert_close(rehearsed[0].float(), moved - beginning(), rtol=0, atol=1e-6)


def test_numbers_that_are_not_finite_are_refused_by_name():
    state, reports = train(AttackedEngine(hw.LocalEngine(), AttackPlan(NotFinite(), count=1)), hw.Mean())
    refused = [report for report in reports[0].clients if report.status == "rejected"]
    assert [report.client for report in refused] == ["c6"]
    assert "finite" in refused[0].reason
    assert bool(torch.isfinite(state.params).all())
    assert len(reports[0].clients) == CLIENTS


def test_a_weight_above_the_examples_is_refused():
    _, reports = train(AttackedEngine(hw.LocalEngine(), AttackPlan(HeavyWeight(), count=1)), hw.Mean())
    refused = [report for report in reports[0].clients if report.status == "rejected"]
    assert "above its 26 examples" in refused[0].reason


def test_a_longer_update_than_the_clip_promised_is_refused():
    plan = AttackPlan(SignFlip(100.0), count=1)
    _, reports = train(AttackedEngine(hw.LocalEngine(), plan), hw.Clip(0.01), hw.Mean("clients"))
    refused = [report for report in reports[0].clients if report.status == "rejected"]
    assert "its vectors have the norm" in refused[0].reason
    assert [report.client for report in refused] == ["c6"]


def test_attackers_train_on_their_poisoned_examples_and_others_on_their_own():
    flipped = train(AttackedEngine(hw.LocalEngine(), AttackPlan(LabelFlip(), count=3)), hw.Mean("clients"))[0]
    assert not torch.allclose(flipped.params, train(hw.LocalEngine(), hw.Mean("clients"))[0].params, atol=1e-3)
    engine = AttackedEngine(hw.LocalEngine(), AttackPlan(Backdoor(), attackers=("c1",)))
    train(engine, hw.Mean("clients"))
    before, after = data(), engine.inner.execution.setup.job.data
    assert torch.equal(before.train_of("c0").targets, after.train_of("c0").targets)
    assert not torch.equal(before.train_of("c1").inputs, after.train_of("c1").inputs)


def test_a_chain_that_hides_or_encodes_updates_is_refused():
    for links in (
        (hw.Clip(1.0), hw.Quantize(16), hw.Mean("clients")),
        (hw.Clip(1.0), hw.Quantize(16), hw.SecureSum(mode="ideal"), hw.Mean("clients")),
        (hw.AFL(),),
    ):
        with pytest.raises(ConfigError, match=r"leave it out|use another rule"):
            train(AttackedEngine(hw.LocalEngine(), AttackPlan(SignFlip(), count=1)), *links)


def test_the_engine_says_who_attacks():
    engine = AttackedEngine(hw.LocalEngine(), AttackPlan(SignFlip(), count=2, from_round=2))
    train(engine, hw.Mean())
    assert engine.summary == "2 attackers (c5, c6) know their own updates: SignFlip(scale=1.0) from round 2"
    assert engine.recorded_name.endswith("2 attackers: SignFlip(scale=1.0)")
