"""Secure sums between real agents with certificates: the weights of a simulation, and nothing of single clients."""

import pytest
import torch
from agent_threads import AgentThread
from secured import Secured
from toys import blobs, linear_task

import headway as hw
from headway.federation import http_api as api
from headway.federation.agent.agent_store import AgentStore
from headway.federation.agent.answering import Answering
from headway.federation.identity.authority import Authority
from headway.federation.spool.event_log import EventLog
from headway.protocol.messages import Ask, Evaluate, Measure, Message
from headway.protocol.wire_messages import read_request

DATA, TASK = blobs((7, 12, 5, 9)), linear_task(dtype="float64")
TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2)


def algorithm(mode="real", **quorum):
    chain = hw.chain(
        hw.Clip(1.0), hw.Quantize(16), hw.SecureSum(min_cohort=3, min_survivors=3, mode=mode), hw.Mean("clients")
    )
    return hw.Algorithm(chain, TRAINER, hw.All(), hw.Quorum(**quorum))


def simulated(rounds, mode="ideal"):
    run = hw.Run(algorithm(mode), DATA, TASK, rounds=rounds, evaluate_every=None)
    list(run)
    return run.state.params


class Served:
    """A server and its run, with an agent for each client."""

    def __init__(self, tmp_path, rounds, clients=DATA.clients, made=None, **options):
        self.folder, self.made, self.rounds = tmp_path, made or algorithm(), rounds
        self.secured = Secured(tmp_path, DATA.clients)
        self.context = self.secured.network(
            self.made, TASK, rounds, expected=frozenset(clients), population=len(DATA.clients), **options
        )
        self.clients = clients

    def agent(self, client, **options):
        own = {"identity": self.secured.identity(client), **options}
        return AgentThread(self.network.url, DATA, client, self.folder / "states", TASK, **own)

    def __enter__(self):
        self.network = self.context.__enter__()
        self.agents = {client: self.agent(client) for client in self.clients}
        self.run = hw.Run(self.made, DATA, TASK, rounds=self.rounds, engine=self.network.engine, evaluate_every=None)
        return self

    def __exit__(self, *failure):
        self.network.assignments.set_state("finished")
        for agent in self.agents.values():
            agent.agent.stop()
            agent.thread.join(60)  # so that no connection is open when the server ends
        self.run.close()
        self.context.__exit__(*failure)


def test_the_weights_are_those_of_a_simulation(tmp_path):
    with Served(tmp_path, 2) as served:
        reports = list(served.run)
        served.network.assignments.set_state("finished")
        assert [agent.join() for agent in served.agents.values()] == ["finished"] * 4
    assert torch.equal(served.run.state.params, simulated(2))
    assert torch.equal(simulated(2, "real"), simulated(2))
    assert [report.count("counted") for report in reports] == [4, 4]
    assert not any(report.notes for report in reports)
    for row in (row for report in reports for row in report.clients):
        assert (row.examples, row.steps, row.norm, dict(row.metrics)) == (0, 0, None, {}) or not set(row.metrics) & {
            "train_loss",
            "weight",
        }


def test_masks_and_rounding_are_drawn_by_the_operating_system(tmp_path):
    """The same run twice: other masks and other rounding, the same model up to the step of the quantiser."""
    found = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Served(folder, 1, randomness="system") as served:
            list(served.run)
            log = EventLog(folder)
            digests = {(e.kind, e.client): e.digest for e in log.events(0) if e.kind in ("arrived", "replied")}
            log.close()
            found.append((served.run.state.params, digests))
    (one, first), (other, second) = found
    assert first.keys() == second.keys()
    assert not {*first.values()} & {*second.values()}
    assert torch.allclose(one, other, atol=1e-3)
    assert not torch.equal(one, other)


