"""The wire engine: requests and replies are bytes, participants are apart, and the bits are those of Local."""

from __future__ import annotations

import pytest
import torch
from conformance.teststages import FixedPoint, PairwiseMasks
from toys import blobs, linear_task

import headway as hw
from headway.client.remote_client import RemoteClient
from headway.core.errors import FrameError
from headway.engines.wire_engine import WireEngine

TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, momentum=0.5, last_batch="merge")
CHAINS = {
    "fedavg": (hw.Mean(),),
    "scaffold": (hw.Scaffold(), hw.Mean("clients")),
    "ecgr and adam": (hw.ECGR(select=0.5, beta=0.2), hw.Mean(), hw.ServerAdam(lr=0.01)),
    "fednova": (hw.FedNova(), hw.Mean()),
    "secure sum": (FixedPoint(), PairwiseMasks(), hw.Mean("clients")),
}


def final(engine, stages, rounds=3, task=None, **options):
    algorithm = hw.Algorithm(hw.chain(*stages), TRAINER, hw.Uniform(count=3))
    run = hw.Run(algorithm, blobs(sizes=(7, 12, 5, 9)), task or linear_task(), rounds=rounds, engine=engine, **options)
    reports = list(run)
    run.close()
    memory = {client: run.memory.get(client) for client in run.data.clients}
    return run.state.tensors(), reports, memory


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else (value == other[name]), name


@pytest.mark.parametrize("name", CHAINS)
def test_the_bits_of_local(name):
    stages = CHAINS[name]
    local, reports, memory = final(hw.LocalEngine(drift=False), stages)
    sent, others, kept = final(WireEngine(), stages)
    assert_same(local, sent)
    for client, own in memory.items():
        assert (own is None) == (kept[client] is None)
        for label, tensors in (own or {}).items():
            assert_same(tensors, kept[client][label])
    for one, other in zip(reports, others, strict=True):
        assert one.train_loss == other.train_loss
        assert (one.bytes_up, one.bytes_down) == (other.bytes_up, other.bytes_down)
        assert [(c.client, c.status, c.steps, c.norm) for c in one.clients] == [
            (c.client, c.status, c.steps, c.norm) for c in other.clients
        ]
        assert one.metrics == pytest.approx(other.metrics)


@pytest.mark.parametrize("kept", ["statistics", "personal parameters", "averaged statistics"])
def test_what_clients_keep_and_statistics_that_are_averaged(kept):
    def model():
        return torch.nn.Sequential(
            torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 3)
        )

    options = {
        "statistics": {"buffers": "local"},
        "personal parameters": {"buffers": "local", "shared": ("0.*", "1.*")},
        "averaged statistics": {"buffers": "average"},
    }[kept]
    task = hw.Task(model, metrics=("accuracy",), **options)
    local, _, memory = final(hw.LocalEngine(drift=False), CHAINS["fedavg"], task=task)
    sent, _, others = final(WireEngine(), CHAINS["fedavg"], task=task)
    assert_same(local, sent)
    for client, own in memory.items():
        for label, tensors in (own or {}).items():
            assert_same(tensors, others[client][label])


def test_a_run_is_resumed_with_the_clients_memory(tmp_path):
    whole, _, _ = final(WireEngine(), CHAINS["scaffold"], rounds=6)
    final(WireEngine(), CHAINS["scaffold"], folder=tmp_path / "run")
    again, _, _ = final(WireEngine(), CHAINS["scaffold"], rounds=6, folder=tmp_path / "run", resume=True)
    assert_same(whole, again)


def test_clients_that_decline_are_reported(monkeypatch):
    trainer = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2, stragglers=0.6, straggler_policy="drop")
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), trainer, hw.All())
    statuses = []
    for engine in (hw.LocalEngine(drift=False), WireEngine()):
        run = hw.Run(algorithm, blobs(sizes=(7, 12, 5, 9)), linear_task(), rounds=4, engine=engine)
        statuses.append([(c.client, c.status, c.reason) for report in run for c in report.clients])
        run.close()
    assert statuses[0] == statuses[1]
    assert {status for _, status, _ in statuses[0]} == {"counted", "dropped"}


def test_only_bytes_pass_and_a_damaged_reply_is_refused(monkeypatch):
    passed, serve = [], RemoteClient.serve

    def damaged(self, data):
        passed.append(data)
        reply = serve(self, data)
        passed.append(reply)
        return reply if len(passed) < 6 else reply[:-20] + bytes([reply[-20] ^ 1]) + reply[-19:]

    monkeypatch.setattr(RemoteClient, "serve", damaged)
    with pytest.raises(FrameError, match="damaged on its way"):
        final(WireEngine(), CHAINS["fedavg"])
    assert len(passed) == 6
    assert {type(data) for data in passed} == {bytes}
