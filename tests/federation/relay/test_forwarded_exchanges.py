"""Secure sums whose clients are behind relays: the weights of a simulation, and nothing that a relay could change."""

import contextlib
from dataclasses import replace

import pytest
import torch
from agent_threads import AgentThread
from crashing_log import CrashingLog, crash_or_end
from network import Network
from secured import Secured
from test_relay import RelayThread, leave
from test_secure_dropouts import PHASES, Recorded
from toys import blobs, linear_task

import headway as hw
from headway.federation.agent.answering import Answering
from headway.federation.identity.server_access import AccessOptions, ServerAccess
from headway.federation.relay.relay_answering import RelayAnswering
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.receipts import read_receipts, signer_of
from headway.federation.spool.spool import Spool
from headway.numerics.canonical import canonical
from headway.protocol.by_client import relayed_reply, replies_of_relay
from headway.protocol.messages import Declined, Exchange, Train

DATA, TASK = blobs((7, 12, 5, 9, 6)), linear_task(dtype="float64")
TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2)
ALL, NEAR, FAR = DATA.clients, DATA.clients[:2], DATA.clients[2:]


def algorithm(mode="real", sampler=None):
    """Four of the five clients must remain."""
    secure = hw.SecureSum(threshold=0.61, min_cohort=3, min_survivors=3, mode=mode)
    return hw.Algorithm(
        hw.chain(hw.Clip(1.0), hw.Quantize(16), secure, hw.Mean("clients")), TRAINER, sampler or hw.All()
    )


def simulated(*cohorts):
    """The weights after a round of each of these cohorts, in a simulation."""
    sampler = Recorded(tuple(",".join(cohort) for cohort in cohorts))
    run = hw.Run(algorithm("ideal", sampler), DATA, TASK, rounds=len(cohorts), evaluate_every=None)
    list(run)
    return run.state.params


class Tree:
    """A server, relays and agents; tree: of each relay ("" for none), its clients.  secured: with certificates."""

    def __init__(self, folder, tree, rounds=1, secured=False):
        self.folder, self.tree, self.rounds = folder, tree, rounds
        self.relay_names = [name for name in tree if name]
        self.secured = Secured(folder, ALL, self.relay_names) if secured else None

    def __enter__(self):
        self.stack, made = contextlib.ExitStack(), algorithm()
        options = {"expected": frozenset(ALL), "wait_limit_s": 60.0, "population": len(ALL)}
        options["relays"] = tuple(self.relay_names)
        if self.secured is not None:
            self.network = self.stack.enter_context(self.secured.network(made, TASK, self.rounds, **options))
        else:
            log = EventLog(self.folder)
            self.network = Network.of(made, TASK, Spool(self.folder / "spool"), log, self.rounds, **options)
            self.stack.callback(self.network.close)
        self.relays, self.agents = {}, {}
        for name in self.relay_names:
            own = {"clients": len(self.tree[name]), "access": self._access(name), "task": TASK}
            self.relays[name] = RelayThread(self.network.url, self.folder / f"{name}-state", name, **own)
        for name, clients in self.tree.items():
            url = self.relays[name].url if name else self.network.url
            for client in clients:
                own = {} if self.secured is None else {"identity": self.secured.identity(client)}
                self.agents[client] = AgentThread(url, DATA, client, self.folder / "states", TASK, **own)
        self.run = hw.Run(made, DATA, TASK, rounds=self.rounds, engine=self.network.engine, evaluate_every=None)
        return self

    def __exit__(self, *failure):
        self.network.assignments.set_state("finished")
        for relay in self.relays.values():
            relay.thread.join(60)
        for agent in self.agents.values():
            agent.agent.stop()
            agent.thread.join(60)
        self.run.close()
        self.stack.close()

    def _access(self, name):
        if self.secured is None:
            return None
        given = AccessOptions(identity=self.folder / name, authority=self.folder / "ca")
        access = ServerAccess.of("127.0.0.1", given, self.folder / f"{name}-state")
        self.stack.callback(access.close)
        return access


