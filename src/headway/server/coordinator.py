"""The coordinator: a round's asks, messages and times at the server, without I/O and without a clock.

A driver feeds it events with their times: the virtual clock a simulated one, a server on a network the real one.  Its
decisions (which clients count, which are late or lost) are those of the `RoundPool`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from headway.core.update import flat_names
from headway.protocol import wire
from headway.protocol.messages import Answer, Ask, Message, Version
from headway.protocol.quorum import Quorum
from headway.protocol.reports import ClientReport, Reports
from headway.protocol.round_pool import Arrival, Closed, LostClient, RoundPool, Ticket


class Coordinator:
    """Rounds of one server: `begin` opens one, the pool is fed events until it is done, `close` ends it.

    pool: of the clients in flight.  bytes_down: of the message of the current round.
    """

    def __init__(self, quorum: Quorum) -> None:
        self.pool = RoundPool(quorum)
        self.bytes_down = 0
        self._messages: dict[int, Message] = {}  # of the rounds from which updates may still count
        self._steps: dict[int, int] = {}  # of clients whose time is short, by the number of the ticket
        self._begun = 0.0

    def begin(self, ask: Ask, now: float, reserve: Iterable[str] = ()) -> tuple[Ticket, ...]:
        """Opens the round of an ask: the tickets of the clients to ask.

        reserve: the clients that may be asked instead of one that fails, in this order.
        """
        self._begun, self._messages[ask.round] = now, ask.message
        self.bytes_down = wire.size(ask.message.tensors())
        return self.pool.open(ask.round, ask.cohort, now, reserve)

    def message_for(self, ticket: Ticket) -> Message:
        """The message with which a client was asked."""
        return self._messages[ticket.round]

    def limit_steps(self, ticket: Ticket, steps: int) -> None:
        """Has a client make so many local steps, which fit into its time."""
        self._steps[ticket.number] = steps

    def close(self, ask: Ask) -> tuple[Ask, Closed]:
        """Ends the round: the ask to the clients that count, each with its own message and steps; and the record."""
        closed = self.pool.close()
        versions = {round_: Version(round_, message) for round_, message in self._messages.items()}
        tickets = {arrival.ticket.client: arrival.ticket for arrival in closed.counted}
        earlier = {client: versions[each.round] for client, each in tickets.items() if each.round < closed.round}
        steps = {client: self._steps[each.number] for client, each in tickets.items() if each.number in self._steps}
        counting = replace(ask, cohort=tuple(sorted(tickets)), earlier=earlier, steps=steps)
        rounds, numbers = self.pool.open_rounds, self.pool.open_asks
        self._messages = {round_: message for round_, message in self._messages.items() if round_ in rounds}
        self._steps = {number: count for number, count in self._steps.items() if number in numbers}
        return counting, closed

    def answer(self, answer: Answer, closed: Closed, population: int) -> Answer:
        """The answer of the clients that count, with their times, the losses of the round, and its figures."""
        reports = _timed(answer.reports, closed.counted)
        lost, earlier = _lost(closed.losses, set(reports.clients), self.bytes_down)
        figures = {
            "begun_s": self._begun,
            "ended_s": closed.at,
            "wasted_s": sum(loss.at - loss.ticket.asked for loss in closed.losses),
            "population": float(population),
        }
        return replace(
            answer,
            reports=Reports.joined([reports, lost]).by_client(),
            earlier=earlier,
            clock=figures,
            flying={ticket.client: ticket.asked for ticket in self.pool.flying},
        )

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The pool and the limits of steps in plain values, and the messages of open rounds by name."""
        tensors = {
            f"{round_}/{name}": tensor
            for round_, message in self._messages.items()
            for name, tensor in flat_names(message.params, message.buffers, message.stages, "stages/").items()
        }
        return {"pool": self.pool.to_state(), "steps": sorted(self._steps.items())}, tensors

    def from_state(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Goes on from what `to_state` gave."""
        self.pool.from_state(values["pool"])
        self._steps = dict(values.get("steps", ()))
        named: dict[int, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            round_, name = path.split("/", 1)
            named.setdefault(int(round_), {})[name] = tensor
        self._messages = {round_: Message.from_tensors(each, "stages/") for round_, each in named.items()}


def _timed(reports: Reports, arrivals: Sequence[Arrival]) -> Reports:
    """The reports of the clients that count, with their times."""
    by = {arrival.ticket.client: arrival for arrival in arrivals}
    own = [by[client] for client in reports.clients]
    asked, ended = [each.ticket.asked for each in own], [each.at for each in own]
    return reports.adding({"asked_s": asked, "ended_s": ended, "age": [float(each.age) for each in own]})


def _lost(losses: Sequence[LostClient], reported: set[str], down: int) -> tuple[Reports, Reports]:
    """A report on the last loss of each client that has no other report, and one on each earlier loss."""
    last = {loss.ticket.client: loss.ticket.number for loss in losses if loss.ticket.client not in reported}
    lost, earlier = list[ClientReport](), list[ClientReport]()
    for loss in losses:
        client, times = loss.ticket.client, {"asked_s": loss.ticket.asked, "ended_s": loss.at}
        report = ClientReport(client, "dropped", bytes_down=down, reason=loss.reason, metrics=times)
        (lost if last.get(client) == loss.ticket.number else earlier).append(report)
    return Reports.of(lost), Reports.of(earlier)
