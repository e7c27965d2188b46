"""Whole runs agree with the slow references, and with closed forms where there are any."""

import pytest
import torch
from conformance import reference
from conformance.tiny import Loop, Quadratic, engine, quadratics

from headway.stages import ECGR, FedProx, Mean, Scaffold, ServerAdam, ServerSGD

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


def agrees(method, stages, server, ecgr, cohorts, momentum, **options) -> None:
    """Runs the chain and the reference, and compares the models."""
    loop = LOOPS[momentum]
    combine = [ECGR(*ecgr)] if ecgr else []
    before, after = stages
    tiny = engine(*before, *combine, *after, problems=PROBLEMS, loop=loop, rounds=cohorts)
    if ecgr:
        options["reaggregate"] = reference.ecgr(*ecgr)
    start = tiny.start().params.tolist()
    expected = method(PLAIN, start, cohorts, loop.steps, loop.lr, momentum=momentum, server=server, **options)
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
@pytest.mark.parametrize("option", ["I", "II"])
def test_scaffold(ecgr, cohorts, momentum, option) -> None:
    chain = ([Scaffold(option)], [Mean("clients")])
    agrees(reference.scaffold, chain, reference.plus, ecgr, cohorts, momentum, option=option)


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