def test_the_weights_are_those_of_a_simulation(tmp_path):
    """With certificates: clients check those of the others, wherever they have joined."""
    with Tree(tmp_path, {"near": NEAR, "": FAR[:1], "far": FAR[1:]}, 2, secured=True) as served:
        reports = list(served.run)
    assert torch.equal(served.run.state.params, simulated(ALL, ALL))
    assert [report.count("counted") for report in reports] == [5, 5]
    assert not any(report.notes for report in reports)
    assert {relay.state for relay in served.relays.values()} == {"finished"}
    for client, relay in ((NEAR[0], "near"), (FAR[1], "far")):
        for receipt in read_receipts(tmp_path / "states" / client / "receipts"):
            signed = canonical(receipt.model_dump(exclude={"signature"}))
            assert signer_of(receipt.server, signed, receipt.signature, tmp_path / "ca" / "ca.pem") == relay


def test_a_client_behind_a_relay_may_be_lost_in_any_phase(tmp_path, monkeypatch):
    """In each round in another one: the sum is that of the clients whose masked vector came."""
    true, gone = Answering._reply, NEAR[0]

    def reply(self, request):
        name = "train" if isinstance(request, Train) else request.name
        if self.participant.client == gone and name == PHASES[request.round]:
            return Declined("dropped", "it has dropped out")
        return true(self, request)

    monkeypatch.setattr(Answering, "_reply", reply)
    with Tree(tmp_path, {"near": NEAR, "": FAR}, len(PHASES)) as served:
        reports = list(served.run)
    others = tuple(client for client in ALL if client != gone)
    cohorts = [ALL if phase in ("confirm", "unmask") else others for phase in PHASES]
    assert [tuple(report.clients.with_status("counted").clients) for report in reports] == cohorts
    assert torch.equal(served.run.state.params, simulated(*cohorts))
    for report, phase in zip(reports, PHASES, strict=True):
        rows = [row for row in report.clients if row.client == gone]
        assert [row.status for row in rows] == ["counted" if phase in ("confirm", "unmask") else "dropped"]
        assert any(gone in note for note in report.notes) == (phase != "train")


@pytest.mark.parametrize(
    ("phase", "behind"), [("share", NEAR[:1]), ("train", NEAR[:1]), ("confirm", NEAR[:1]), ("train", NEAR)], ids=str
)
def test_a_relay_that_is_lost_takes_its_clients_with_it(tmp_path, monkeypatch, phase, behind):
    """The sum is that of the others where enough remain, and there is none otherwise."""
    true = RelayAnswering._reply

    def reply(self, request, *more):
        if (request.name if isinstance(request, Exchange) else "train") == phase:
            served.network.members.leave("near")
            raise Lost
        return true(self, request, *more)

    monkeypatch.setattr(RelayAnswering, "_reply", reply)
    others = tuple(client for client in ALL if client not in behind)
    with Tree(tmp_path, {"near": behind, "": others}) as served:
        (report,) = list(served.run)
    cohort = () if behind == NEAR else ALL if phase == "confirm" else others
    assert tuple(report.clients.with_status("counted").clients) == cohort
    assert torch.equal(served.run.state.params, simulated(cohort) if cohort else initial())
    assert any("no secure sum" in note for note in report.notes) == (not cohort)


def initial():
    return hw.Run(algorithm("ideal"), DATA, TASK, rounds=1).state.params


class Lost(Exception):
    """The end of a relay."""


# a relay that changes what passes through it ------------------------------------------------------------------


def changed(tensor):
    other = tensor.clone()
    other.view(-1)[0] += 1
    return other


def other_keys(replies):
    """Keys of the relay's own in the place of a client's."""
    return {**replies, NEAR[0]: {**replies[NEAR[0]], "keys": changed(replies[NEAR[0]]["keys"])}}


def swapped(replies):
    """The shares of one client in the name of another."""
    one, other = NEAR
    return {one: replies[other], other: replies[one]}


def other_tensors(name):
    """A request whose list of clients is another."""

    def change(request):
        own = request.message.stages["SecureSum"]
        other = {"SecureSum": {**own, name: changed(own[name])}}
        return replace(request, message=replace(request.message, stages={**request.message.stages, **other}))

    return change


def other_model(request):
    return replace(request, message=replace(request.message, params=changed(request.message.params)))


def another_number_of_clients(total):
    total.total.integers["numbers"][0] += 1
    return total


