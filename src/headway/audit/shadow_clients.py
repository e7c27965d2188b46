"""The clients of a shadow round."""

from __future__ import annotations

from dataclasses import replace

from headway.client.remote_client import RemoteClient
from headway.core import stopping
from headway.core.context import ServerContext
from headway.core.errors import ConfigError, UpdateRejected
from headway.core.update import Tensors, Update
from headway.engines.executors.client_setup import ClientSetup
from headway.protocol.messages import (
    Answer,
    Ask,
    Declined,
    ExchangeReply,
    Reply,
    Request,
    Settle,
    Train,
    UpdateReply,
)
from headway.protocol.sums import ExactTotal
from headway.protocol.wire_messages import Binding, decode_reply, encode_request
from headway.server.collector import GroupResult

MOST = 1 << 32  # bytes of a message


class ShadowClients:
    """The clients of one round, each reached by bytes, and what the server reads of their replies.

    remote: the clients that were made before, by name; those that are made now are added.
    steps: the number of local steps that the server asks for, where these are not the trainer's own.
    seen: each client's update, decoded; none where the server sees only the sum.  counted, declined: the clients in
    the sum, and those without an update, and why.
    """

    def __init__(self, setup: ClientSetup, remote: dict[str, RemoteClient], steps: int | None) -> None:
        self.setup, self.remote, self.steps = setup, remote, steps
        self.asked: set[str] = set()
        self.seen: dict[str, Update] = {}
        self.counted: list[str] = []
        self.round = 0
        self.declined: dict[str, str] = {}

    def answer(self, ask: Ask) -> Answer:
        """The answer of the clients to one request of the round."""
        if isinstance(ask.request, Train):
            return self._train(ask)
        replies: dict[str, Tensors] = {}
        for client in sorted(ask.cohort):
            reply = self._reply(ask, client)
            if not isinstance(reply, ExchangeReply):
                raise ConfigError(f"client {client!r} answered an exchange with {type(reply).__name__}.")
            replies[client] = reply.tensors
        return Answer(replies=replies)

    def _reply(self, ask: Ask, client: str) -> Reply:
        request = ask.request_for(client)
        if isinstance(request, Train) and self.steps is not None:
            request = replace(request, steps=self.steps)
        return self._reply_to(request, client, ask.number)

    def forget(self) -> None:
        """Has the clients forget the round: no memory is kept, and no secret."""
        for client in sorted(self.asked):
            self._reply_to(Settle(round=self.round, counted=False), client, 0)

    def _reply_to(self, request: Request, client: str, number: int) -> Reply:
        stopping.check()
        setup, self.round = self.setup, request.round
        self.asked.add(client)
        if client not in self.remote:
            self.remote[client] = RemoteClient.of(client, setup.client_algorithm, setup.job.data, None, MOST)
        data = self.remote[client].serve(encode_request(request, number))
        binding = Binding(request.round, request.attempt, number)
        return decode_reply(data, binding, MOST, setup.guard.bits, setup.guard.lengths)

    def _train(self, ask: Ask) -> Answer:
        result = GroupResult()
        for client in sorted(ask.cohort):
            reply = self._reply(ask, client)
            if not isinstance(reply, UpdateReply):
                self.declined[client] = reply.reason if isinstance(reply, Declined) else "no update"
                continue
            try:
                self.setup.guard.check(reply.update, client, len(self.setup.job.data.train[client]))
                self.setup.collector.count_received(ask, client, reply.update, result)
            except UpdateRejected as refusal:
                self.declined[client] = refusal.reason
                continue
            self.counted.append(client)
            if self.setup.flows[-1].server_sees == "each":
                self.seen[client] = self._decoded(reply.update, ask)
        total = ExactTotal()
        total.add_group(result.group)
        reports = self.setup.collector.reports_of(self.counted, (0.0, 0, 0), 0, 0, 0.0, 0.0, 0.0)
        return Answer(total=total, reports=reports)

    def _decoded(self, update: Update, ask: Ask) -> Update:
        """A single update as the server reads it."""
        setup, message = self.setup, ask.message
        ctx = ServerContext(
            round=ask.round,
            key=setup.job.key.derive("server", ask.round),
            layout=setup.flat_module.layout,
            flow=setup.flows[-1],
            global_params=message.params,
            population=len(setup.job.data.clients),
            asked_params=message.params,
            buffers=message.buffers,
            asked_buffers=message.buffers,
        )
        return setup.job.algorithm.chain.decode(update, ctx, setup.flows)
