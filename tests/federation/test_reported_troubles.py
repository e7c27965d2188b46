"""What people report of federations in use, each as a test: agents, a server, and the network between them."""

import math
import os
import random
import socket
import threading
import time
from dataclasses import replace

import pytest
import torch
from agent_threads import AgentThread
from crash_nodes import free_port
from fault_proxy import FaultProxy, Faults
from network import LeaseClock, Network
from processes import until
from serving_run import Stopped, stores
from torch import nn
from toys import blobs, linear_task

import headway as hw
from headway.core import fault_points
from headway.federation import http_api as api
from headway.federation.agent import connection as agent_connection
from headway.federation.agent.agent_store import AgentStore
from headway.federation.agent.answering import Answering
from headway.federation.agent.backoff import SHORTEST_S, Backoff
from headway.federation.serving.http_server import HttpServer
from headway.federation.serving.network_engine import WaitedTooLong

DATA, TASK = blobs((7, 12, 5)), linear_task(dtype="float64")
ONE, TWO, THREE = DATA.clients
ROUNDS = 3
PARTITIONS = int(os.environ.get("HEADWAY_PARTITIONS", "100"))
TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2)
SCAFFOLD = hw.recipes.recipe("scaffold", trainer=TRAINER)


class Federation:
    """A server whose run goes on in a thread, a proxy before it, and agents; all end with the test."""

    def __init__(self, folder, algorithm=SCAFFOLD, rounds=ROUNDS, task=TASK, expected=DATA.clients, **options):
        self.folder, self.task, self.algorithm, self.rounds = folder, task, algorithm, rounds
        self.spool, self.log = stores(folder)
        options = {"expected": frozenset(expected), **options}
        self.network = Network.of(algorithm, TASK, self.spool, self.log, rounds, **options)
        self.engine, self.members = self.network.engine, self.network.members
        self.proxy = FaultProxy(self.network.server.address)
        self.proxy.__enter__()
        self.agents: dict[str, AgentThread] = {}
        self.reports: list = []
        self.error: BaseException | None = None
        self.run = hw.Run(algorithm, DATA, TASK, rounds=rounds, engine=self.engine, evaluate_every=None)
        self.after_round = lambda report: None  # called by the thread of the run, which goes on when it returns
        self.thread = threading.Thread(target=self._go, daemon=True)

    def _go(self):
        try:
            for report in self.run:
                self.reports.append(report)
                self.after_round(report)
            self.network.assignments.set_state("finished")
        except Stopped:
            pass
        except BaseException as error:
            self.error = error
            self.network.assignments.set_state("failed", str(error))

    def start(self):
        self.thread.start()
        return self

    def join(self, *clients, url="", **options):
        for client in clients:
            own = (url or self.proxy.url, DATA, client, self.folder)
            self.agents[client] = AgentThread(*own, task=self.task, **options)
        return self.agents[clients[-1]]

    def finish(self):
        """Waits for the end of the run, and of all agents; the states that these end with."""
        self.thread.join(120)
        assert not self.thread.is_alive(), (self.engine.progress, [a.events[-3:] for a in self.agents.values()])
        if self.error is not None:
            raise self.error
        return {client: agent.join() for client, agent in self.agents.items()}

    def trained(self, client):
        """The rounds that a client has trained in, in their order."""
        return [more["round"] for kind, _, more in self.agents[client].events if kind == "trained"]

    def until_all_train(self):
        """Waits until all clients say that they train."""
        until(lambda: [row["activity"] for row in self.members.snapshot()] == ["training"] * len(self.agents))

    def counted(self):
        return [report.count("counted") for report in self.reports]

    def close(self):
        def stop(seconds=0.0):
            raise Stopped

        for agent in self.agents.values():
            agent.agent.stop()
        self.engine.channel.event = stop
        if self.thread.ident is not None:
            self.thread.join(60)
        for agent in self.agents.values():
            agent.thread.join(60)
        self.proxy.__exit__()
        self.network.close()
        self.log.close()


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Federations whose agents beat, ask and give up connections fast."""
    monkeypatch.setattr(api, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(api, "POLL_S", 1.0)
    monkeypatch.setattr(agent_connection, "SILENCE_S", 0.5)
    made = []

    def make(*arguments, **options):
        made.append(Federation(tmp_path, *arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def held(monkeypatch):
    """The clients whose training takes as long as they are in this set."""
    clients, answer = set(), Answering.answer

    def when_let_go(self, assignment, *rest):
        until(lambda: assignment.kind != "train" or self.participant.client not in clients, 120)
        return answer(self, assignment, *rest)

    monkeypatch.setattr(Answering, "answer", when_let_go)
    return clients


@pytest.fixture(scope="module")
def simulated():
    """The weights of the Local engine."""
    run = hw.Run(SCAFFOLD, DATA, TASK, rounds=ROUNDS, evaluate_every=None)
    list(run)
    return run.state.params


def check(federation, simulated):
    """The run has ended as if nothing had happened, and each update was computed once."""
    assert federation.finish() == dict.fromkeys(DATA.clients, "finished")
    assert torch.equal(federation.run.state.params, simulated)
    assert federation.counted() == [3] * ROUNDS
    assert [federation.trained(client) for client in DATA.clients] == [list(range(ROUNDS))] * 3


class Wide(nn.Linear):
    """A model whose updates take a while on a slow line."""

    def __init__(self):
        super().__init__(4, 3)
        self.ballast = nn.Parameter(torch.zeros(20_000))

    def forward(self, x):
        return super().forward(x) + self.ballast.sum() * 0


def test_an_upload_that_takes_longer_than_every_limit_counts(tmp_path, make, monkeypatch):
    """As long as bytes come in, the client is there; one client does not end the run."""
    task = hw.Task(Wide)
    monkeypatch.setattr("test_reported_troubles.TASK", task)
    monkeypatch.setattr(agent_connection, "SILENCE_S", 30.0)  # for heartbeats on this line
    federation = make(hw.recipes.recipe("fedavg", trainer=TRAINER), 1, task, lease_s=60.0).start()
    clock, sending = LeaseClock(federation.members), threading.Event()

    def slow(agent):
        federation.proxy.faults = Faults(rate=1000.0)  # 80 s for the update
        sending.set()

    federation.join(ONE, TWO, url=federation.network.url)
    federation.join(THREE, at={"trained": slow})
    assert sending.wait(60)
    clock.pass_lease(*DATA.clients)
    federation.proxy.faults = Faults()
    assert set(federation.finish().values()) == {"finished"}
    assert federation.counted() == [3]


def test_a_client_that_trains_for_longer_than_a_lease_is_there(make, held):
    held.update(DATA.clients)
    federation = make(rounds=1, lease_s=60.0).start()
    clock = LeaseClock(federation.members)
    federation.join(*DATA.clients)
    federation.until_all_train()
    clock.pass_lease(*DATA.clients)
    held.clear()
    assert set(federation.finish().values()) == {"finished"}
    assert federation.counted() == [3]


def test_a_client_that_restarts_is_asked_again(make, simulated):
    """And sends what it has computed before."""
    federation = make().start()
    federation.join(ONE, TWO)
    first = federation.join(THREE, at={"trained": lambda agent: agent.stop()})
    assert first.join() == "stopped"
    assert federation.trained(THREE) == [0]
    federation.join(THREE)
    federation.finish()
    assert federation.trained(THREE) == list(range(1, ROUNDS))
    assert torch.equal(federation.run.state.params, simulated)
    assert federation.counted() == [3] * ROUNDS


def test_agents_wait_for_a_server_that_is_not_up_yet(tmp_path, make, simulated, monkeypatch):
    port, waits = free_port(), []

    class Noted(Backoff):
        def wait(self, at_least=0.0):
            waits.append(super().wait(at_least))
            return waits[-1]

    monkeypatch.setattr(agent_connection, "Backoff", Noted)
    early = [AgentThread(f"http://127.0.0.1:{port}", DATA, c, tmp_path, task=TASK) for c in DATA.clients]
    until(lambda: len(waits) >= 9 and all("unreachable" in agent.kinds() for agent in early))
    start = HttpServer.start
    monkeypatch.setattr(HttpServer, "start", lambda self, host, _, context=None: start(self, host, port, context))
    federation = make().start()
    federation.agents = dict(zip(DATA.clients, early, strict=True))
    check(federation, simulated)
    before = [agent.kinds()[: agent.kinds().index("reached")] for agent in early]
    assert [kinds.count("unreachable") for kinds in before] == [1] * 3, "said once, not at each attempt"


@pytest.mark.parametrize("way", ["cut_up", "cut_down"])
@pytest.mark.parametrize("byte", [0, 100, 700, 1300, 2000])
def test_connections_that_break_at_any_byte(make, simulated, way, byte):
    """The result is kept at the client, and what the server holds of it is not sent twice."""
    federation = make().start()
    federation.proxy.faults = Faults(**{way: byte}, times=8)
    federation.join(*DATA.clients)
    check(federation, simulated)


def test_a_line_that_loses_connections(make, simulated):
    federation = make().start()
    federation.proxy.faults = Faults(loss=0.05, latency_s=0.005)
    federation.join(*DATA.clients)
    check(federation, simulated)
    assert federation.proxy.cuts


def test_work_goes_on_when_connections_drop(make, held):
    """Nothing is computed again because a socket was closed while it trained."""
    held.update(DATA.clients)
    federation = make(rounds=1).start()
    federation.join(*DATA.clients)
    federation.until_all_train()
    for _ in range(5):
        until(lambda: federation.proxy.open)
        federation.proxy.cut()
    held.clear()
    assert set(federation.finish().values()) == {"finished"}
    assert federation.counted() == [3]
    assert [federation.trained(client) for client in DATA.clients] == [[0]] * 3


def test_half_open_connections_are_given_up(make, simulated):
    """A partition that drops everything: connections that neither side sees closed, in the middle of a poll."""
    federation = make(lease_s=60.0).start()
    federation.join(ONE, TWO)
    until(lambda: federation.proxy.open >= 2)
    federation.proxy.forget()
    federation.join(THREE)
    check(federation, simulated)


@pytest.mark.parametrize("faults", [Faults(buffering=True), Faults(idle_s=0.3), Faults(latency_s=0.05)], ids=str)
def test_proxies_between(make, simulated, faults):
    """One that buffers whole messages, one that cuts idle connections, and a long way."""
    federation = make().start()
    federation.proxy.faults = faults
    federation.join(ONE, TWO)
    until(lambda: {ONE, TWO} <= set(federation.members.available()))
    if faults.idle_s:  # a poll is longer than the proxy's patience
        until(lambda: federation.proxy.cuts)
    federation.join(THREE)
    check(federation, simulated)


def test_memory_is_what_counted_when_a_heartbeat_ends_amid_a_verdict(make, simulated, monkeypatch):
    """Whoever carries the verdict out, and whatever is cancelled then: the next round trains from what is on disk."""
    settle = AgentStore.settle

    def slowly(self, *verdict):
        done = settle(self, *verdict)
        time.sleep(0.1)
        return done

    monkeypatch.setattr(AgentStore, "settle", slowly)
    monkeypatch.setattr(api, "HEARTBEAT_S", 0.005)
    federation = make().start()
    federation.proxy.faults = Faults(latency_s=0.02)
    federation.join(*DATA.clients)
    check(federation, simulated)


def test_a_partition_that_heals(make, simulated):
    federation, parted = make(lease_s=60.0).start(), threading.Event()

    def part(agent):
        if not parted.is_set():
            federation.proxy.faults = Faults(frozen=True)
            parted.set()

    federation.join(ONE, at={"trained": part})
    federation.join(TWO, THREE)
    assert parted.wait(60)
    time.sleep(1.5)  # longer than a connection may be silent
    assert not federation.reports
    federation.proxy.faults = Faults()
    check(federation, simulated)


def test_a_gateway_whose_server_is_away(make, simulated):
    """Its answers of 502 are no end, and no reason to come every moment."""
    federation, begun = make(lease_s=60.0).start(), []

    def away(agent):
        if not begun:
            begun.append(time.monotonic())
            federation.proxy.faults = Faults(bad_gateway=True)
            federation.proxy.cut()

    def asked():
        return sum(api.HEARTBEAT.encode() not in line for line in federation.proxy.requests)

    federation.join(ONE, at={"trained": away})
    federation.join(TWO, THREE)
    until(lambda: asked() >= 12)
    calls, seconds = asked(), time.monotonic() - begun[0]
    federation.proxy.faults = Faults()
    assert calls <= 3 * (1 + math.log2(1 + seconds / (SHORTEST_S / 2))), "three agents, whose waits double"
    check(federation, simulated)


def test_a_round_that_has_enough_does_not_wait_for_a_client_that_was_killed(make, held):
    algorithm = replace(SCAFFOLD, quorum=hw.Quorum(count=2, deadline_s=600.0))
    held.update(DATA.clients)
    federation = make(algorithm, lease_s=300.0).start()
    agent = federation.join(*DATA.clients)
    federation.until_all_train()
    agent.agent.stop()
    held.discard(THREE)
    assert agent.join() == "stopped"
    del federation.agents[THREE]
    held.clear()
    assert set(federation.finish().values()) == {"finished"}
    assert federation.counted() == [2] * ROUNDS


def test_a_server_that_waits_shows_for_whom_and_since_when(make):
    federation = make(wait_limit_s=3600.0).start()
    agents = [federation.join(ONE), federation.join(TWO)]
    until(lambda: federation.engine.progress.waiting_for == (THREE,))
    progress = federation.engine.progress
    assert progress.phase == "waiting for clients"
    assert THREE in progress.note
    assert 0 <= progress.since <= federation.engine.now
    federation.engine.channel.clock.set(federation.engine.now + 3600.0)
    federation.thread.join(60)
    assert isinstance(federation.error, WaitedTooLong)
    assert f"waited 3600 s for {THREE}" in str(federation.error)
    assert [agent.join() for agent in agents] == ["failed", "failed"], "nobody goes on for a run that has failed"


def test_clients_do_not_work_on_for_a_run_that_has_failed(make, held):
    held.update(DATA.clients)
    federation = make().start()
    agents = [federation.join(client) for client in DATA.clients]
    federation.until_all_train()
    federation.network.assignments.set_state("failed", "the disk is full")
    until(lambda: all("withdrawn" in agent.kinds() for agent in agents))
    held.clear()
    assert [agent.join() for agent in agents] == ["failed"] * 3
    assert not any("trained" in agent.kinds() for agent in agents)
    assert any("the disk is full" in text for _, text, _ in agents[0].events)


def test_clients_join_leave_and_are_set_aside_while_a_run_goes_on(make):
    algorithm = hw.recipes.recipe("fedavg", trainer=TRAINER)
    federation = make(algorithm, rounds=6, expected=[ONE], lease_s=60.0)
    clock = LeaseClock(federation.members)

    def change(report):
        if report.round == 1:
            federation.join(TWO)
            until(lambda: TWO in federation.members.available())
        if report.round == 2:
            federation.agents.pop(TWO).stop()
            federation.join(THREE)
            until(lambda: THREE in federation.members.available())

    federation.after_round = change
    federation.start()
    federation.join(ONE)
    until(lambda: len(federation.reports) == 2 and federation.engine.progress.waiting_for == (TWO,))
    clock.pass_lease(ONE, THREE)
    assert set(federation.finish().values()) == {"finished"}
    counted = [{row.client for row in report.clients if row.status == "counted"} for report in federation.reports]
    assert counted == [{ONE}, {ONE, TWO}, *[{ONE, THREE}] * 4]


def test_a_late_client_is_told_and_its_memory_agrees(make):
    """An update that comes after the deadline is dropped at both sides: the client's variate stays what counted."""
    federation = make(replace(SCAFFOLD, quorum=hw.Quorum(count=2)), lease_s=300.0)
    asked, closed = threading.Event(), threading.Event()

    def hook(place):
        """The last client trains when a round has closed without it, and the others when it has its request."""
        if place == "agent: a request is fetched":
            if threading.current_thread().name == THREE:
                asked.set()
                closed.wait(60)
            asked.wait(60)

    fault_points.install(hook)
    try:
        federation.join(ONE, TWO)
        late = federation.join(THREE)
        federation.start()
        until(lambda: federation.reports)
        closed.set()
        states = set(federation.finish().values())
    finally:
        closed.set()
        fault_points.install(None)
    assert states == {"finished"}
    assert federation.counted() == [2] * ROUNDS
    assert THREE not in {row.client for row in federation.reports[0].clients if row.status == "counted"}
    assert set(late.kinds()) & {"withdrawn", "not counted", "not wanted"}, late.events
    counted = {row.client for report in federation.reports for row in report.clients if row.status == "counted"}
    committed = None if late.agent.session is None else late.agent.session.job.memory.committed
    assert (committed is None) == (THREE not in counted)


