"""A secure sum with all its exchanges: the same bits on every engine, and by a clock a client may be lost in each."""

import pytest
import torch
from conformance.teststages import FixedPoint, PairwiseMasks
from toys import blobs, linear_task

import headway as hw
from headway.engines.wire_engine import WireEngine

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
    try:
        reports = list(run)
        return run.state.params, reports
    finally:
        run.close()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("chain", CHAINS)
def test_every_engine_has_the_bits_of_one_client_at_a_time(chain, engine):
    weights, reports = run(algorithm(chain))
    others, other = run(algorithm(chain), ENGINES[engine]())
    assert torch.equal(others, weights)
    counts = [[(row.client, row.status) for row in report.clients] for report in reports]
    assert [[(row.client, row.status) for row in report.clients] for report in other] == counts


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
