"""A federation through a relay has the bits of Local, and a relay refuses what it cannot sum."""

from __future__ import annotations

import threading

import pytest
import torch
from agent_threads import AgentThread
from crashing_log import CrashingLog, crash_or_end
from network import Network
from processes import until
from raw_client import RawClient
from toys import blobs, linear_task

import headway as hw
from headway.core.update import Update
from headway.federation import http_api as api
from headway.federation.identity.admission import OpenAdmission
from headway.federation.identity.node_identity import OpenIdentity
from headway.federation.identity.server_access import ServerAccess
from headway.federation.relay import relay as relay_module
from headway.federation.relay.relay import Relay, RelayOptions
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.manifest_folder import ManifestFolder
from headway.federation.spool.receipts import ReceiptsCheck, extract, read_receipts
from headway.federation.spool.round_manifests import RoundManifests
from headway.federation.spool.run_check import RunCheck
from headway.federation.spool.spool import Spool
from headway.protocol.messages import SumReply
from headway.protocol.reports import Reports
from headway.protocol.sums import ExactTotal
from headway.protocol.wire_messages import Binding, encode_reply

ROUNDS = 5
TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2)
DATA = blobs((7, 12, 5, 9, 6))
TASK = linear_task(dtype="float64")


class RelayThread:
    """A relay that runs in a thread."""

    def __init__(self, url, folder, name="relay", clients=1, access=None, task=TASK, **options):
        self.events, self.error, self.state = [], None, ""
        access = access or ServerAccess(OpenIdentity(name), OpenAdmission(1e6, 1e6), None, None, ())
        sink = lambda *event: self.events.append(event)  # noqa: E731
        self.relay = Relay(
            url, access, lambda job: task, state=folder, options=RelayOptions(clients=clients, sink=sink, **options)
        )
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.state = self.relay.run()
        except BaseException as error:
            self.error = error
            self.relay.listening.set()

    @property
    def url(self):
        assert self.relay.listening.wait(60)
        if self.error is not None:
            raise self.error
        return self.relay.server.url

    def join(self):
        self.thread.join(60)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.state


def leave(network, relay, agents, finished):
    """The end of a server that has finished, or has crashed, and of its relay and agents."""
    network.assignments.set_state("finished" if finished else "paused")
    if not finished:
        relay.relay.stop()
        for agent in agents:
            agent.stop()
    assert relay.join() == ("finished" if finished else "stopped")
    for agent in agents:
        agent.join()
    network.close("finished" if finished else "paused")


def network_of(folder, algorithm, rounds=ROUNDS, **options):
    options = {"wait_limit_s": 60.0, "group": 1, "relays": ("relay", "other"), **options}
    return Network.of(algorithm, TASK, Spool(folder / "spool"), EventLog(folder), rounds, **options)


def through_relays(tmp_path, algorithm, tree, rounds=ROUNDS, recorded=False):
    """A run whose clients are behind relays or at the server; tree: of each relay's name ("" for none), its clients.

    recorded: whether it has a folder, with manifests; its receipts are then in `run.receipts`.
    """
    folder = tmp_path / "run"
    network = network_of(folder, algorithm, rounds, expected=frozenset(DATA.clients))
    receipts = []
    network.engine.channel.sign = lambda receipt: receipts.append(receipt) or receipt
    manifests = RoundManifests(folder, network.engine, Spool(folder / "spool"))
    options = {"folder": folder, "observers": [manifests]} if recorded else {}
    relays = {
        name: RelayThread(network.url, tmp_path / name, name, len(clients)) for name, clients in tree.items() if name
    }
    agents = [
        AgentThread(relays[name].url if name else network.url, DATA, client, tmp_path, task=TASK)
        for name, clients in tree.items()
        for client in clients
    ]
    run = hw.Run(algorithm, DATA, TASK, rounds=rounds, engine=network.engine, **options)
    run.receipts = receipts
    try:
        reports = list(run)
        network.assignments.set_state("finished")
        assert [relay.join() for relay in relays.values()] == ["finished"] * len(relays)
        assert [agent.join() for agent in agents] == ["finished"] * len(agents)
    finally:
        network.close()
    return run, reports


