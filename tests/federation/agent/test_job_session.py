"""An agent at work on a job: stops at any moment, withdrawn work, heartbeats, verdicts, servers that come back."""

import asyncio
import contextlib
import itertools
import threading
from hashlib import sha256
from types import SimpleNamespace

import pytest
import torch
from agent_threads import AgentThread
from fault_proxy import FaultProxy, Faults
from network import Network
from processes import until
from toys import blobs, linear_task

import headway as hw
from headway.core import fault_points, stopping
from headway.federation import http_api as api
from headway.federation.agent import job_session
from headway.federation.agent.agent_log import AgentLog
from headway.federation.agent.agent_memory import AgentMemory
from headway.federation.agent.agent_store import AgentStore
from headway.federation.agent.answering import Answered
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool
from headway.protocol.wire_files import WrittenFrame

TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2)
ROUNDS = 3
PLACES = (
    "agent: a request is fetched",
    "agent: within a download",
    "agent: a reply is computed",
    "agent: between a reply's file and its entry",
    "agent: a reply is on disk",
    "agent: within an upload",
    "agent: a reply is sent",
    "agent: a receipt is there",
    "agent: a receipt is on disk",
    "agent: before a verdict is carried out",
    "agent: after a verdict is carried out",
)


class Crash(BaseException):
    """An end at once."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Heartbeats and questions without the waits of real life."""
    monkeypatch.setattr(api, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(job_session, "WITHOUT_VERDICT_S", 0.1)


@pytest.fixture
def hook():
    """Installs a hook at the places of the agent."""
    yield fault_points.install
    fault_points.install(None)


def scaffold():
    return hw.recipes.recipe("scaffold", trainer=TRAINER)


class HeldTraining:
    """Training whose 50th step of 500 waits until a test lets it go on."""

    def __init__(self):
        self.steps, self.under_way, self.goes_on = [], threading.Event(), threading.Event()
        self.algorithm = hw.recipes.fedavg(trainer=hw.LocalSGD(lr=0.1, batch_size=1, steps=500))
        self.task = hw.Task(lambda: torch.nn.Linear(4, 3), loss=self._loss, metrics=())

    def _loss(self, outputs, targets):
        self.steps.append(1)
        if len(self.steps) == 50:
            self.under_way.set()
            self.goes_on.wait(60)
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


class Federation:
    """A server and the run of it in a thread, with clients of `blobs`."""

    def __init__(self, tmp_path, algorithm=None, task=None, sizes=(7, 12), rounds=ROUNDS, **options):
        self.data, self.task = blobs(sizes), task or linear_task(dtype="float64")
        self.algorithm, self.rounds, self.folder = algorithm or scaffold(), rounds, tmp_path
        options.setdefault("expected", frozenset(self.data.clients))
        self.evaluate_every = options.pop("evaluate_every", 1)
        self.log = EventLog(tmp_path)
        self.network = Network.of(self.algorithm, self.task, Spool(tmp_path / "spool"), self.log, rounds, **options)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.agents: list[AgentThread] = []

    def _run(self):
        own = {"engine": self.network.engine, "evaluate_every": self.evaluate_every}
        self.made = hw.Run(self.algorithm, self.data, self.task, rounds=self.rounds, **own)
        with contextlib.suppress(stopping.Stopped):
            self.reports = list(self.made)
        self.network.assignments.set_state("finished")

    def agent(self, client, url=None, **options):
        made = AgentThread(url or self.network.url, self.data, client, self.folder, self.task, **options)
        self.agents.append(made)
        return made

    def expected(self):
        """The weights of the Local engine."""
        local = hw.Run(self.algorithm, self.data, self.task, rounds=self.rounds)
        list(local)
        return local.state.params

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        for agent in self.agents:
            agent.agent.stop()
        self.network.assignments.set_state("stopped")
        self.network.engine.channel.interrupt()
        self.thread.join(60)  # it writes to the log, which the network closes
        self.network.close()
        for agent in self.agents:
            agent.thread.join(60)


@pytest.mark.parametrize("count", [2, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("place", PLACES)
def test_an_agent_that_is_killed_goes_on_with_the_same_bits(tmp_path, hook, place, count):
    passed = []

    def crash(at):
        if at == place:
            passed.append(at)
            if len(passed) == count:
                raise Crash

    hook(crash)
    with Federation(tmp_path, sizes=(9,), expected=frozenset()) as federation:
        first = federation.agent("client-0")
        with pytest.raises(Crash):
            first.join()
        second = federation.agent("client-0")
        assert second.join() == "finished"
        federation.thread.join(60)
    assert [report.count("counted") for report in federation.reports] == [1] * ROUNDS
    assert torch.equal(federation.made.state.params, federation.expected())
    assert len(list(tmp_path.glob("client-0/receipts/*/*.json"))) == ROUNDS


def test_work_that_is_withdrawn_stops_between_two_steps(tmp_path):
    held = HeldTraining()
    with Federation(tmp_path, held.algorithm, held.task, sizes=(9,)) as federation:
        agent = federation.agent("client-0", sink=lambda kind, *_: kind == "withdrawn" and held.goes_on.set())
        assert held.under_way.wait(60)
        federation.network.assignments.withdraw(["client-0"])
        assert held.goes_on.wait(60)
        assert agent.thread.is_alive()
    assert len(held.steps) < 100


def test_the_receipt_of_the_last_update_is_kept(tmp_path, monkeypatch):
    """The job ends with the last update, and a heartbeat brings its end before the receipt."""
    complete = job_session.complete

    async def lost(connection, assignment, end, round_):
        receipt = await complete(connection, assignment, end, round_)
        if round_ == ROUNDS - 1:
            await asyncio.sleep(3600)
        return receipt

    monkeypatch.setattr(job_session, "complete", lost)
    with Federation(tmp_path, sizes=(9,), evaluate_every=None) as federation:
        agent = federation.agent("client-0")
        assert agent.join(60) == "finished"
        federation.thread.join(60)
    assert len(list(tmp_path.glob("client-0/receipts/*/*.json"))) == ROUNDS
    assert torch.equal(federation.made.state.params, federation.expected())


def test_a_request_that_was_answered_is_not_withdrawn(tmp_path, monkeypatch):
    """Its receipt is on its way, and a heartbeat comes first."""
    complete, beats = job_session.complete, []

    async def late(connection, assignment, end, round_):
        receipt, seen = await complete(connection, assignment, end, round_), len(beats)
        while round_ < ROUNDS - 1 and len(beats) < seen + 2:
            await asyncio.sleep(0.01)
        return receipt

    with Federation(tmp_path, sizes=(9,)) as federation:
        state = federation.network.server._state
        monkeypatch.setattr(federation.network.server, "_state", lambda *a: beats.append(a) or state(*a))
        monkeypatch.setattr(job_session, "complete", late)
        agent = federation.agent("client-0")
        assert agent.join(60) == "finished"
        federation.thread.join(60)
    assert agent.kinds()[: agent.kinds().index("ended")].count("withdrawn") <= 1  # by the end of the job at most
    assert len(list(tmp_path.glob("client-0/receipts/*/*.json"))) == ROUNDS


def test_a_reply_whose_request_was_withdrawn_is_not_kept(tmp_path, monkeypatch):
    trained = threading.Event()

    async def never(*_):
        trained.set()
        await asyncio.sleep(3600)

    monkeypatch.setattr(job_session, "upload", never)
    with Federation(tmp_path, sizes=(9,)) as federation:
        agent = federation.agent("client-0")
        assert trained.wait(60)
        session = agent.agent.session
        assert len(session.store.undelivered(session.name)) == 1
        federation.network.assignments.withdraw(["client-0"])
        until(lambda: not session.store.undelivered(session.name))


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_an_agent_stops_working_for_a_run_that_has_ended(tmp_path, state):
    held, events = HeldTraining(), []

    def sink(*event):
        events.append(event)
        if event[0] == "withdrawn":
            held.goes_on.set()

    with Federation(tmp_path, held.algorithm, held.task, sizes=(9,)) as federation:
        agent = federation.agent("client-0", sink=sink)
        assert held.under_way.wait(60)
        federation.network.assignments.set_state(state, "the disk is full")
        assert agent.join() == state
    assert "the disk is full" in events[-1][1]
    assert len(held.steps) < 100


def test_a_server_that_is_away_is_waited_for_and_said_once(tmp_path, monkeypatch):
    with Federation(tmp_path, sizes=(9,)) as federation, FaultProxy(federation.network.server.address) as proxy:
        proxy.faults = Faults(refusing=True)
        until(lambda: federation.network.assignments._listening)  # a reply before that would be told to come later
        agent = federation.agent("client-0", url=proxy.url)
        until(lambda: len(proxy.accepted) >= 3)
        proxy.faults = Faults(bad_gateway=True)
        before = len(proxy.requests)
        until(lambda: len(proxy.requests) > before + 1)
        proxy.faults = Faults()
        assert agent.join() == "finished"
        assert agent.kinds().count("unreachable") == agent.kinds().count("reached") == 1


def test_an_agent_joins_again_when_the_server_was_started_anew(tmp_path, monkeypatch):
    joins, forgotten = [], []

    def sink(kind, *_):
        if kind == "trained" and not forgotten:
            with members._lock:
                members._members.clear()  # as after a restart
            forgotten.append(True)

    with Federation(tmp_path, sizes=(9,)) as federation:
        members = federation.network.members
        join = members.join
        monkeypatch.setattr(members, "join", lambda *given: joins.append(given) or join(*given))
        agent = federation.agent("client-0", sink=sink)
        assert agent.join() == "finished"
        federation.thread.join(60)
    assert len(joins) >= 2
    assert [report.count("counted") for report in federation.reports] == [1] * ROUNDS


def test_an_agent_that_delivers_joins_a_server_that_was_started_anew(tmp_path, monkeypatch):
    """Such a server, or relay, may wait for its clients before it opens any request again."""
    monkeypatch.setattr(api, "HEARTBEAT_S", 600.0)
    true, anew = job_session.complete, []

    async def complete(*given):
        if not anew:
            members._members.clear()
            anew.append(True)
        return await true(*given)

    monkeypatch.setattr(job_session, "complete", complete)
    with Federation(tmp_path, sizes=(9,), rounds=1, evaluate_every=None) as federation:
        assignments, members = federation.network.assignments, federation.network.members
        find = assignments.find
        monkeypatch.setattr(assignments, "is_unwanted", lambda: False)
        monkeypatch.setattr(assignments, "find", lambda name, *of: find(name, *of) if members.get(name) else None)
        agent = federation.agent("client-0")
        assert agent.join() == "finished"
        federation.thread.join(60)
        assert anew
        assert "not wanted" not in agent.kinds()
        assert [report.count("counted") for report in federation.reports] == [1]


def test_a_client_whose_training_fails_says_where_and_goes_on(tmp_path):
    calls = itertools.count(1)  # of two agents at once

    def loss(outputs, targets):
        if next(calls) == 40:
            raise ValueError("patient 17 has no label")
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")

    task = hw.Task(lambda: torch.nn.Linear(4, 3), loss=loss, metrics=())
    with Federation(tmp_path, hw.recipes.fedavg(trainer=TRAINER), task, sizes=(9, 7), rounds=4) as federation:
        agents = [federation.agent(client) for client in federation.data.clients]
        assert [agent.join() for agent in agents] == ["finished"] * 2
        federation.thread.join(60)
    assert [agent.kinds().count("failed") for agent in agents] in ([0, 1], [1, 0])
    assert not any("patient" in note for report in federation.reports for note in report.notes)


def test_a_heartbeat_that_is_ended_within_a_verdict_leaves_the_memory_to_the_next_contact(tmp_path, monkeypatch):
    """Its store has carried the verdict out, which the server sends again; an evaluation may come before training."""
    store, memory = AgentStore(tmp_path), AgentMemory("client-0")
    store.begin("job")
    proposed = {"trainer": {"own": torch.arange(3.0)}}
    store.fresh.write_bytes(b"reply")
    assignment = api.Assignment(assignment="a", job="job", kind="train", round=0, message="0" * 64, size=1, limit=9)
    store.keep(assignment, Answered(store.fresh, WrittenFrame(5, sha256(b"reply").hexdigest()), ((0, 0), proposed)))
    job = SimpleNamespace(
        description=SimpleNamespace(job="job"), answering=SimpleNamespace(telemetry=True), memory=memory
    )
    session = job_session.JobSession(None, store, job, None, AgentLog())
    settle, carried_out, ended = store.settle, threading.Event(), threading.Event()

    def held(*given):
        found = settle(*given)
        carried_out.set()
        ended.wait(60)
        return found

    async def contacts():
        with monkeypatch.context() as patch:
            patch.setattr(store, "settle", held)
            heartbeat = asyncio.create_task(session._settle(0, 0, True))
            await asyncio.to_thread(carried_out.wait, 60)
            heartbeat.cancel()
            await asyncio.wait([heartbeat])
        ended.set()
        await session._settle(0, 0, True)

    asyncio.run(contacts())
    assert store.pending("job") is None
    assert torch.equal(memory.committed["trainer"]["own"], torch.arange(3.0))
    store.close()


def test_a_store_is_closed_after_the_call_that_is_under_way(tmp_path):
    store, closed = AgentStore(tmp_path), threading.Event()
    with store._transaction() as database:
        ender = threading.Thread(target=lambda: (store.close(), closed.set()))
        ender.start()
        assert not closed.wait(0.2)
        assert database.execute("SELECT value FROM facts").fetchone() is not None
    ender.join(60)
    assert closed.is_set()


def test_a_request_whose_message_is_gone_is_asked_for_again(tmp_path, monkeypatch):
    """A server that was killed after it made a request does not know, when it is back, that it sent the message."""
    with Federation(tmp_path, sizes=(9,)) as federation:
        board, refused = federation.network.assignments, []
        known = board.was_sent

        def forgotten(client, digest):
            refused.append(digest)
            return len(refused) > 2 and known(client, digest)

        monkeypatch.setattr(board, "was_sent", forgotten)
        agent = federation.agent("client-0")
        assert agent.join() == "finished"
        federation.thread.join(60)
    assert sum("no such message" in text for _, text, _ in agent.events) == 2
    assert [report.count("counted") for report in federation.reports] == [1] * ROUNDS
    assert torch.equal(federation.made.state.params, federation.expected())


def test_an_agent_with_an_undelivered_reply_asks_for_work_where_no_run_takes_replies_yet(tmp_path, hook):
    """It would count as gone otherwise, as behind a relay that was started anew and waits for its server."""

    def crash(at):
        if at == "agent: a reply is on disk":
            raise Crash

    hook(crash)
    with Federation(tmp_path, sizes=(9,)) as federation:
        with pytest.raises(Crash):
            federation.agent("client-0").join()
        hook(None)
        other = tmp_path / "other"
        network = Network.of(federation.algorithm, federation.task, Spool(other / "spool"), EventLog(other), ROUNDS)
        again = federation.agent("client-0", network.url)
        until(lambda: "client-0" in network.assignments._waiting)
        assert len(again.agent.session.store.undelivered("job")) == 1
        network.assignments.set_state("finished")
        assert again.join() == "finished"
        network.close()
