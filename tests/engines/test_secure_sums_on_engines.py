"""A secure sum with all its exchanges: the same bits on every engine, and by a clock a client may be lost in each."""

import os
import signal

import pytest
import torch
from conformance.teststages import FixedPoint, PairwiseMasks
from toys import blobs, linear_task, weights_and_reports

import headway as hw
from headway.core.errors import ExchangeRefused
from headway.engines.executors.sequential import SequentialExecutor
from headway.engines.wire_engine import WireEngine
from headway.stages.secure_aggregation.masking_client import MaskingClient

DATA, TASK = blobs((7, 12, 5, 9, 8, 6)), linear_task(dtype="float64")
TRAINER = hw.LocalSGD(lr=0.1, batch_size=4)
ENGINES = {
    "lanes": lambda: hw.LocalEngine(lanes=4),
    "processes": lambda: hw.ProcessEngine(2, lanes=2),
    "wire": WireEngine,
    "clock": lambda: hw.ClockEngine(hw.LocalEngine(), hw.DeviceFleet(examples_per_s=10.0, latency_s=0.5)),
    "processes by a clock": lambda: hw.ClockEngine(hw.ProcessEngine(2), hw.DeviceFleet()),
}
CHAINS = {
    "secure sum": lambda: (hw.Clip(1.0), hw.Quantize(16), hw.SecureSum(min_cohort=3, min_survivors=3)),
    "pairwise masks": lambda: (FixedPoint(), PairwiseMasks()),
}


def algorithm(chain="secure sum", **quorum):
    return hw.Algorithm(hw.chain(*CHAINS[chain](), hw.Mean("clients")), TRAINER, hw.All(), hw.Quorum(**quorum))


def run(made, engine=None, rounds=3):
    """The weights and the reports of a run."""
    run = hw.Run(made, DATA, TASK, rounds=rounds, engine=engine or hw.LocalEngine(), evaluate_every=None)
    return weights_and_reports(run)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("chain", CHAINS)
def test_every_engine_has_the_bits_of_one_client_at_a_time(chain, engine):
    weights, reports = run(algorithm(chain))
    others, other = run(algorithm(chain), ENGINES[engine]())
    assert torch.equal(others, weights)
    counts = [[(row.client, row.status) for row in report.clients] for report in reports]
    assert [[(row.client, row.status) for row in report.clients] for report in other] == counts


@pytest.mark.parametrize(
    ("engine", "summary"),
    [
        (lambda: hw.LocalEngine(lanes=4), "4 clients side by side"),
        (lambda: hw.ProcessEngine(2, lanes=1), "2 worker processes, each: clients one at a time"),
    ],
    ids=["lanes", "processes"],
)
@pytest.mark.parametrize("chain", CHAINS)
def test_clients_train_side_by_side_and_in_workers_and_mask_there(chain, engine, summary, monkeypatch):
    """No client trains by itself in the main process; each one's secret is used up, and gone after the round."""
    monkeypatch.setattr("headway.engines.executors.sequential.SequentialExecutor.train", _in_a_worker(os.getpid()))
    run = hw.Run(algorithm(chain), DATA, TASK, rounds=2, engine=engine(), evaluate_every=None)
    for report in run:
        assert not report.notes
        assert len(report.clients.with_status("counted")) == len(DATA.clients)
    assert run.engine.summary == summary
    assert not run.engine.local.secrets
    run.close()


def _in_a_worker(main):
    """The training of clients one after another, which fails in the main process."""
    train = SequentialExecutor.train

    def checked(*args):
        assert os.getpid() != main
        train(*args)

    return checked


def test_a_worker_that_dies_is_replaced_and_its_clients_mask_again(monkeypatch):
    weights, _ = run(algorithm())
    engine = hw.ProcessEngine(2, lanes=1)
    secured = hw.Run(algorithm(), DATA, TASK, rounds=3, engine=engine, evaluate_every=None)
    notes = []
    for report in secured:
        notes += report.notes
        os.kill(engine.pool.processes[0].pid, signal.SIGKILL)
    assert any("ended by signal SIGKILL" in note for note in notes)
    assert torch.equal(secured.state.params, weights)
    secured.close()


def test_a_client_whose_mask_fails_in_a_batch_is_named_and_the_others_are_summed(monkeypatch):
    """A neighbour's key with which none agrees: the client alone is refused, in lanes as one at a time."""

    def refusing(self, received):
        if self.ctx.client == "client-2":
            raise ExchangeRefused("the key of a neighbour agrees with none.")
        return mask_keys(self, received)

    mask_keys = MaskingClient.mask_keys
    monkeypatch.setattr(MaskingClient, "mask_keys", refusing)
    weights, reports = run(algorithm(), rounds=1)
    others, (report,) = run(algorithm(), hw.LocalEngine(lanes=4), rounds=1)
    assert torch.equal(others, weights)
    assert [(row.client, row.reason) for row in report.clients if row.status != "counted"] == [
        (row.client, row.reason) for row in reports[0].clients if row.status != "counted"
    ]
    assert report.clients.with_status("rejected").clients == ("client-2",)


PHASES = ("advertise", "share", "confirm", "unmask")


def test_each_exchange_takes_the_time_of_its_bytes_and_the_latency():
    slow = hw.DeviceFleet(examples_per_s=10.0, latency_s=2.0, up_per_s=1000.0)
    _, (report, *_) = run(algorithm(), hw.ClockEngine(hw.LocalEngine(), slow), rounds=1)
    times = {phase: report.clock[f"{phase}_s"] for phase in PHASES}
    assert all(seconds > 2.0 for seconds in times.values()), times
    assert times["share"] > times["confirm"]  # five sealed shares against a signature
    fast = hw.DeviceFleet(examples_per_s=10.0, latency_s=2.0)
    _, (other, *_) = run(algorithm(), hw.ClockEngine(hw.LocalEngine(), fast), rounds=1)
    assert all(other.clock[f"{phase}_s"] < seconds for phase, seconds in times.items())


def test_clients_are_lost_in_each_exchange_and_the_sums_are_those_of_the_rest():
    """Many rounds in which an eighth of all work crashes: each has the sum of those that it counts, or none."""
    fleet = hw.DeviceFleet(examples_per_s=10.0, latency_s=0.1, crash=0.1)
    made, lost = algorithm(), set()
    clocked = hw.Run(made, DATA, TASK, rounds=25, engine=hw.ClockEngine(hw.LocalEngine(), fleet), evaluate_every=None)
    before, counts = clocked.state.params, []
    for report in clocked:
        lost |= {phase for phase in (*PHASES, "it crashed") for row in report.clients if phase in row.reason}
        lost |= {phase for phase in PHASES for note in report.notes if f"exchange {phase!r}" in note}
        counted = report.clients.with_status("counted").clients
        counts.append(len(counted))
        after = clocked.state.params
        if not counted:
            assert torch.equal(before, after)
            assert any("no secure sum" in note for note in report.notes)
        before = after
    clocked.close()
    assert lost >= set(PHASES)
    assert 0 in counts
    assert any(0 < count < 6 for count in counts)


def test_a_phase_ends_at_its_own_deadline():
    devices = hw.DeviceFleet(examples_per_s=100.0, latency_s=1.0, link_spread=2.0)
    made = algorithm(deadline_s=3.0)
    _, reports = run(made, hw.ClockEngine(hw.LocalEngine(), devices), rounds=3)
    for report in reports:
        times = [report.clock[f"{phase}_s"] for phase in PHASES if f"{phase}_s" in report.clock]
        assert times
        assert all(seconds <= 3.0 for seconds in times)