CHAINS = {
    "fedavg": lambda: hw.recipes.recipe("fedavg", trainer=TRAINER),
    "scaffold": lambda: hw.recipes.recipe("scaffold", trainer=TRAINER),
}
TREES = {
    "all behind one": {"relay": DATA.clients},
    "some": {"relay": DATA.clients[:2], "": DATA.clients[2:4], "other": DATA.clients[4:]},
}


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("name", CHAINS)
def test_the_bits_of_local(tmp_path, name, tree):
    algorithm = CHAINS[name]()
    local = hw.Run(algorithm, DATA, TASK, rounds=ROUNDS, engine=hw.LocalEngine(group=1))
    expected = list(local)
    run, reports = through_relays(tmp_path, algorithm, TREES[tree])
    assert torch.equal(run.state.params, local.state.params)
    for one, other in zip(expected, reports, strict=True):
        assert [(c.client, c.status, c.examples, c.steps) for c in one.clients] == [
            (c.client, c.status, c.examples, c.steps) for c in other.clients
        ]
        assert other.train_loss == one.train_loss
        assert other.metrics["accuracy"] == pytest.approx(one.metrics["accuracy"])


def test_a_run_with_a_relay_is_computed_again_and_its_receipts_agree(tmp_path):
    run, _ = through_relays(tmp_path, CHAINS["scaffold"](), TREES["some"], 2, recorded=True)
    run.close()
    result = RunCheck(tmp_path / "run").check()
    assert (result.replayed, result.differences) == ([1, 2], [])
    entries = ManifestFolder(tmp_path / "run").document(2).updates
    assert [(each.client, each.relay) for each in entries] == [
        ("client-0", "relay"),
        ("client-1", "relay"),
        ("client-2", ""),
        ("client-3", ""),
        ("client-4", "other"),
    ]
    for name in ("relay", "other", "client-2"):
        own = [each for each in run.receipts if each.client == name and each.verdict == "accepted"]
        found = ReceiptsCheck(own).check([extract(tmp_path / "run", name, 0)])
        assert (found.counted, found.differences) == ([1, 2], [])
    own = read_receipts(tmp_path / "client-0" / "receipts")  # of the relay
    found = ReceiptsCheck(own).check([extract(tmp_path / "run", "client-0", 0)])
    assert (found.counted, found.differences) == ([1, 2], [])
    assert any("sums of the relay 'relay'" in note for note in found.notes)


@pytest.mark.parametrize(
    ("algorithm", "reason"),
    [
        (lambda: hw.Algorithm(hw.chain(hw.AFL()), TRAINER, hw.All()), "AFL must see the update of every client"),
        (
            lambda: hw.Algorithm(hw.chain(hw.Mean()), TRAINER, hw.All(), hw.Quorum(count=3)),
            "the sum of a relay counts as a whole",
        ),
        (lambda: hw.recipes.recipe("fedbuff", trainer=TRAINER), "updates of different rounds cannot be in one sum"),
    ],
)
def test_what_a_relay_cannot_sum_is_refused_at_both_sides(tmp_path, algorithm, reason):
    network = network_of(tmp_path, algorithm())
    relay = RelayThread(network.url, tmp_path / "relay")
    with pytest.raises(hw.ConfigError, match=reason):
        relay.join()
    assert reason in next(row["declined"] for row in network.members.snapshot())
    with RawClient(network.url, "relay") as raw:
        answer = raw.join(3, members=({"client": "a", "data": {"train": 3, "input_shape": ()}},))
        assert answer.status != 200
        assert reason in answer.body.decode()
    network.close()


def test_the_agents_of_a_relay_ask_again_within_its_own_lease(tmp_path):
    network = network_of(tmp_path / "run", CHAINS["fedavg"]())
    relay = RelayThread(network.url, tmp_path / "relay", lease_s=30.0)
    try:
        with RawClient(network.url, "north") as there, RawClient(relay.url, "north") as here:
            assert (there.job().poll_s, here.job().poll_s) == (api.POLL_S, 15.0)
            assert here.job().model_copy(update={"poll_s": api.POLL_S}) == there.job()
    finally:
        leave(network, relay, [], finished=False)


