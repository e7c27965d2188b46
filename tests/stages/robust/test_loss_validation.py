"""Updates tried on root data: which pass, what is reported, where it is refused, and what it brings under attack."""

import math

import pytest
import torch
from conformance import robust_reference as slow

import headway as hw
from headway.attacks import AttackedEngine, AttackPlan, SignFlip
from headway.core.errors import ChainRefused, ConfigError
from headway.engines.wire_engine import WireEngine
from headway.numerics.keys import Key

ROOT = "client-0"


@pytest.mark.parametrize("seed", range(6))
def test_the_updates_that_pass_are_those_of_the_slow_reference(seed):
    draw = Key.root(seed)
    names = [f"c{index}" for index in range(9)]
    losses = dict(zip(names, (1 + draw.derive("loss").uniform(9)).tolist(), strict=True))
    squares = dict(zip(names, draw.derive("length").uniform(9).tolist(), strict=True))
    for drop, margin, rho in ((0, 0.0, 0.0), (2, 0.3, 0.0), (3, 1.0, 2.0), (9, 1.0, 0.0), (12, 1.0, 0.0)):
        rule = hw.LossValidation(drop=drop, margin=margin, rho=rho)
        wanted = slow.zeno(1.4, losses, squares, drop, margin, rho)
        assert set(rule.passing(1.4, losses, squares)) == wanted, rule


def test_losses_that_are_not_finite_never_pass_and_equal_ones_drop_the_last_by_name():
    losses = {"a": 1.0, "b": math.nan, "c": 1.0, "d": math.inf, "e": 1.0}
    squares = dict.fromkeys(losses, 0.0)
    assert hw.LossValidation(margin=None).passing(1.0, losses, squares) == ("a", "c", "e")
    assert hw.LossValidation(margin=None, drop=3).passing(1.0, losses, squares) == ("a", "c")
    assert hw.LossValidation().passing(0.5, losses, squares) == ()
    assert hw.LossValidation(margin=None, rho=1.0).passing(1.0, {"a": 0.1}, {"a": math.inf}) == ("a",)


def test_it_is_refused_beside_what_hides_updates_or_answers_late():
    clip = hw.Clip(1.0)
    for stages in (
        (clip, hw.Quantize(bits=16), hw.SecureSum(), hw.LossValidation()),
        (clip, hw.LossValidation(), hw.GaussianNoise(1.0)),
        (hw.Weigh("capped", 3), hw.LossValidation()),
    ):
        with pytest.raises(ChainRefused):
            hw.chain(*stages).trace(hw.Flow())
    with pytest.raises(ConfigError, match="LossValidation"):
        hw.LossValidation(then=hw.Mean())
    with pytest.raises(ChainRefused, match="answer at once"):
        run(hw.ClockEngine(hw.LocalEngine(), hw.DeviceFleet()), attackers=())


def run(engine, rule=None, attackers=("client-6", "client-7"), rounds=3):
    data = hw.data.load("digits", clients=8, partition={"kind": "iid"}, central_share=0.2, test_share=0.0)
    task = hw.Task(model=lambda: hw.models.logistic(data.input_shape, 10), dtype="float64")
    if attackers:
        engine = AttackedEngine(engine, AttackPlan(SignFlip(scale=5.0), tuple(attackers)))
    rule = rule or hw.LossValidation(root=ROOT)
    algorithm = hw.Algorithm(hw.chain(rule), hw.LocalSGD(lr=0.2, batch_size=32, steps=4), hw.All())
    made = hw.Run(algorithm, data, task, rounds=rounds, engine=engine, evaluate_every=rounds)
    try:
        return list(made), made.state.params
    finally:
        made.close()


def test_attackers_are_left_out_by_name_with_both_losses_and_the_model_learns():
    reports, _ = run(hw.LocalEngine(lanes=8))
    for report in reports:
        assert set(report.clients.with_status("rejected").clients) == {"client-6", "client-7"}
        assert report.clients.with_status("dropped").clients == (ROOT,)
        assert "loss on the root data" in report.clients.with_status("rejected").reasons[0]
        assert len(report.clients) == 8
    mean, _ = run(hw.LocalEngine(lanes=8), hw.NormBound(math.inf))
    assert reports[-1].central["accuracy"] > max(0.5, mean[-1].central["accuracy"] + 0.1)


def test_the_model_is_the_same_on_every_engine():
    rule = hw.LossValidation(root=ROOT, drop=2, margin=None, rho=0.01)
    wanted, params = run(hw.LocalEngine(), rule, (), 3)
    for engine in (hw.LocalEngine(lanes=4), hw.ProcessEngine(workers=2, lanes=1), WireEngine()):
        reports, found = run(engine, rule, (), 3)
        assert torch.allclose(found, params, atol=1e-10), engine
        assert [report.clients.statuses for report in reports] == [report.clients.statuses for report in wanted]


def test_a_round_in_which_nothing_passes_changes_nothing_and_says_so():
    (report, *_), params = run(hw.LocalEngine(), hw.LossValidation(root=ROOT, drop=7), (), 1)
    start = run(hw.LocalEngine(), hw.LossValidation(root=ROOT, drop=7), (), 2)[1]
    assert torch.equal(params, start)
    assert any("no update has passed" in note for note in report.notes)


def test_a_root_that_is_no_client_is_named():
    with pytest.raises(ConfigError, match=r"LossValidation\.root is 'server'"):
        run(hw.LocalEngine(), hw.LossValidation(root="server"), (), 1)
