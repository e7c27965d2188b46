"""A server's engine with clients in threads of this process, for tests."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from processes import until
from raw_client import RawClient

import headway as hw
from headway.client.client_algorithm import ClientAlgorithm
from headway.client.remote_client import RemoteClient
from headway.federation import http_api as api
from headway.federation.serving.assignments import Assignments, MembersChanged
from headway.federation.serving.http_server import HttpServer
from headway.federation.serving.job_desk import JobDesk
from headway.federation.serving.members import Members
from headway.federation.serving.network_engine import NetworkEngine, NetworkOptions
from headway.federation.serving.request_channel import RequestChannel
from headway.federation.serving.server_setup import describe_job
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key
from headway.protocol.wire_messages import decode_request, encode_request

FINGERPRINT = {"fingerprint": "of client-data"}


class TrustingAdmission:
    """Takes the name in the header."""

    def authenticate(self, method, path, headers, body_sha256, peer_certificate):
        return headers[api.NODE]


@dataclass
class Network:
    """A server for one job, on loopback."""

    members: Members
    assignments: Assignments
    server: HttpServer
    engine: NetworkEngine
    url: str = ""
    agents: list[threading.Thread] = field(default_factory=list)
    remotes: dict[str, RemoteClient] = field(default_factory=dict)
    pending: dict[str, tuple[int, int]] = field(default_factory=dict)
    failures: list[BaseException] = field(default_factory=list)
    connect: Callable[[str, str], RawClient] = RawClient  # of a URL and a client's name

    @classmethod
    def of(
        cls,
        algorithm,
        task,
        spool,
        log,
        rounds,
        seed=0,
        lease_s=120.0,
        before=None,
        access=None,
        relays=(),
        randomness="derived",
        population=0,
        client_metrics="off",
        **options,
    ) -> Network:
        """A server; access: its admission, TLS settings and further routes, by default none of them."""
        assignments = Assignments()
        members = Members(lease_s, on_change=lambda: assignments.events.put(MembersChanged()))
        channel = RequestChannel(members, assignments, spool)
        engine = NetworkEngine(channel, log, NetworkOptions(**options))
        desk = JobDesk(members, assignments, verdict=engine.verdict, relays=relays)
        job = {"seed": seed, "randomness": randomness, "population": population, "client_metrics": client_metrics}
        job["poll_s"] = api.POLL_S
        desk.offer(describe_job("job", "test", algorithm, task, rounds, **job))
        assignments.set_state("running")
        admission, context, routes = access or (TrustingAdmission(), None, [])
        server = HttpServer(desk, members, assignments, spool, admission, routes)
        server.start("127.0.0.1", 0, context)
        made = cls(members, assignments, server, engine)
        if before is not None:
            made.remotes, made.pending = before.remotes, before.pending
        made.url = "{}://{}:{}".format("https" if context else "http", *server.address)
        return made

    def join(self, algorithm, task, data: hw.FederatedData, clients: Iterable[str], seed=0, gate=None) -> None:
        """Adds clients, each in a thread; gate: a context around each answer, made of (client, assignment)."""
        for client in clients:
            thread = threading.Thread(
                target=self._serve, args=(client, algorithm, task, data, seed, gate), name=client, daemon=True
            )
            thread.start()
            self.agents.append(thread)

    def _serve(self, client, algorithm, task, data, seed, gate: Callable | None) -> None:
        try:
            self._answer(client, algorithm, task, data, seed, gate)
        except Exception as error:
            if self.assignments.state == "running":
                self.failures.append(error)
                self.members.leave(client)

    def _answer(self, client, algorithm, task, data, seed, gate) -> None:
        if client not in self.remotes:
            data, key = data.to(task.number), Key.root(seed)
            flows = algorithm.flows(self.engine.facts, population=len(data.clients))
            mine = ClientAlgorithm(algorithm, FlatModule(task, key), flows, key)
            self.remotes[client] = RemoteClient.of(client, mine, data, None, 1 << 30)
        remote = self.remotes[client]
        with self.connect(self.url, client) as raw:
            open_ = (
                api.Pending(round=self.pending[client][0], attempt=self.pending[client][1])
                if client in self.pending
                else None
            )
            assert (
                raw.join(len(data.train[client]), len(data.test[client]), data=FINGERPRINT, pending=open_).status == 200
            )
            settled: list[tuple[int, int]] = []
            while True:
                work = raw.work(5.0, settled=tuple(settled))
                settled = []
                for verdict in work.verdicts:
                    tag = (verdict.round, verdict.attempt)
                    remote.participant.memory.settle(tag, [client] if verdict.counted else [])
                    settled.append(tag)
                    self.pending.pop(client, None)
                if work.state not in ("waiting", "running"):
                    return
                if work.assignment is None:
                    continue
                with contextlib.nullcontext() if gate is None else gate(client, work.assignment):
                    reply = remote.serve(whole_request(raw, work.assignment))
                    if work.assignment.kind == "train":
                        self.pending[client] = (work.assignment.round, work.assignment.attempt)
                    deliver(raw, work.assignment, reply)

    def close(self, state="finished") -> None:
        self.assignments.set_state(state)
        self.server.stop()
        for agent in self.agents:
            agent.join(60)
        self.engine.log.close()
        assert not self.failures, self.failures


class LeaseClock:
    """The clock of a server's members, which only a test moves on: none of them is lost since a thread was slow."""

    def __init__(self, members: Members) -> None:
        self.members, self.now = members, members.clock()
        members.clock = lambda: self.now

    def pass_lease(self, *clients: str) -> None:
        """Lets more than a lease pass; these clients are in contact within it."""
        for _ in range(2):
            self.now += 0.7 * self.members.lease_s
            until(lambda: all(self.members.get(client).contact == self.now for client in clients))


def whole_request(raw: RawClient, assignment: api.Assignment) -> bytes:
    """The request with the client's own tensors."""
    common = raw.message(assignment)
    if assignment.private is None:
        return common
    request, binding = decode_request(common, 1 << 30)
    own, _ = decode_request(raw.private(assignment), 1 << 30)
    return encode_request(replace(request, private=own.private), binding.ask)


def deliver(raw: RawClient, assignment: api.Assignment, reply: bytes) -> None:
    """Uploads what the server does not have of a reply, and ends the upload; where the reply is not wanted any more, or
    no run takes it now, that is all."""
    answer = raw.call("HEAD", api.REPLY.format(assignment=assignment.assignment))
    if answer.status == 200:
        there = int(answer.headers[api.OFFSET])
        raw.put(assignment, reply[there:], there)
        answer = raw.complete(assignment, reply)
    assert answer.status in (200, 202, 410, 503), answer