def test_no_connection_leaves_for_anywhere_else(make, simulated, monkeypatch):
    """There is no telemetry: all connections of a server and its agents go to this server."""
    reached, connect = set(), socket.socket.connect

    def spy(self, address):
        reached.add(address[0] if isinstance(address, tuple) else address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", spy)
    federation = make().start()
    federation.join(*DATA.clients)
    check(federation, simulated)
    assert reached <= {"127.0.0.1", "::1"}


def test_a_missing_address_is_not_tried_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(agent_connection, "UNKNOWN_HOST_S", 1.0)
    agent = AgentThread(f"http://localhost:{free_port()}/x", DATA, ONE, tmp_path, task=TASK, patience_s=1.0)
    with pytest.raises(hw.HeadwayError, match="no Headway server has answered"):
        agent.join()


@pytest.mark.soak
@pytest.mark.parametrize("partition_s", [1.0, 60.0, 120.0])
def test_a_slow_line_that_loses_connections_and_is_parted(make, simulated, partition_s):
    """Loss of 5 %, 200 ms there and back, 1 Mbit/s, and a partition in the middle of it."""
    federation = make(lease_s=300.0).start()
    federation.proxy.faults = Faults(loss=0.05, latency_s=0.1, rate=125_000.0)
    federation.join(*DATA.clients)
    until(lambda: federation.trained(ONE))
    federation.proxy.faults = Faults(frozen=True)
    time.sleep(partition_s)
    federation.proxy.forget()
    federation.proxy.faults = Faults(loss=0.05, latency_s=0.1, rate=125_000.0)
    federation.thread.join(120)
    check(federation, simulated)
    print(f"a partition of {partition_s:g} s and {federation.proxy.cuts} lost connections: the same weights")


@pytest.mark.soak
@pytest.mark.parametrize("part", range(4))
def test_a_hundred_partitions(make, part):
    """Of 1 to 120 s, after which the connections of before are half-open, or reset."""
    chance = random.Random(part)
    lengths = [math.exp(chance.uniform(0.0, math.log(120.0))) for _ in range(PARTITIONS // 4)]
    rounds = 6 * len(lengths)
    federation, begun = make(rounds=rounds, lease_s=600.0), 0
    federation.after_round = lambda report: until(lambda: report.round < 6 * begun, 600)  # it is not over too soon
    federation.start()
    federation.join(*DATA.clients)
    for number, length in enumerate(lengths):
        begun += 1
        seen = len(federation.reports)
        until(lambda seen=seen: len(federation.reports) > seen, 600)
        federation.proxy.faults = Faults(frozen=True)
        time.sleep(length)
        assert federation.thread.is_alive(), "the run was over before the partition"
        (federation.proxy.cut if number % 2 else federation.proxy.forget)()
        federation.proxy.faults = Faults()
    begun += 1
    federation.thread.join(600)
    assert federation.finish() == dict.fromkeys(DATA.clients, "finished")
    local = hw.Run(SCAFFOLD, DATA, TASK, rounds=rounds, evaluate_every=None)
    list(local)
    assert torch.equal(federation.run.state.params, local.state.params)
    assert federation.counted() == [3] * rounds
    assert [federation.trained(client) for client in DATA.clients] == [list(range(rounds))] * 3
    print(f"{len(lengths)} partitions of {sum(lengths):.0f} s in all: each update counted once, the same weights")
