"""AFL against a slow reference; its projection against bisection; what it refuses."""

from dataclasses import replace

import pytest
import torch
from conformance import reference
from conformance.cases import case, one_client
from conformance.reference import local_steps, plus, summed
from conformance.teststages import FixedPoint, PairwiseMasks
from conformance.tiny import Loop, engine, quadratics
from hypothesis import given
from hypothesis import strategies as st
from toys import blobs, linear, linear_task

import headway as hw
import headway.observe.run_folder
from headway.core.algorithm import State
from headway.core.flow import EngineFacts, Flow, SamplerFacts, TrainerFacts
from headway.core.update import Rows
from headway.stages.aggregators.agnostic import simplex_threshold

ROUNDS = 7
PROBLEMS = quadratics(clients=5, size=3, seed=11)
PLAIN = [(p.A.tolist(), p.b.tolist(), p.examples) for p in PROBLEMS]


def project(v):
    """The nearest point of the simplex, by bisection on the threshold."""
    low, high = min(v) - 1.0, max(v)
    for _ in range(200):
        middle = (low + high) / 2
        if sum(max(x - middle, 0.0) for x in v) > 1:
            low = middle
        else:
            high = middle
    return [max(x - high, 0.0) for x in v]


def loss(problem, x):
    A, b, _ = problem
    gap = plus(x, b, -1.0)
    return sum(gap[r] * A[r][c] * gap[c] for r in range(len(x)) for c in range(len(x))) / 2


def by_hand(rounds, loop, lr, reaggregate=summed, problems=PLAIN):
    """arXiv 1902.00146, Algorithm 1, with full losses; several local steps stand for the gradient."""
    x, share = [1.0, 1.5, 2.0], [1 / len(problems)] * len(problems)
    for _ in range(rounds):
        losses = [loss(problem, x) for problem in problems]
        deltas = [reaggregate(local_steps(p, x, loop.steps, loop.lr, loop.momentum)) for p in problems]
        for weight, delta in zip(share, deltas, strict=True):
            x = plus(x, delta, weight)
        share = project([s + lr * f for s, f in zip(share, losses, strict=True)])
    return x, share


@pytest.mark.parametrize("lr", [0.0, 0.01, 0.3, 50.0])
@pytest.mark.parametrize("loop", [Loop(steps=1, lr=0.1), Loop(steps=7, lr=0.02, momentum=0.9)], ids=["one", "seven"])
@pytest.mark.parametrize("ecgr", [None, (0.5, 0.2)])
def test_agrees_with_the_slow_reference(lr, loop, ecgr) -> None:
    combine = [hw.ECGR(*ecgr)] if ecgr else []
    tiny = engine(*combine, hw.AFL(lr), problems=PROBLEMS, loop=loop)
    expected, shares = by_hand(ROUNDS, loop, lr, reference.ecgr(*ecgr) if ecgr else summed)
    state = tiny.run(ROUNDS)
    torch.testing.assert_close(state.params, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-13)
    threshold = float(state.stages["AFL"]["threshold"])
    found = [max(float(tiny.memory[client]["AFL"]["ascended"]) - threshold, 0.0) for client in tiny.clients]
    assert found == pytest.approx(shares, abs=1e-9)


def test_without_ascent_it_is_the_mean_over_clients() -> None:
    loop = Loop(steps=7, lr=0.02, momentum=0.9)
    plain = engine(hw.Mean("clients"), problems=PROBLEMS, loop=loop).run(ROUNDS).params
    torch.testing.assert_close(engine(hw.AFL(0.0), problems=PROBLEMS, loop=loop).run(ROUNDS).params, plain)


def test_the_worst_client_is_served_better_than_by_fedavg() -> None:
    loop = Loop(steps=1, lr=0.05)

    def worst(*stages):
        x = engine(*stages, problems=PROBLEMS, loop=loop).run(300).params
        return max(float(problem.loss(x)) for problem in PROBLEMS)

    assert worst(hw.AFL(0.02)) < 0.8 * worst(hw.Mean("clients"))


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12))
def test_the_projection_is_the_nearest_point_of_the_simplex(values) -> None:
    v = torch.tensor(values, dtype=torch.float64)
    found = (v - simplex_threshold(v)).clamp_min(0.0)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-12)
    assert found.tolist() == pytest.approx(project(values), abs=1e-9)