def one_twice(answering):
    """The vector of one client in the place of another's, too."""
    summing, first = answering.engine.training.sum, []
    stored = summing._stored
    summing._stored = lambda ticket: stored((first.append(ticket), first[0])[1])


CHANGES = [  # of a request, of clients' replies, or of a sum, in a phase; and why the round ends without a sum
    ("advertise", other_tensors("names"), "the cohort in the request is not a list"),
    ("share", other_tensors("present"), "has not answered the exchange 'share'"),
    ("train", other_model, "has not signed the same sum"),
    ("confirm", other_tensors("survivors"), "has not answered the exchange 'confirm'"),
    ("advertise", other_keys, "are not signed by it for this run"),
    ("share", swapped, "were sealed for another client"),
    ("train", another_number_of_clients, "the masks do not cancel"),
    ("train", one_twice, "the masks do not cancel"),
]


def test_a_relay_that_changes_a_message_ends_the_round_without_a_sum(tmp_path, monkeypatch):
    """In each round another change."""
    true = RelayAnswering._reply

    def reply(self, request, assignment, own):
        phase, change, _ = CHANGES[request.round]
        if (request.name if isinstance(request, Exchange) else "train") != phase:
            return true(self, request, assignment, own)
        if change in (other_keys, swapped):
            replies, missing = replies_of_relay(true(self, request, assignment, own), assignment.clients)
            return relayed_reply(change(replies), missing, assignment.clients)
        if change is another_number_of_clients:
            return change(true(self, request, assignment, own))
        if change is one_twice:
            change(self)
            return true(self, request, assignment, own)
        return true(self, change(request), assignment, own)

    monkeypatch.setattr(RelayAnswering, "_reply", reply)
    with Tree(tmp_path, {"near": NEAR, "": FAR}, len(CHANGES)) as served:
        reports = list(served.run)
    for report, (_, _, reason) in zip(reports, CHANGES, strict=True):
        assert report.count("counted") == 0
        assert any(reason in note for note in report.notes), report.notes
    assert torch.equal(served.run.state.params, initial())


@pytest.mark.parametrize(
    "crash",
    [
        pytest.param(14, id="trained"),
        pytest.param(4, id="keys", marks=pytest.mark.soak),
        pytest.param(17, id="signed", marks=pytest.mark.soak),
    ],
)
def test_a_server_that_ends_in_a_round_goes_on_with_the_replies_of_a_relay(tmp_path, crash):
    """Before the training is over a new attempt begins; after it, the attempt is gone on with."""
    made, rounds, data = algorithm(), 1, blobs((7, 12, 5))
    near, far = data.clients[:2], data.clients[2:]
    for attempt in range(2):
        log = CrashingLog(tmp_path)
        log.crash_at = 0 if attempt else crash
        options = {"expected": frozenset(data.clients), "wait_limit_s": 60.0, "population": 3, "relays": ("near",)}
        network = Network.of(made, TASK, Spool(tmp_path / "spool"), log, rounds, **options)
        relay = RelayThread(network.url, tmp_path / "near", "near", len(near), task=TASK)
        agents = [AgentThread(relay.url, data, client, tmp_path, TASK) for client in near]
        agents += [AgentThread(network.url, data, client, tmp_path, TASK) for client in far]
        own = {"folder": tmp_path / "run", "resume": attempt > 0, "checkpoint_every": 1, "evaluate_every": None}
        run = hw.Run(made, data, TASK, rounds=rounds, engine=network.engine, **own)
        try:
            crash_or_end(run, attempt)
        finally:
            leave(network, relay, agents, finished=attempt > 0)
    simulation = hw.Run(algorithm("ideal"), data, TASK, rounds=rounds, evaluate_every=None)
    list(simulation)
    assert torch.equal(run.state.params, simulation.state.params)
    events = [event for _, event in EventLog(tmp_path).after(0)]
    assert {event.attempt for event in events} == ({0, 1} if crash == 4 else {0})
    relayed = [event for event in events if event.kind == "replied" and event.client == "near"]
    assert all(event.more["clients"] == list(near) for event in relayed)
    assert len(relayed) == (5 if crash == 4 else 4)
