"""The requests that take simulated time: training, the measuring of losses, and the exchanges of a protocol."""

from __future__ import annotations

import math
from dataclasses import replace

from headway.client_state.store import TRAINER
from headway.engines.local_clients import REPLY
from headway.engines.planned_engine import PlannedEngine
from headway.engines.virtual_clock.simulated_clients import SimulatedClients
from headway.engines.virtual_clock.simulated_time import VirtualClock
from headway.numerics.keys import Key
from headway.protocol import wire
from headway.protocol.exchange_bytes import bytes_to
from headway.protocol.messages import Answer, Ask, Exchange, Train
from headway.protocol.reports import Reports
from headway.protocol.round_pool import Ticket
from headway.server.coordinator import Coordinator


class TimedRequests:
    """Requests to simulated clients; only the work that counts is done, by the engine inside.

    coordinator: of the server.  clock: by which the clients answer.
    """

    def __init__(self, inner: PlannedEngine, coordinator: Coordinator, simulated: SimulatedClients, key: Key) -> None:
        self.inner, self.coordinator, self.simulated, self.key = inner, coordinator, simulated, key
        self.clock = VirtualClock(coordinator.pool, simulated, key, self.duration)
        self._up: int | None = None
        self._trained = -1  # the round that has trained last

    def train(self, ask: Ask) -> Answer:
        """The updates of the clients that count by the quorum, each trained on the model that it was asked with."""
        coordinator, clock = self.coordinator, self.clock
        self._trained = ask.round
        quorum = coordinator.pool.quorum
        reserve = clock.reserve(self.inner.clients(), ask) if quorum.replace else ()
        clock.send(coordinator.begin(ask, clock.now, reserve))
        clock.run_round()
        counting, closed = coordinator.close(ask)
        if quorum.late == "drop":
            clock.drop_late()
        return coordinator.answer(self.inner.ask(counting), closed, len(self.simulated.sizes))

    def measure(self, ask: Ask) -> Answer:
        """The losses of the clients that neither crash nor leave.

        All are waited for, at most until the quorum's deadline; clients at work on an earlier ask go on meanwhile.
        """
        clock, simulated, down, up = self.clock, self.simulated, wire.size(ask.message.tensors()), wire.size(REPLY)
        begun, last = clock.now, self._last()

        def key_of(client: str) -> Key:
            return self.key.derive("measure", client, ask.round, ask.attempt)

        forward = {  # which takes a third of training on the examples
            client: simulated.device(client).seconds(simulated.sizes[client] / 3, down, up) for client in ask.cohort
        }
        answered, silent, until = simulated.in_time(forward, begun, last, key_of)
        answer = self.inner.ask(replace(ask, cohort=tuple(answered)))
        reports = Reports.joined([answer.reports, Reports(list(silent), "dropped", bytes_down=down)])
        clock.pass_time(until)
        return replace(answer, reports=reports, clock={"measured_s": until - begun})

    def exchange(self, ask: Ask) -> Answer:
        """The replies to an exchange of a protocol that come in time: each takes as long as its bytes down and up.

        Every exchange has the quorum's deadline for itself; a client may crash or leave in each.
        """
        assert isinstance(ask.request, Exchange)
        clock, name = self.clock, ask.request.name
        begun, last = clock.now, self._last()

        def key_of(client: str) -> Key:
            return self.key.derive("exchange", name, client, ask.round, ask.attempt)

        answer = self.inner.ask(ask)
        durations = {
            client: self.simulated.device(client).seconds(0, bytes_to(ask, client), wire.size(reply))
            for client, reply in answer.replies.items()
        }
        answered, silent, until = self.simulated.in_time(durations, begun, last, key_of)
        clock.pass_time(until)
        replies = {client: answer.replies[client] for client in answered}
        reasons = [f"it took no part in the exchange {name!r}, since {why}" for why in silent.values()]
        lost = Reports(list(silent), "dropped", reasons=reasons) if silent else Reports()
        notes = [f"{client} was lost in the exchange {name!r}: {why}." for client, why in list(silent.items())[:3]]
        return replace(
            answer,
            replies=replies,
            reports=lost if self._trained < ask.round else Reports(),  # after training there is a report on each
            clock={f"{name}_s": until - begun},
            notes=[*answer.notes, *notes],
        )

    def _last(self) -> float:
        """When the replies to a request that is made now are waited for no longer."""
        quorum = self.coordinator.pool.quorum
        return self.clock.now + min(math.inf if quorum.deadline_s is None else quorum.deadline_s, quorum.lost_after_s)

    def duration(self, ticket: Ticket, begin: float) -> float:
        """The seconds that a client works on an ask; its number of steps is limited where the deadline decides it."""
        client, clients = ticket.client, self.inner.execution.setup.client_algorithm
        device, size = self.simulated.device(client), self.simulated.sizes[client]
        key, down, up = (
            clients.client_key(client, ticket.round).derive(TRAINER),
            self.coordinator.bytes_down,
            self._bytes_up(ticket),
        )
        whole = device.seconds(clients.trainer.examples_used(size, key), down, up)
        work, left = self.coordinator.pool.quorum.work, self.coordinator.pool.deadline - begin
        if work == "whole" or (work == "partial" and whole <= left):
            return whole
        steps, examples = clients.trainer.steps_within(size, device.examples_within(left, down, up))
        if not steps:
            return whole  # and is late
        self.coordinator.limit_steps(ticket, steps)
        return min(device.seconds(examples, down, up), left)

    def _bytes_up(self, ticket: Ticket) -> int:
        """The bytes that a client sends; updates of one chain and model are all of one size."""
        if self._up is None:
            request = Train(self.coordinator.message_for(ticket), ticket.round)
            self._up = self.inner.execution.bytes_up(Ask(request, (ticket.client,)))
        return self._up