@pytest.mark.parametrize(
    ("values", "projected"),
    [
        ([0.3], [1.0]),
        ([5.0, 5.0], [0.5, 0.5]),
        ([1e8, 0.0, 0.0], [1.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0, 0.0], [0.25] * 4),
        ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        ([-1e8, -1e8], [0.5, 0.5]),
    ],
)
def test_known_projections(values, projected) -> None:
    v = torch.tensor(values, dtype=torch.float64)
    assert (v - simplex_threshold(v)).clamp_min(0.0).tolist() == pytest.approx(projected, abs=1e-7)


def test_a_projection_does_not_see_what_all_have_in_common() -> None:
    v = torch.tensor([0.1, 0.7, 0.4], dtype=torch.float64)
    shifted = (v + 3 - simplex_threshold(v + 3)).clamp_min(0.0)
    torch.testing.assert_close(shifted, (v - simplex_threshold(v)).clamp_min(0.0))


def test_a_lost_client_keeps_its_number_and_the_next_projection_is_of_all() -> None:
    tiny = engine(hw.AFL(0.05), problems=PROBLEMS, loop=Loop(steps=1, lr=0.1))
    state = tiny.round(tiny.start())
    before = tiny.memory["c002"]["AFL"]["ascended"]
    tiny.lost = frozenset({"c002"})
    state = tiny.round(state)
    assert torch.equal(tiny.memory["c002"]["AFL"]["ascended"], before)
    tiny.lost = frozenset()
    state = tiny.round(state)
    threshold = float(state.stages["AFL"]["threshold"])
    shares = [max(float(tiny.memory[c]["AFL"]["ascended"]) - threshold, 0.0) for c in tiny.clients]
    assert sum(shares) == pytest.approx(1.0)
    assert bool(torch.isfinite(state.params).all())


def test_a_share_is_never_above_one() -> None:
    stage = hw.AFL()
    given = one_client(case(stage), 1)
    ctx = replace(given.ctx, received={"threshold": torch.tensor([-1.0]).double()})
    sent, _ = stage.send(given.update, {"ascended": torch.tensor([7.0]).double()}, ctx)
    assert float(sent.weight) == 1.0


def test_where_nobody_that_answered_has_a_share_the_mean_is_plain() -> None:
    none, ascended = torch.zeros(2).double(), {"ascended": torch.tensor([0.5, 0.7]).double()}
    rows = Rows(("a", "b"), {"delta": torch.tensor([[1.0, 3.0], [3.0, 5.0]])}, none, ascended)
    update, state = hw.AFL().reduce(rows, {}, case(hw.AFL()).server)
    assert update.delta.tolist() == [2.0, 4.0]
    assert state["threshold"].tolist() == [pytest.approx(0.1)]


def facts(**changed):
    def build():
        known = {"sampler": SamplerFacts("all", 5.0, 5), "set_by": {"sampler": "Uniform", "engine": "stateless"}}
        hw.chain(hw.AFL()).trace(Flow(**{**known, **changed}))

    return build


