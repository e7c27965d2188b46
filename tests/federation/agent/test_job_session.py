"""An agent at work on a job: stops at any moment, withdrawn work, heartbeats, verdicts, servers that come back."""

import asyncio
import contextlib
import threading
import time

import pytest
import torch
from agent_threads import AgentThread
from fault_proxy import FaultProxy, Faults
from network import Network
from toys import blobs, linear_task

import headway as hw
from headway.core import fault_points, stopping
from headway.federation import http_api as api
from headway.federation.agent import job_session
from headway.federation.agent.agent_store import AgentStore
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool

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


def until(condition, seconds=60.0):
    """Waits for a condition, which a machine with other work may take long to reach."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


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
        self.network.close()
        for thread in (self.thread, *(agent.thread for agent in self.agents)):
            thread.join(60)


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
    steps, under_way, withdrawn = [], threading.Event(), threading.Event()

    def loss(outputs, targets):
        steps.append(1)
        if len(steps) == 50:
            under_way.set()
            withdrawn.wait(60)
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")

    slow = hw.LocalSGD(lr=0.1, batch_size=1, steps=500)
    task = hw.Task(lambda: torch.nn.Linear(4, 3), loss=loss, metrics=())
    with Federation(tmp_path, hw.recipes.fedavg(trainer=slow), task, sizes=(9,)) as federation:
        agent = federation.agent("client-0", sink=lambda kind, *_: kind == "withdrawn" and withdrawn.set())
        assert under_way.wait(60)
        federation.network.assignments.withdraw(["client-0"])
        assert withdrawn.wait(60)
        assert agent.thread.is_alive()
    assert len(steps) < 100


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
    slow = hw.LocalSGD(lr=0.1, batch_size=1, steps=5_000)
    with Federation(tmp_path, hw.recipes.fedavg(trainer=slow), sizes=(9,)) as federation:
        agent = federation.agent("client-0")
        until(lambda: federation.network.assignments.of("client-0") is not None)
        federation.network.assignments.set_state(state, "the disk is full")
        assert agent.join() == state
        assert "the disk is full" in agent.events[-1][1]


def test_a_server_that_is_away_is_waited_for_and_said_once(tmp_path, monkeypatch):
    with Federation(tmp_path, sizes=(9,)) as federation, FaultProxy(federation.network.server.address) as proxy:
        proxy.faults = Faults(refusing=True)
        agent = federation.agent("client-0", url=proxy.url)
        until(lambda: len(proxy.accepted) >= 3)
        proxy.faults = Faults(bad_gateway=True)
        before = len(proxy.requests)
        until(lambda: len(proxy.requests) > before + 1)
        proxy.faults = Faults()
        assert agent.join() == "finished"
        assert agent.kinds().count("unreachable") == agent.kinds().count("reached") == 1


def test_an_agent_joins_again_when_the_server_was_started_anew(tmp_path):
    with Federation(tmp_path, sizes=(9,), rounds=40) as federation:
        agent = federation.agent("client-0")
        until(lambda: "trained" in agent.kinds())
        with federation.network.members._lock:
            federation.network.members._members.clear()  # as after a restart
        assert agent.join() == "finished"
        federation.thread.join(60)
        assert [report.count("counted") for report in federation.reports] == [1] * 40


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
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        if len(calls) == 40:
            raise ValueError("patient 17 has no label")
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")

    task = hw.Task(lambda: torch.nn.Linear(4, 3), loss=loss, metrics=())
    with Federation(tmp_path, hw.recipes.fedavg(trainer=TRAINER), task, sizes=(9, 7), rounds=4) as federation:
        agents = [federation.agent(client) for client in federation.data.clients]
        assert [agent.join() for agent in agents] == ["finished"] * 2
        federation.thread.join(60)
    assert [agent.kinds().count("failed") for agent in agents] in ([0, 1], [1, 0])
    assert not any("patient" in note for report in federation.reports for note in report.notes)


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
