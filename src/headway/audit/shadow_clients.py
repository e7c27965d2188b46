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
    Train,
    UpdateReply,
)
from headway.protocol.sums import ExactTotal
from headway.protocol.wire_messages import Binding, decode_reply, encode_request
from headway.server.collector import GroupResult

MOST = 1 << 32  # bytes of a message


class ShadowClients:
    """The clients of one round, each reached by bytes, and what the server reads of their replies.

    steps: the number of local steps that the server asks for, where these are not the trainer's own.
    seen: each client's update, decoded; none where the server sees only the sum.  declined: the clients without an
    update, and why.
    """

    def __init__(self, setup: ClientSetup, steps: int | None) -> None:
        self.setup, self.steps = setup, steps
        self.remote: dict[str, RemoteClient] = {}
        self.seen: dict[str, Update] = {}
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
        stopping.check()
        request, setup = ask.request_for(client), self.setup
        if isinstance(request, Train) and self.steps is not None:
            request = replace(request, steps=self.steps)
        if client not in self.remote:
            self.remote[client] = RemoteClient.of(client, setup.client_algorithm, setup.job.data, None, MOST)
        data = self.remote[client].serve(encode_request(request, ask.number))
        return decode_reply(
            data, Binding(request.round, request.attempt, ask.number), MOST, setup.guard.bits, setup.guard.lengths
        )

    def _train(self, ask: Ask) -> Answer:
        result, counted = GroupResult(), []
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
            counted.append(client)
            if self.setup.flows[-1].server_sees == "each":
                self.seen[client] = self._decoded(reply.update, ask)
        total = ExactTotal()
        total.add_group(result.group)
        reports = self.setup.collector.reports_of(counted, (0.0, 0, 0), 0, 0, 0.0, 0.0, 0.0)
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