REFUSED = {
    "some clients": (facts(sampler=SamplerFacts("uniform", 2.0, 5)), "Uniform"),
    "a sum": (lambda: hw.chain(FixedPoint(), PairwiseMasks(), hw.AFL()), "PairwiseMasks"),
    "other weights": (lambda: hw.chain(hw.Weigh("uniform"), hw.AFL()), "Weigh"),
    "equal clients": (lambda: hw.chain(hw.QFedAvg(), hw.AFL()), "QFedAvg"),
    "asynchronous": (facts(asynchronous=True, set_by={"asynchronous": "Quorum"}), "Quorum"),
    "no memory": (facts(engine=EngineFacts("stateless", memory=False)), "stateless"),
    "no loss": (facts(trainer=TrainerFacts("Own")), "Own"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_and_the_cause_named(name) -> None:
    build, cause = REFUSED[name]
    with pytest.raises(hw.ChainRefused) as refusal:
        build()
    said = refusal.value
    assert all(part.strip() for part in (said.needed, said.found, said.do_this))
    assert said.caused_by == cause


def test_a_run_of_some_clients_is_refused_before_any_training() -> None:
    algorithm = hw.recipes.afl(sampler=hw.Uniform(share=0.5))
    with pytest.raises(hw.ChainRefused, match=r"every client in every round.*cohort of 2 of 3"):
        hw.Run(algorithm, blobs(), linear_task(), rounds=1)
    hw.Run(hw.recipes.afl(sampler=hw.Uniform(share=1.0)), blobs(), linear_task(), rounds=1)


def test_a_negative_step_size_is_refused() -> None:
    with pytest.raises(hw.ConfigError, match=r"AFL\.lr must be at least 0"):
        hw.AFL(-0.1)


def test_is_explained_and_its_mixture_is_reported() -> None:
    algorithm = hw.recipes.recipe("afl+ecgr", lr=0.5)
    said = str(algorithm.explain())
    assert "AFL(lr=0.5)" in said
    assert "client and server" in said
    assert "loss of the global model" in said
    reports = list(hw.rounds(algorithm, blobs(), linear_task(), rounds=4))
    shares = [c.metrics["weight"] for c in reports[-1].clients]
    assert sum(shares) == pytest.approx(1.0)
    assert max(shares) > 0.4


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_ends_with_the_same_bits(stop, tmp_path) -> None:
    def run(folder, **options):
        algorithm = hw.recipes.afl(lr=0.3, trainer=hw.LocalSGD(lr=0.1, batch_size=4))
        return hw.Run(algorithm, blobs(), linear_task(), rounds=5, folder=folder, **options)

    whole = run(tmp_path / "whole")
    list(whole)
    cut = run(tmp_path / "cut")
    for report in cut:
        if report.round == stop:
            break
    cut.close()
    resumed = run(tmp_path / "cut", resume=True)
    list(resumed)
    assert all(torch.equal(resumed.state.tensors()[name], kept) for name, kept in whole.state.tensors().items())
    for client in whole.memory.clients():
        ascended = [run.memory.get(client)["AFL"]["ascended"] for run in (whole, resumed)]
        assert torch.equal(*ascended)


class TestAverageModel:
    def test_is_the_mean_of_the_models_of_all_rounds(self) -> None:
        loop = Loop(steps=3, lr=0.1)
        tiny = engine(hw.AFL(0.3), hw.ServerSGD(lr=0.8, momentum=0.5), hw.AverageModel(), problems=PROBLEMS, loop=loop)
        state, models = tiny.start(), []
        assert torch.equal(state.model, state.params)
        for _ in range(5):
            state = tiny.round(state)
            models.append(state.params)
        torch.testing.assert_close(state.model, torch.stack(models).mean(0), rtol=1e-13, atol=1e-14)
        plain = engine(hw.AFL(0.3), hw.ServerSGD(lr=0.8, momentum=0.5), problems=PROBLEMS, loop=loop).run(5)
        assert torch.equal(state.params, plain.params)
        assert torch.equal(plain.model, plain.params)

    def test_is_what_a_run_evaluates_keeps_and_gives(self, tmp_path) -> None:
        task = hw.Task(model=linear, metrics=())  # the loss decides which model is best
        made = hw.Run(hw.recipes.afl(), blobs(), task, rounds=3, folder=tmp_path / "run")
        reports = list(made)
        made.close()
        averaged, last = made.state.model, made.state.params
        assert not torch.equal(averaged, last)
        given = made.model()
        assert torch.equal(torch.cat([p.detach().reshape(-1) for p in given.parameters()]), averaged)
        test = blobs().test_of("client-1")
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(given(test.inputs), test.targets)
        assert reports[-1].evaluation["client-1"]["loss"] == pytest.approx(float(loss), rel=1e-6)
        best, notes = hw.observe.run_folder.read_tensors(tmp_path / "run" / hw.observe.run_folder.BEST)
        assert notes["round"] == 3
        assert torch.equal(best["params"], averaged)
        assert torch.equal(State.from_tensors(3, made.state.tensors()).model, averaged)

    def test_comes_last(self) -> None:
        with pytest.raises(hw.ChainRefused, match="put ServerSGD before AverageModel"):
            hw.chain(hw.Mean(), hw.AverageModel(), hw.ServerSGD())
