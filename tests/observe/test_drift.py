"""Drift figures equal their definitions; sketches come close."""

import math

import pytest
import torch
from toys import blobs, linear_task

import headway as hw
from headway.numerics.keys import Key
from headway.observe.drift import DriftMeter
from headway.observe.journal import Journal

KEY = Key.root(4)


def measure(deltas, weights=None, budget=2**26):
    meter = DriftMeter(len(deltas), len(deltas[0]), KEY, budget)
    for index, delta in enumerate(deltas):
        meter.add(f"c{index:03d}", torch.as_tensor(delta), 1.0 if weights is None else weights[index])
    return meter.drift()


def test_clients_that_agree_make_only_headway():
    drift = measure([[3.0, 4.0], [3.0, 4.0]])
    for client in drift.clients.values():
        assert (client.norm, client.headway) == pytest.approx((5.0, 5.0))
        assert client.leeway == pytest.approx(0.0, abs=1e-6)
        assert client.cosine == pytest.approx(1.0)
    assert (drift.diversity, drift.dissimilarity, drift.alignment) == pytest.approx((0.5, 1.0, 1.0))
    assert not drift.estimated


def test_a_right_angle():
    """d = (1, 0), (0, 1): the course is the diagonal, and each lies at 45 degrees to it."""
    drift = measure([[1.0, 0.0], [0.0, 1.0]])
    half = math.sqrt(0.5)
    for client in drift.clients.values():
        assert (client.headway, client.leeway, client.cosine) == pytest.approx((half, half, half))
    assert (drift.diversity, drift.dissimilarity, drift.alignment) == pytest.approx((1.0, math.sqrt(2), 0.0))


def test_definitions_with_weights_by_hand():
    generator = torch.Generator().manual_seed(0)
    deltas = torch.randn(6, 500, generator=generator) + torch.randn(500, generator=generator)
    weights = [1.0, 5.0, 2.0, 0.5, 3.0, 1.0]
    drift = measure(list(deltas), weights)
    wide = deltas.double()
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    common = shares @ wide
    course = common / common.norm()
    for index, client in enumerate(drift.clients.values()):
        along = float(wide[index] @ course)
        across = float((wide[index] - along * course).norm())
        assert (client.headway, client.leeway) == pytest.approx((along, across), rel=1e-9)
        assert client.cosine == pytest.approx(along / float(wide[index].norm()), rel=1e-9)
    squares = (wide**2).sum(1)
    assert drift.diversity == pytest.approx(float((shares**2 * squares).sum() / common.norm() ** 2), rel=1e-9)
    assert drift.dissimilarity == pytest.approx(float((shares * squares).sum().sqrt() / common.norm()), rel=1e-9)
    pairs = [torch.cosine_similarity(wide[i], wide[j], dim=0) for i in range(6) for j in range(6) if i != j]
    assert drift.alignment == pytest.approx(float(sum(pairs)) / len(pairs), rel=1e-9)


def test_beyond_the_budget_figures_are_estimated_within_a_tenth():
    generator = torch.Generator().manual_seed(1)
    deltas = torch.randn(10, 50_000, generator=generator) + 0.7 * torch.randn(50_000, generator=generator)
    exact, estimated = measure(list(deltas)), measure(list(deltas), budget=1000)
    assert (exact.estimated, estimated.estimated) == (False, True)
    for client in exact.clients:
        for name in ("norm", "headway", "leeway", "cosine"):
            one, other = getattr(exact.clients[client], name), getattr(estimated.clients[client], name)
            assert other == pytest.approx(one, rel=0.1), name
    for name, figure in exact.numbers().items():
        assert estimated.numbers()[name] == pytest.approx(figure, rel=0.1), name


@pytest.mark.parametrize("deltas", [[[0.0, 0.0]], [[1.0, 2.0], [-1.0, -2.0]]])
def test_without_a_common_direction_there_is_nothing_to_say(deltas):
    assert measure(deltas) is None


def test_a_client_that_stood_still_has_no_direction():
    drift = measure([[1.0, 0.0], [0.0, 0.0]])
    assert drift.clients["c001"] == drift.clients["c001"].__class__(0.0, 0.0, 0.0, 0.0, 0.0)
    assert drift.clients["c000"].cosine == pytest.approx(1.0)


class TestInARun:
    trainer = hw.LocalSGD(lr=0.1, batch_size=4)

    def test_reports_and_journal_hold_it(self, tmp_path):
        run = hw.Run(hw.recipes.fedavg(trainer=self.trainer), blobs(), linear_task(), rounds=2, folder=tmp_path / "r")
        reports = list(run)
        run.close()
        names = {"headway", "leeway", "diversity", "dissimilarity", "alignment"}
        assert reports[0].drift.keys() == names | {"path_efficiency", "step_variance", "relative_step_variance"}
        for client in reports[0].clients:
            assert client.metrics["headway"] ** 2 + client.metrics["leeway"] ** 2 == pytest.approx(
                client.norm**2, rel=1e-5
            )
        journal = Journal(tmp_path / "r" / "journal.sqlite")
        assert journal.series("drift", "leeway") == [(r.round, r.drift["leeway"]) for r in reports]
        assert len(journal.series("client:client-0", "leeway")) == 2
        journal.close()

    def test_measuring_changes_no_bit(self):
        finals = []
        for drift in (True, False):
            engine = hw.LocalEngine(drift=drift)
            run = hw.Run(hw.recipes.scaffold(trainer=self.trainer), blobs(), linear_task(), rounds=3, engine=engine)
            reports = list(run)
            assert bool(reports[-1].drift) == drift
            finals.append(run.state.params)
        assert torch.equal(*finals)

    def test_clients_that_are_alike_drift_less(self):
        data = blobs(sizes=(8, 8, 8))
        same = data.train_of("client-0")
        alike = hw.FederatedData.from_clients(dict.fromkeys(data.clients, (same.inputs, same.targets)))
        trainer = hw.LocalSGD(lr=0.1, batch_size=None)
        drifts = [
            next(iter(hw.rounds(hw.recipes.fedavg(trainer=trainer), each, linear_task(), rounds=1))).drift
            for each in (data, alike)
        ]
        assert drifts[1]["leeway"] < 1e-3 * drifts[0]["leeway"]
