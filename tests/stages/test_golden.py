"""Whole runs agree with the slow references, and with closed forms where there are any."""

from dataclasses import replace
from math import copysign

import pytest
import torch
from conformance import reference
from conformance.tiny import Loop, Quadratic, engine, quadratics

from headway.stages import (
    ECGR,
    FedDyn,
    FedNova,
    FedProx,
    Mean,
    QFedAvg,
    Scaffold,
    ServerAdagrad,
    ServerAdam,
    ServerSGD,
    ServerYogi,
)

ROUNDS = 8
FULL = ((0, 1, 2, 3, 4),) * ROUNDS
PARTIAL = ((0, 3), (1, 2), (4, 0), (2, 3), (0, 1), (3, 4), (1, 4), (2, 0))
PROBLEMS = quadratics(clients=5, size=3, seed=11)
PLAIN = [(p.A.tolist(), p.b.tolist(), p.examples) for p in PROBLEMS]
LOOPS = {0.0: Loop(steps=7, lr=0.1), 0.9: Loop(steps=7, lr=0.02, momentum=0.9)}
REAGGREGATED = [None, (0.5, 0.2), (0.3, 0.0)]
CASES = [
    pytest.mark.parametrize("ecgr", REAGGREGATED),
    pytest.mark.parametrize("cohorts", [FULL, PARTIAL], ids=["full", "partial"]),
    pytest.mark.parametrize("momentum", LOOPS),
]


def cases(test):
    for mark in CASES:
        test = mark(test)
    return test


def agrees(method, stages, server, ecgr, cohorts, momentum, problems=PROBLEMS, counts=None, **options) -> None:
    """Runs the chain and the reference, and compares the models."""
    loop = LOOPS[momentum]
    combine = [ECGR(*ecgr)] if ecgr else []
    before, after = stages
    tiny = engine(*before, *combine, *after, problems=problems, loop=loop, rounds=cohorts)
    if ecgr:
        options["reaggregate"] = reference.ecgr(*ecgr)
    start = tiny.start().params.tolist()
    steps = counts or loop.steps
    expected = method(PLAIN, start, cohorts, steps, loop.lr, momentum=momentum, server=server, **options)
    found = tiny.run(ROUNDS).params
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-13)
    assert float((found - torch.tensor(start)).norm()) > 0.1


@cases
def test_fedavg(ecgr, cohorts, momentum) -> None:
    agrees(reference.fedavg, ([], [Mean()]), reference.plus, ecgr, cohorts, momentum)


@cases
def test_fedprox(ecgr, cohorts, momentum) -> None:
    agrees(reference.fedavg, ([FedProx(0.7)], [Mean()]), reference.plus, ecgr, cohorts, momentum, mu=0.7)


@cases
@pytest.mark.parametrize(("option", "correct"), [("I", "gradient"), ("II", "gradient"), ("II", "step")])
def test_scaffold(ecgr, cohorts, momentum, option, correct) -> None:
    chain = ([Scaffold(option, correct)], [Mean("clients")])
    agrees(reference.scaffold, chain, reference.plus, ecgr, cohorts, momentum, option=option, correct=correct)


@cases
@pytest.mark.parametrize("corrected", [False, True])
def test_fedadam(ecgr, cohorts, momentum, corrected) -> None:
    numbers = (0.3, 0.8, 0.95, 1e-2)
    chain = ([], [Mean(), ServerAdam(*numbers, bias_correction=corrected)])
    agrees(reference.fedavg, chain, reference.server_adam(*numbers, corrected), ecgr, cohorts, momentum)


@cases
def test_fedavgm(ecgr, cohorts, momentum) -> None:
    chain = ([], [Mean(), ServerSGD(lr=0.7, momentum=0.6)])
    agrees(reference.fedavg, chain, reference.server_momentum(0.7, 0.6), ecgr, cohorts, momentum)


@cases
def test_scaffold_under_fedavgm(ecgr, cohorts, momentum) -> None:
    chain = ([Scaffold()], [Mean("clients"), ServerSGD(lr=0.7, momentum=0.6)])
    server = reference.server_momentum(0.7, 0.6)
    agrees(reference.scaffold, chain, server, ecgr, cohorts, momentum, option="II")


@cases
@pytest.mark.parametrize("name", ["adagrad", "yogi"])
def test_fedadagrad_and_fedyogi(ecgr, cohorts, momentum, name) -> None:
    stages = {"adagrad": ServerAdagrad(0.3, 0.4, 1e-2), "yogi": ServerYogi(0.3, 0.4, 0.9, 1e-2)}
    moments = {
        "adagrad": lambda v, d: v + d * d,
        "yogi": lambda v, d: v - 0.1 * d * d * (copysign(1.0, v - d * d) if v != d * d else 0.0),
    }
    server = reference.server_second_moment(0.3, 0.4, 1e-2, moments[name])
    agrees(reference.fedavg, ([], [Mean(), stages[name]]), server, ecgr, cohorts, momentum)


COUNTS = (7, 2, 12, 1, 5)
UNEVEN = [replace(problem, steps=count) for problem, count in zip(PROBLEMS, COUNTS, strict=True)]


@cases
def test_fednova_with_uneven_work(ecgr, cohorts, momentum) -> None:
    chain = ([], [FedNova(), Mean()])
    agrees(reference.fednova, chain, reference.plus, ecgr, cohorts, momentum, UNEVEN, COUNTS)