def test_a_relay_that_is_started_anew_lets_go_of_replies_of_the_training_before(tmp_path):
    """Their clients would ask again and again whether they are wanted, and not for work."""
    network = network_of(tmp_path / "run", CHAINS["fedavg"](), 1)
    run = hw.Run(CHAINS["fedavg"](), blobs((7,)), TASK, rounds=1, engine=network.engine)
    thread = threading.Thread(target=lambda: list(run), daemon=True)
    thread.start()
    for kind in ("train", "evaluate"):
        relay = RelayThread(network.url, tmp_path / "relay")
        with RawClient(relay.url, "client-0") as raw:
            assert raw.join(7).status == 200
            if kind == "train":
                trained = raw.assignment()
                assert raw.answer(trained, 7.0).status == 200
            scoring = raw.assignment("evaluate")
            if kind == "train":
                relay.relay.stop()
                assert relay.join() == "stopped"
            else:
                assert raw.call("HEAD", api.REPLY.format(assignment=trained.assignment)).status == 410
                assert raw.answer(scoring, 3.0).status == 200
                thread.join(60)
                raw.post(api.LEAVE, b"{}")
    leave(network, relay, [], finished=True)


def test_a_relay_whose_clients_have_all_left_waits_for_others(tmp_path):
    network = network_of(tmp_path / "run", CHAINS["fedavg"]())
    desk = network.server.desk
    desk.offer(desk.description().model_copy(update={"poll_s": 0.5}))
    relay = RelayThread(network.url, tmp_path / "relay")
    with RawClient(relay.url, "client-0") as first, RawClient(relay.url, "client-1") as other:
        assert first.join(7).status == 200
        until(lambda: network.members.available() == ("client-0",))
        first.post(api.LEAVE, b"{}")
        network.members.leave("relay")  # as a server that was started anew, which the relay joins again
        until(lambda: not network.members.get("relay").left)
        assert other.join(12).status == 200
        until(lambda: network.members.available() == ("client-1",))
        other.post(api.LEAVE, b"{}")
        leave(network, relay, [], finished=True)


def test_a_relay_that_waits_for_clients_learns_that_its_server_has_gone_over_to_another_job(tmp_path, monkeypatch):
    monkeypatch.setattr(relay_module, "SERVER_S", 0.1)
    network = network_of(tmp_path / "run", CHAINS["fedavg"]())
    relay = RelayThread(network.url, tmp_path / "relay", clients=2)
    with RawClient(relay.url, "client-0") as raw:
        assert raw.join(7).status == 200
        until(lambda: relay.relay.server.desk.present())
        desk = network.server.desk
        desk.offer(desk.description().model_copy(update={"job": "another", "name": "the next study"}))
        with pytest.raises(hw.ConfigError, match="gone over to 'the next study', and 1 of 2 clients were here"):
            relay.join()
    network.close()


def test_a_node_joins_for_others_only_where_the_server_lists_it(tmp_path):
    network = network_of(tmp_path, CHAINS["fedavg"]())
    member = {"client": "client-0", "data": {"train": 3, "input_shape": ()}}
    with RawClient(network.url, "stranger") as raw:
        assert "is not among the relays of this server" in raw.join(3, members=(member,)).body.decode()
    with RawClient(network.url, "client-0") as raw:
        assert raw.join(3).status == 200
    with RawClient(network.url, "relay") as raw:
        assert "takes part by itself already" in raw.join(3, members=(member,)).body.decode()
        assert "names a client twice" in raw.join(3, members=(member, member)).body.decode()
        assert raw.join(3, members=({**member, "client": "client-1"},)).status == 200
    assert network.members.available() == ("client-0", "client-1")
    assert network.members.node_of("client-1") == "relay"
    network.close()