def test_nothing_of_a_single_client_is_sent_whatever_the_server_asks(tmp_path):
    with Served(tmp_path, 1) as served:
        list(served.run)
        engine, state = served.network.engine, served.run.state
        for request in (Evaluate, Measure):
            answer = engine.ask(Ask(request(Message(state.params), state.round), DATA.clients))
            assert not len(answer.reports)
        for row in served.network.members.snapshot():
            assert (row["train"], row["test"]) == (0, 0)
        facts = served.network.members.facts()
        assert all((own.train, own.fingerprint, own.hidden) == (1, "", True) for own in facts.values())


def test_metrics_of_clients_are_sent_where_the_job_lists_them_as_a_release(tmp_path):
    with Served(tmp_path, 1, client_metrics="released") as served:
        list(served.run)
        message = Message(served.run.state.params)
        answer = served.network.engine.ask(Ask(Evaluate(message, 1), DATA.clients))
        assert len(answer.reports) == 4


def test_the_secret_of_a_settled_round_is_gone(tmp_path):
    with Served(tmp_path, 1) as served:
        list(served.run)
        served.network.assignments.set_state("finished")
        assert [agent.join() for agent in served.agents.values()] == ["finished"] * 4
        job = served.network.assignments.job
    for client in DATA.clients:
        store = AgentStore(tmp_path / "states" / client)
        assert store.exchanges.secret(job, (0, 0)) == {}
        store.close()


def test_a_client_whose_certificate_is_of_another_authority_gets_no_shares(tmp_path, monkeypatch):
    """A server that puts a client of its own among the others, with a certificate that it has made itself."""
    with Authority.create(tmp_path / "another") as other:
        forged = other.issue(DATA.clients[0], tmp_path / "forged").certificate
    with Served(tmp_path, 1, wait_limit_s=120.0) as served:
        true = served.network.members.certificates

        def certificates(after, most):
            held, more = true(after, most)
            return {**held, **({DATA.clients[0]: forged} if DATA.clients[0] in held else {})}, more

        monkeypatch.setattr(served.network.members, "certificates", certificates)
        (report,) = list(served.run)
    assert report.count("counted") == 0
    assert torch.equal(served.run.state.params, hw.Run(algorithm(), DATA, TASK, rounds=1).state.params)
    assert any("no secure sum" in note for note in report.notes)


@pytest.mark.parametrize("phase", ["advertise", "share", "train", "confirm", "unmask"])
def test_a_client_that_is_lost_in_a_phase(tmp_path, monkeypatch, phase):
    """The sum is that of the clients whose masked update came; one that is lost later is in it."""
    gone, true = DATA.clients[1], Answering.answer

    def answer(self, assignment, message, *rest):
        name = "train" if assignment.kind == "train" else read_request(message, 1 << 30)[0].name
        if self.participant.client == gone and name == phase:
            served.network.members.leave(gone)
            raise Lost
        return true(self, assignment, message, *rest)

    monkeypatch.setattr(Answering, "answer", answer)
    monkeypatch.setattr(api, "HEARTBEAT_S", 3600.0)  # with which a client that has left would join again
    with Served(tmp_path, 1, wait_limit_s=120.0) as served:
        (report,) = list(served.run)
    in_sum = [client for client in DATA.clients if client != gone or phase in ("confirm", "unmask")]
    assert sorted(report.clients.with_status("counted").clients) == in_sum
    assert torch.equal(served.run.state.params, of_clients(in_sum))
    assert any(gone in note for note in report.notes) == (phase != "train")
    assert [row.status for row in report.clients if row.client == gone] == ["counted" if gone in in_sum else "dropped"]


def of_clients(names):
    """The weights after a round of these clients alone, in a simulation of all of them."""
    train = {client: DATA.train[client] for client in names}
    test = {client: DATA.test[client] for client in names}
    part = hw.FederatedData(DATA.name, DATA.store, train, test, classes=DATA.classes)
    chain = hw.chain(
        hw.Clip(1.0), hw.Quantize(16), hw.SecureSum(min_cohort=3, min_survivors=3, mode="ideal"), hw.Mean("clients")
    )
    run = hw.Run(hw.Algorithm(chain, TRAINER, hw.All()), part, TASK, rounds=1, evaluate_every=None)
    list(run)
    return run.state.params


class Lost(Exception):
    """The end of an agent."""
