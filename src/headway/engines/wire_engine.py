"""The wire engine: each client is a participant of its own that is reached by bytes alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import final

from headway.client.remote_client import RemoteClient
from headway.core import stopping
from headway.core.errors import ConfigError, UpdateRejected
from headway.core.flow import EngineFacts
from headway.core.update import Tensors, Update
from headway.engines.engine import Engine, Job
from headway.engines.executors.client_setup import ClientSetup
from headway.engines.grouping import groups_of
from headway.protocol import wire
from headway.protocol.messages import (
    Answer,
    Ask,
    Declined,
    Evaluate,
    ExchangeReply,
    Measure,
    Reply,
    Request,
    Scores,
    Settle,
    Train,
    UpdateReply,
)
from headway.protocol.reports import Reports, columns_of
from headway.protocol.sums import ExactTotal
from headway.protocol.wire_messages import Binding, decode_reply, encode_request
from headway.server.collector import GroupResult, answered
from headway.server.group_summer import numbers_of

MOST = 1 << 32  # bytes of a message


@final
class WireEngine(Engine):
    """Every request and reply goes through `protocol.wire` as bytes, as over a network, with the bits of Local.

    Each client has a memory store of its own, which no other client sees.  It is slow, and there for tests and for
    those who write an engine.  It measures no drift, and metrics over the examples of all clients together are left
    out, since outputs do not leave a client.
    """

    @property
    def facts(self) -> EngineFacts:
        """Keeps memory; every client answers at once."""
        return EngineFacts("Wire")

    @property
    def keeps_memory(self) -> bool:
        """Whether clients keep something between rounds."""
        return bool(self.setup.client_algorithm.first_memory())

    def open(self, job: Job) -> None:
        """Makes ready; clients are made when they are first asked."""
        self.job, self.population = job, job.data.clients
        flows = job.algorithm.flows(self.facts, population=len(self.population))
        self.setup = ClientSetup.of(job, flows, False, self.site, False)
        self.remote: dict[str, RemoteClient] = {}
        self.trained: dict[str, Request] = {}  # requests to train whose round is not settled

    def clients(self) -> Sequence[str]:
        """The population."""
        return self.population

    def ask(self, ask: Ask) -> Answer:
        """Sends the request to each client of the cohort and collects the replies."""
        match ask.request:
            case Train():
                return self._train(ask)
            case Evaluate() | Measure():
                return self._scores(ask)
            case Settle():
                return self._settle(ask)
        replies: dict[str, Tensors] = {}
        for client in sorted(ask.cohort):
            reply = self._exchange(client, ask.request_for(client), ask.number)[0]
            if not isinstance(reply, ExchangeReply):
                raise ConfigError(f"client {client!r} answered an exchange with {type(reply).__name__}.")
            replies[client] = reply.tensors
        return Answer(replies=replies)

    def close(self) -> None:
        """Nothing is held open."""

    def _exchange(self, client: str, request: Request, number: int) -> tuple[Reply, int]:
        """A client's reply, and how many bytes it had."""
        stopping.check()
        data = self._client(client).serve(encode_request(request, number))
        binding, guard = Binding(request.round, request.attempt, number), self.setup.guard
        return decode_reply(data, binding, MOST, guard.bits, guard.lengths), len(data)

    def _client(self, client: str) -> RemoteClient:
        """The other side, with the memory that the client has in the run's store."""
        if client not in self.remote:
            kept = self.job.memory.get(client)
            self.remote[client] = RemoteClient.of(client, self.setup.client_algorithm, self.setup.job.data, kept, MOST)
        return self.remote[client]

    def _train(self, ask: Ask) -> Answer:
        total, parts, down = ExactTotal(), list[Reports](), wire.size(ask.message.tensors())
        meter = self.setup.meter(ask)
        for members in groups_of(ask.cohort, self.job.data.train):
            result = GroupResult(meter=meter)
            for client in members:
                begun, self.trained[client] = time.perf_counter(), ask.request_for(client)
                reply, _ = self._exchange(client, self.trained[client], ask.number)
                parts.append(self._report(ask, client, reply, (time.perf_counter() - begun, down), result))
            total.add_group(result.group)
        return answered(total, parts, meter)

    def _report(self, ask: Ask, client: str, reply: Reply, cost: tuple[float, int], result: GroupResult) -> Reports:
        """The report on a client, whose update is summed if the guard accepts it.

        cost: the seconds that it took, and the bytes that the client received.
        """
        seconds, down = cost
        if isinstance(reply, Declined):
            return Reports([client], reply.status, bytes_down=down, reasons=reply.reason)
        assert isinstance(reply, UpdateReply)
        update = reply.update
        try:
            norm = self.setup.guard.check(update, client, len(self.job.data.train[client]))
            self.setup.collector.count_received(ask, client, update, result)
        except UpdateRejected as refusal:
            return Reports([client], "rejected", seconds=seconds, bytes_down=down, reasons=refusal.reason)
        numbers = numbers_of(reply.figures, norm, float(update.weight))
        return self.setup.collector.reports_of([client], (seconds, self._bytes(update), down), *numbers)

    def _scores(self, ask: Ask) -> Answer:
        """Metrics of each client that has some, as it reports them."""
        found = dict[str, Scores]()
        for client in ask.cohort:
            reply, _ = self._exchange(client, ask.request_for(client), ask.number)
            if isinstance(reply, Scores) and reply.examples:
                found[client] = reply
        examples = [score.examples for score in found.values()] if isinstance(ask.request, Evaluate) else 0
        metrics = columns_of([score.metrics for score in found.values()])
        return Answer(reports=Reports(found, "counted", examples, metrics=metrics))

    def _settle(self, ask: Ask) -> Answer:
        """The verdict to each client that trained; the run's store, which is saved, follows the clients' own."""
        tag, counted = (ask.round, ask.attempt), set(ask.cohort)
        for client, request in self.trained.items():
            verdict = Settle(round=request.round, attempt=request.attempt, counted=client in counted)
            self._exchange(client, verdict, ask.number)
            if client in counted and (kept := self._client(client).memory) is not None:
                self.job.memory.propose(client, tag, kept)
        self.trained.clear()
        self.job.memory.settle(tag, ask.cohort)
        return Answer()

    def _bytes(self, update: Update) -> int:
        return wire.size(wire.of_update(update, self.setup.guard.bits))