@cases
def test_fednova_with_a_proximal_term(ecgr, cohorts, momentum) -> None:
    chain = ([FedProx(0.7)], [FedNova(), Mean()])
    agrees(reference.fednova, chain, reference.plus, ecgr, cohorts, momentum, UNEVEN, COUNTS, mu=0.7)


@cases
def test_feddyn(ecgr, cohorts, momentum) -> None:
    agrees(reference.feddyn, ([FedDyn(0.5)], [Mean("clients")]), reference.plus, ecgr, cohorts, momentum, alpha=0.5)


@cases
@pytest.mark.parametrize("q", [0.0, 0.5, 2.0])
def test_qfedavg(ecgr, cohorts, momentum, q) -> None:
    agrees(reference.qfedavg, ([], [QFedAvg(q), Mean("clients")]), reference.plus, ecgr, cohorts, momentum, q=q)


def line(a: float, b: float, examples: int = 1) -> Quadratic:
    """f(w) = a/2 (w - b)^2."""
    return Quadratic(torch.tensor([[a]]).double(), torch.tensor([b]).double(), examples)


TWO = [line(0.5, -1.0, examples=3), line(4.0, 2.0, examples=1)]


def ends_at(*stages, rounds: int, loop: Loop, problems=TWO) -> float:
    return float(engine(*stages, problems=problems, loop=loop).run(rounds).params)


def test_fedavg_ends_at_its_fixed_point() -> None:
    loop = Loop(steps=10, lr=0.1)
    shares, pulls = (0.75, 0.25), [1 - (1 - 0.1 * p.A.item()) ** 10 for p in TWO]
    weights = [share * pull for share, pull in zip(shares, pulls, strict=True)]
    fixed = sum(w * p.b.item() for w, p in zip(weights, TWO, strict=True)) / sum(weights)
    assert ends_at(Mean(), rounds=200, loop=loop) == pytest.approx(fixed, rel=1e-12)


@pytest.mark.parametrize("option", ["I", "II"])
@pytest.mark.parametrize(
    "loop", [Loop(steps=10, lr=0.05), Loop(steps=10, lr=0.01, momentum=0.9)], ids=["plain", "momentum"]
)
def test_scaffold_reaches_the_optimum_where_fedavg_stalls(option, loop) -> None:
    optimum = (0.5 * -1.0 + 4.0 * 2.0) / 4.5
    assert ends_at(Scaffold(option), Mean("clients"), rounds=400, loop=loop) == pytest.approx(optimum, abs=1e-9)
    assert abs(ends_at(Mean("clients"), rounds=400, loop=loop) - optimum) > 0.1


@pytest.mark.parametrize(("mu", "steps", "rounds"), [(0.1, 400, 15), (1.0, 200, 60), (10.0, 40, 250)])
def test_fedprox_ends_where_the_proximal_points_balance(mu, steps, rounds) -> None:
    pulls = [share * p.A.item() / (p.A.item() + mu) for share, p in zip((0.75, 0.25), TWO, strict=True)]
    balance = sum(pull * p.b.item() for pull, p in zip(pulls, TWO, strict=True)) / sum(pulls)
    found = ends_at(FedProx(mu), Mean(), rounds=rounds, loop=Loop(steps=steps, lr=0.1))
    assert found == pytest.approx(balance, rel=1e-9)


def test_feddyn_reaches_the_optimum_where_fedavg_stalls() -> None:
    optimum = (0.5 * -1.0 + 4.0 * 2.0) / 4.5
    found = ends_at(FedDyn(1.0), Mean("clients"), rounds=300, loop=Loop(steps=40, lr=0.05))
    assert found == pytest.approx(optimum, abs=1e-8)


def test_fednova_removes_the_bias_of_uneven_work() -> None:
    """A client moves by (1 - (1 - lr A)^tau) (b - x): closed form of where each method ends."""
    uneven, loop = [replace(TWO[0], steps=1), replace(TWO[1], steps=5)], Loop(lr=0.02)
    moves = [s * (1 - (1 - loop.lr * p.A.item()) ** p.steps) for s, p in zip((0.75, 0.25), uneven, strict=True)]

    def balance(weights) -> float:
        return sum(w * p.b.item() for w, p in zip(weights, TWO, strict=True)) / sum(weights)

    normalised = [move / problem.steps for move, problem in zip(moves, uneven, strict=True)]
    found = ends_at(FedNova(), Mean(), problems=uneven, rounds=600, loop=loop)
    biased = ends_at(Mean(), problems=uneven, rounds=600, loop=loop)
    assert found == pytest.approx(balance(normalised), rel=1e-9)
    assert biased == pytest.approx(balance(moves), rel=1e-9)
    optimum = balance([0.75 * 0.5, 0.25 * 4.0])
    assert abs(found - optimum) < abs(biased - optimum) / 5


def test_fednova_with_even_work_is_fedavg() -> None:
    loop = LOOPS[0.9]
    one = engine(FedNova(), Mean(), problems=PROBLEMS, loop=loop).run(5).params
    torch.testing.assert_close(one, engine(Mean(), problems=PROBLEMS, loop=loop).run(5).params, rtol=1e-12, atol=0)
