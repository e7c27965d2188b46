"""Clients that drop out at random, in any phase of a secure sum: every round finishes, and its sum is exact.

And no key masks two updates, whatever is killed: each step of an attempt has one reply, and each attempt fresh keys.
"""

import hashlib
import os
import threading
from dataclasses import dataclass

import pytest
import torch
from agent_threads import AgentThread
from network import Network
from toys import blobs, linear_task

import headway as hw
from headway.core import fault_points
from headway.core.flow import SamplerFacts
from headway.core.sampler import Sampler
from headway.federation import http_api as api
from headway.federation.agent.answering import Answering
from headway.federation.serving.assignments import Assignments
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool
from headway.privacy.options import PrivacyOptions
from headway.protocol.messages import Declined, Train

SIZES = tuple(range(4, 12))
DATA, TASK = blobs(SIZES), linear_task(dtype="float64")
TRAINER = hw.LocalSGD(lr=0.1, batch_size=4)
SHARE = 0.3
PHASES = ("advertise", "share", "train", "confirm", "unmask")
ROUNDS = int(os.environ.get("HEADWAY_DROPOUTS", "200"))


def algorithm(mode="real", sampler=None, private=False):
    secure = hw.SecureSum(threshold=0.61, min_cohort=3, min_survivors=3, mode=mode)
    ends = (hw.Mean("expected"), hw.GaussianNoise(0.5)) if private else (hw.Mean("clients"),)
    return hw.Algorithm(hw.chain(hw.Clip(1.0), hw.Quantize(16), secure, *ends), TRAINER, sampler or hw.All())


def phase_of(client, round_):
    """The phase in which a client drops out of a round, if it does."""
    number = int(hashlib.sha256(f"{client} {round_}".encode()).hexdigest()[:8], 16)
    return PHASES[number % len(PHASES)] if number / 2**32 < SHARE else None


@dataclass(frozen=True)
class Recorded(Sampler):
    """The clients that were in the sum of each round, in a simulation."""

    cohorts: tuple[str, ...]

    def draw(self, clients, round, key, history=None, busy=0):
        return tuple(filter(None, self.cohorts[round].split(",")))

    def facts(self, population):
        return SamplerFacts("recorded", float(len(SIZES)), len(SIZES))


def dropping(monkeypatch):
    """Clients decline a step of each round in which they drop out."""
    true = Answering._reply

    def reply(self, request):
        name = "train" if isinstance(request, Train) else request.name
        if phase_of(self.participant.client, request.round) == name:
            return Declined("dropped", "it has dropped out")
        return true(self, request)

    monkeypatch.setattr(Answering, "_reply", reply)


def check_dropouts(tmp_path, monkeypatch, rounds, private):
    dropping(monkeypatch)
    made, options = algorithm(private=private), {"population": len(SIZES), "expected": frozenset(DATA.clients)}
    network = Network.of(made, TASK, Spool(tmp_path / "spool"), EventLog(tmp_path), rounds, **options)
    agents = [AgentThread(network.url, DATA, client, tmp_path, TASK) for client in DATA.clients]
    own = {"privacy": PrivacyOptions(randomness="derived"), "evaluate_every": None, "rounds": rounds}
    run = hw.Run(made, DATA, TASK, engine=network.engine, folder=tmp_path / "run", **own)
    reports = list(run)
    network.assignments.set_state("finished")
    assert {agent.join() for agent in agents} == {"finished"}
    run.close()
    network.close()
    assert len(reports) == rounds
    cohorts = []
    for report in reports:
        counted = report.clients.with_status("counted").clients
        masked = [c for c in DATA.clients if phase_of(c, report.round - 1) not in PHASES[:3]]
        assert sorted(counted) in ([], masked)
        assert counted or any("no secure sum" in note for note in report.notes)
        cohorts.append(",".join(sorted(counted)))
    assert any(cohorts)
    if not private:  # with noise, a round without a sum spends what another has no key for
        simulated = hw.Run(algorithm("ideal", Recorded(tuple(cohorts))), DATA, TASK, **own)
        list(simulated)
        assert torch.equal(run.state.params, simulated.state.params)
    return cohorts


@pytest.mark.parametrize("private", [False, True], ids=["secure", "private"])
def test_rounds_with_dropouts(tmp_path, monkeypatch, private):
    check_dropouts(tmp_path, monkeypatch, 4, private)


@pytest.mark.soak
@pytest.mark.parametrize("private", [False, True], ids=["secure", "private"])
def test_many_rounds_with_dropouts(tmp_path, monkeypatch, private):
    cohorts = check_dropouts(tmp_path, monkeypatch, ROUNDS, private)
    print(f"{ROUNDS} rounds, 30 % of the clients lost in any phase: {sum(map(bool, cohorts))} sums, all exact")


class Crash(BaseException):
    """An end at once."""


PLACES = (
    "agent: a request is fetched",
    "agent: a reply is computed",
    "agent: between a reply's file and its entry",
    "agent: a reply is on disk",
    "agent: a reply is sent",
    "agent: a receipt is on disk",
)


def test_no_key_masks_two_updates_whatever_is_killed(tmp_path, monkeypatch):
    """An agent that ends at places in all phases, with keys of the operating system: every second computation of a
    reply would have other bytes."""
    sent: dict[tuple, set[str]] = {}
    true = Assignments.arrived

    def arrived(self, reply):
        own = reply.assignment
        sent.setdefault((reply.client, own.round, own.attempt, own.ask), set()).add(reply.digest)
        return true(self, reply)

    monkeypatch.setattr(Assignments, "arrived", arrived)
    monkeypatch.setattr(api, "HEARTBEAT_S", 0.1)
    data, rounds, made = blobs((7, 12, 5)), len(PLACES), algorithm()
    options = {"population": 3, "expected": frozenset(data.clients), "randomness": "system", "lease_s": 60.0}
    network = Network.of(made, TASK, Spool(tmp_path / "spool"), EventLog(tmp_path), rounds, **options)
    passed = dict.fromkeys(PLACES, 0)
    planned = {place: 2 + 5 * number for number, place in enumerate(PLACES)}  # one in each round, at another phase

    def crash(at):
        if at in passed and threading.current_thread().name == "client-1":
            passed[at] += 1
            if passed[at] == planned[at]:
                raise Crash

    fault_points.install(crash)
    try:
        agents = {client: AgentThread(network.url, data, client, tmp_path, TASK) for client in data.clients}
        run = hw.Run(made, data, TASK, rounds=rounds, engine=network.engine, evaluate_every=None)
        reports: list = []
        thread = threading.Thread(target=lambda: reports.extend(run), daemon=True)
        thread.start()
        killed = 0
        while thread.is_alive():
            thread.join(0.05)
            if isinstance(agents["client-1"].error, Crash):
                killed += 1
                agents["client-1"] = AgentThread(network.url, data, "client-1", tmp_path, TASK)
        network.assignments.set_state("finished")
        for agent in agents.values():
            agent.join()
    finally:
        fault_points.install(None)
        run.close()
        network.close()
    assert killed >= 4
    assert [report.count("counted") for report in reports] == [3] * rounds
    assert {len(digests) for digests in sent.values()} == {1}
    keys = set()
    log = EventLog(tmp_path)
    for _, event in log.after(0):
        if event.kind == "replied" and event.number == 0:
            raw = Spool(tmp_path / "spool").path(event.digest).read_bytes()
            assert raw not in keys
            keys.add(raw)
    log.close()
    assert len(keys) == 3 * rounds