@pytest.mark.parametrize("crash", [2, 3, 4, 6, 7, 8])  # after each arrival of the first round, and in the second
def test_a_server_that_ends_amid_the_events_of_a_sum_counts_it_once_and_whole(tmp_path, crash):
    data, algorithm = blobs((7, 12, 5)), CHAINS["scaffold"]()
    local = hw.Run(algorithm, data, TASK, rounds=2, engine=hw.LocalEngine(group=1))
    list(local)
    for attempt in range(2):
        log = CrashingLog(tmp_path)
        log.crash_at = 0 if attempt else crash
        options = {"expected": frozenset(data.clients), "wait_limit_s": 60.0, "group": 1, "relays": ("west",)}
        network = Network.of(algorithm, TASK, Spool(tmp_path / "spool"), log, 2, **options)
        relay = RelayThread(network.url, tmp_path / "relay", "west", clients=2)
        agents = [AgentThread(relay.url, data, client, tmp_path, task=TASK) for client in data.clients[:2]]
        agents.append(AgentThread(network.url, data, data.clients[2], tmp_path, task=TASK))
        folder = tmp_path / "run"
        run = hw.Run(
            algorithm,
            data,
            TASK,
            rounds=2,
            engine=network.engine,
            folder=folder,
            resume=attempt > 0,
            checkpoint_every=1,
        )
        try:
            crash_or_end(run, attempt)
        finally:
            leave(network, relay, agents, finished=attempt > 0)
    assert torch.equal(run.state.params, local.state.params)
    counted = [event for _, event in EventLog(tmp_path).after(0) if event.kind == "arrived"]
    assert sorted((event.round, event.client) for event in counted) == [
        (round_, client) for round_ in range(2) for client in data.clients
    ]
    behind = {(event.client, event.more.get("relay")) for event in counted}
    assert behind == {(data.clients[0], "west"), (data.clients[1], "west"), (data.clients[2], None)}


def summed(assignment, clients, weight=3.0, count=None, reported=None):
    """The bytes of a relay's reply."""
    total = ExactTotal()
    for _ in range(len(clients) if count is None else count):
        total.add(Update.of(torch.full((15,), 0.1, dtype=torch.float64) * weight, weight))
    reports = Reports(clients if reported is None else reported, "counted", 3, metrics={"train_loss": 0.5})
    return encode_reply(SumReply(total, reports), Binding(assignment.round, assignment.attempt, assignment.ask))


FORGED = {
    "more weight than examples": ({"weight": 4.0}, "above its clients' 6 examples"),
    "a client that was not asked": ({"reported": ("client-0", "client-4")}, "'client-4', which was not asked through"),
    "more updates than clients": ({"count": 3}, "a sum of 3 updates has reports on 2"),
    "a weight that is none": ({"weight": -1.0}, "the weight of its sum is -2"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_sum_that_cannot_be_one_is_refused_for_all_its_clients(tmp_path, name):
    changes, reason = FORGED[name]
    algorithm = CHAINS["fedavg"]()
    expected = frozenset(("client-0", "client-1", "client-2"))
    network = network_of(tmp_path, algorithm, 1, expected=expected)
    direct = AgentThread(network.url, DATA, "client-2", tmp_path, task=TASK)
    data = blobs((7, 12, 5))
    run = hw.Run(algorithm, data, TASK, rounds=1, engine=network.engine)
    reports, receipts = [], []

    def relay():
        with RawClient(network.url, "relay") as raw:
            members = tuple(
                {"client": f"client-{place}", "data": {"train": 3, "input_shape": (4,), "classes": ("0", "1", "2")}}
                for place in range(2)
            )
            assert raw.join(6, members=members).status == 200
            assignment = raw.assignment()
            receipts.append(raw.send(assignment, summed(assignment, ("client-0", "client-1"), **changes)).body.decode())
            raw.post(api.LEAVE, b"{}")

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    try:
        reports = [next(iter(run))]
    finally:
        network.assignments.set_state("finished")
        thread.join(60)
        direct.join()
        network.close()
    assert reason in receipts[0]
    rows = {row.client: row for row in reports[0].clients}
    assert [rows[f"client-{place}"].status for place in range(3)] == ["rejected", "rejected", "counted"]
    assert reason in rows["client-0"].reason
