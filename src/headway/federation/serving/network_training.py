"""Rounds of training over a network: a loop that feeds the coordinator with what happens at clients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headway.core import fault_points
from headway.core.errors import UpdateRejected
from headway.federation.http_api import RoundVerdict
from headway.federation.serving.assignments import Event, MembersChanged, ReplyArrived
from headway.federation.serving.joined_clients import Sizes, reported_sizes, take_in
from headway.federation.serving.request_channel import TURN_S, RequestChannel
from headway.federation.serving.round_sum import RoundSum, SumOptions
from headway.federation.serving.server_setup import ServerSetup
from headway.federation.serving.training_round import (
    ReplyReader,
    TrainingRounds,
    refused_reports,
)
from headway.federation.spool.round_event import RoundEvent
from headway.protocol.messages import Answer, Ask, Declined, SumReply, Train, UpdateReply
from headway.protocol.reports import ClientReport
from headway.protocol.round_pool import Ticket
from headway.protocol.total_frames import largest_sum


@dataclass(frozen=True, slots=True)
class Progress:
    """What a server does now, for its status.

    phase: "waiting for clients", "training", "evaluating", "between rounds".  since, deadline: by the run's clock.
    waiting_for: the clients whose replies are open, or a phrase about the clients that are missing.
    """

    phase: str = "between rounds"
    round: int = 0
    since: float = 0.0
    waiting_for: tuple[str, ...] = ()
    deadline: float = math.inf
    note: str = ""


class NetworkTraining:
    """Carries out requests to train.

    show: is given the progress.  summing: how a round is summed.
    """

    def __init__(
        self,
        setup: ServerSetup,
        channel: RequestChannel,
        rounds: TrainingRounds,
        show: Callable[[Progress], None],
        summing: SumOptions | None = None,
    ) -> None:
        self.setup, self.channel, self.rounds, self.show = setup, channel, rounds, show
        self.coordinator = rounds.coordinator
        self.reader = ReplyReader(setup, channel.files.path)
        self.sum = RoundSum(setup, self.reader, summing or SumOptions())
        self._asks: dict[int, Ask] = {}  # by round, of tickets in flight
        self._sent: dict[int, str] = {}  # the assignment of each ticket that was sent, by its number
        self._sent_to: dict[int, str] = {}  # and the node that it was sent to: the client, or its relay
        self._notes: list[str] = []
        self._begun = 0.0  # when the round began
        self._shown = -math.inf  # when the progress was shown last

    # a round --------------------------------------------------------------------------------------------

    def train(self, ask: Ask) -> Answer:
        """The answer of the clients that count by the quorum."""
        channel, pool = self.channel, self.coordinator.pool
        sent = channel.encode(ask)
        self._asks[ask.round] = ask
        self._begun = begun = max(channel.clock.now(), pool.now)
        if self.rounds.begin(ask, begun, self._reserve(ask), sent):
            channel.clock.set(pool.now)
            self._notes.append(
                f"the server was restarted in this round; {len(pool.open_asks) - len(pool.flying)} updates were there."
            )
            self._complete_sums(ask)
        self.sum.begin(ask, pool.quorum, self.rounds.record, lambda client: pool.ticket_of(client) is not None)
        for ticket in pool.accepted:
            if ticket.number not in self.rounds.record.summed:
                self.sum.accepted(ticket)
        unsent = True
        while not pool.done and not self.rounds.was_closed:
            if unsent:
                self._send_all()
            unsent = self._turn(ask)
        channel.assignments.begin()  # where a restart found the round complete, nothing was sent
        counting, closed = self.rounds.close(ask)
        self._withdraw()
        measure = pool.quorum.late == "drop" and not self.rounds.record.summed
        if self.rounds.record.summed and self.setup.measure:
            self._notes.append("drift is not measured, since the updates behind a relay are seen as their sum only.")
        summed = self.sum.answer(counting, self.rounds.record.counted, measure)
        fault_points.at("after updates are summed")
        answer = self.coordinator.answer(summed, closed, self.setup.job.population)
        record = self.rounds.record
        refused = {loss.ticket.client: loss.reason for loss in closed.losses if loss.ticket.number in record.refused}
        notes, self._notes = self._notes, []
        return replace(refused_reports(answer, refused), notes=(*answer.notes, *notes))

    def verdicts(self, counted: Sequence[str]) -> dict[str, RoundVerdict]:
        """The verdicts on the requests that ended with the last round; counted: the clients that were counted."""
        record, mine, found = self.rounds.record, set(counted), dict[str, RoundVerdict]()
        for client, (ticket, reason) in record.lost.items():
            found[client] = RoundVerdict(
                round=ticket.round, attempt=self.rounds.attempt(ticket.round), counted=False, reason=reason[:2000]
            )
        for client, ticket in record.counted.items():
            is_counted = client in mine
            reason = "" if is_counted else "the round was skipped"
            found[client] = RoundVerdict(
                round=ticket.round, attempt=self.rounds.attempt(ticket.round), counted=is_counted, reason=reason
            )
            if is_counted:
                self.channel.members.count(client, "counted")
        self.rounds.forget()
        self._asks = {round_: ask for round_, ask in self._asks.items() if round_ in self.coordinator.pool.open_rounds}
        return found

    def take_in(self, recorded: Sizes | None = None) -> dict[str, Sequence[Any]]:
        """Takes in the sizes of the data of clients that have joined or changed theirs; those, in plain values.

        recorded: what was taken in before a restart, instead of what clients report now.
        """
        reported = reported_sizes(self.channel.members.facts()) if recorded is None else recorded
        changed, notes = take_in(self.setup, reported)
        self._notes += notes
        return {client: reported[client] for client in changed}

    def between(self, event: Event | None) -> None:
        """Takes a reply that comes between two rounds, or while another request is open."""
        if isinstance(event, ReplyArrived):
            self._arrived(event)

    # events ---------------------------------------------------------------------------------------------

    def _turn(self, ask: Ask) -> bool:
        """Waits for an event, a deadline, or the next look at the clock, and feeds what has happened; whether there may
        be requests to send after it."""
        channel, pool = self.channel, self.coordinator.pool
        asked = pool.asked
        if channel.clock.now() - self._shown >= TURN_S:
            self._show(ask)
        event = channel.event(pool.due() - channel.clock.now())
        plain = isinstance(event, ReplyArrived) and not event.assignment.clients
        if isinstance(event, ReplyArrived):
            self._arrived(event)
        now = self._now()
        if pool.due() <= now:
            self.rounds.feed(RoundEvent("passed", pool.round, ask.attempt, now))
            self._withdraw()
        if event is None or isinstance(event, MembersChanged):
            self.lose_silent()
        return not plain or pool.asked != asked

    def _show(self, ask: Ask) -> None:
        """Shows the clients that are waited for."""
        pool, self._shown = self.coordinator.pool, self.channel.clock.now()
        self.show(Progress("training", ask.round, self._begun, tuple(sorted(pool.busy)), pool.deadline))

    def lose_silent(self) -> None:
        """Gives up the clients in flight that are gone; one that comes back is not given the same request again."""
        pool = self.coordinator.pool
        gone = self.channel.members.silent(pool.busy)
        for client, why in sorted(gone.items()):
            if (ticket := pool.ticket_of(client)) is not None:
                self._fail(ticket, why)
                self.channel.members.count(client, "lost", why)
        if gone:
            self._withdraw()

    def _arrived(self, arrived: ReplyArrived) -> None:
        """Checks a reply, has it decided about, and answers the client."""
        if arrived.assignment.clients:
            self._sum_arrived(arrived)
            return
        ticket = self._ticket(arrived)
        if ticket is None:
            self.channel.decide(arrived, "late", "the round was over before it arrived")
            return
        sent = self.rounds.record.messages[ticket.round]
        member = self.channel.members.get(arrived.client)
        examples = self.setup.job.train_sizes().get(arrived.client, 0) if member is None else member.data.train
        try:
            ask = self._asks.get(ticket.round) or self._earlier(ticket)
            reply = self.reader.checked(arrived, sent, ask, examples)
        except UpdateRejected as refusal:
            self._fail(ticket, refusal.reason, arrived, refused=True)
            if self.channel.decide(arrived, "refused", refusal.reason):
                self._notes.append(f"client {arrived.client!r} is set aside after repeated refusals: {refusal.reason}.")
            return
        if isinstance(reply, Declined):
            self._fail(ticket, reply.reason, arrived, refused=reply.status == "rejected")
            self.channel.decide(arrived, "answered", reply.reason)
            return
        self._accept(ticket, arrived, reply)

    def _accept(self, ticket: Ticket, arrived: ReplyArrived, reply: UpdateReply) -> None:
        verdict = self._feed_arrival(ticket, arrived.digest, float(reply.update.weight), self._now())
        if verdict == "accepted":
            self.sum.accepted(ticket)
        reasons = {"late": "the round was over before it arrived", "stale": "its model is too old"}
        self.channel.decide(arrived, verdict, reasons.get(verdict, ""))  # type: ignore[arg-type]

    def _feed_arrival(self, ticket: Ticket, digest: str, weight: float, at: float, relay: str = "") -> str:
        """Feeds that an update is on disk; the verdict.  relay: in whose sum it is."""
        number, client = ticket.number, ticket.client
        member, more = self.channel.members.get(client), dict[str, str | int]({"relay": relay} if relay else {})
        if member is not None and not member.data.hidden:
            more |= {"examples": member.data.train, "data": member.data.fingerprint}
        return self.rounds.feed(
            RoundEvent(
                "arrived", ticket.round, self.rounds.attempt(ticket.round), at, number, client, digest, weight, "", more
            )
        )

    def _sum_arrived(self, arrived: ReplyArrived) -> None:
        """Checks the sum of a relay, and has its clients decided about; all that are in the sum count, or none."""
        name = arrived.assignment.assignment
        flying = self.coordinator.pool.flying
        tickets = {ticket.client: ticket for ticket in flying if self._sent.get(ticket.number) == name}
        if not tickets:
            self.channel.decide(arrived, "late", "the round was over before it arrived")
            return
        if (why := self.partial_counts) is not None:
            for ticket in tickets.values():
                self._fail(ticket, why, arrived, refused=True)
            self.channel.decide(arrived, "refused", why)
            return
        examples = {client: facts.train for client, facts in self.channel.members.facts().items()}
        sent = self.rounds.record.messages[next(iter(tickets.values())).round]
        try:
            reply = self.reader.checked_sum(arrived, sent, examples)
        except UpdateRejected as refusal:
            for ticket in tickets.values():
                self._fail(ticket, refusal.reason, arrived, refused=True)
            self.channel.decide(arrived, "refused", refusal.reason)
            return
        rows = {} if isinstance(reply, Declined) else {row.client: row for row in reply.reports}
        counted = [client for client, row in rows.items() if row.status == "counted"]
        whole = tickets.keys() >= set(counted)
        verdicts, at = set(), self._now()  # one time, so that a deadline passes for all of them or for none
        for client in sorted(counted) if whole else ():
            ticket, weight = tickets.pop(client), weight_of(rows[client])
            verdicts.add(self._feed_arrival(ticket, arrived.digest, weight, at, arrived.client))
        for client, ticket in sorted(tickets.items()):
            row = rows.get(client)
            reason = reply.reason if isinstance(reply, Declined) else "its relay has no report on it"
            if row is not None:
                reason = row.reason or "the sum of its relay could not count"
            self._fail(ticket, reason, arrived, refused=row is not None and row.status == "rejected")
        late = not whole or bool(verdicts - {"accepted"})
        reason = "the round was over before it arrived" if late else ""
        self.channel.decide(arrived, "late" if late else "accepted" if counted else "answered", reason)

    @property
    def partial_counts(self) -> str | None:
        """Why the sum of a relay could count in part, which it must not; `None` if it cannot."""
        quorum = self.coordinator.pool.quorum
        if quorum.count is None and quorum.cap is None and quorum.late == "drop":
            return None
        return "a sum of a relay counts as a whole, and this quorum may count some of its clients only"

    def _complete_sums(self, ask: Ask) -> None:
        """Feeds the arrivals in a relay's sum that a crash has left out, since it is on disk as a whole."""
        record = self.rounds.record
        relays = {record.replies[number]: relay for number, relay in record.summed.items()}
        for digest, relay in sorted(relays.items()):
            reply = self.reader.sum(digest, record.messages[ask.round].binding)
            for row in reply.reports.with_status("counted") if isinstance(reply, SumReply) else ():
                ticket = self.coordinator.pool.ticket_of(row.client)
                if ticket is not None and ticket.round == ask.round:
                    self._feed_arrival(ticket, digest, weight_of(row), self._now(), relay)

    def _fail(self, ticket: Ticket, reason: str, arrived: ReplyArrived | None = None, refused: bool = False) -> None:
        """Feeds that a request has come to nothing."""
        digest = "" if arrived is None else arrived.digest
        more = {"refused": True} if refused else {}
        self.rounds.feed(
            RoundEvent(
                "failed",
                ticket.round,
                self.rounds.attempt(ticket.round),
                self._now(),
                ticket.number,
                ticket.client,
                digest,
                0.0,
                reason,
                more,
            )
        )
        self.sum.lost(ticket.client)

    # requests -------------------------------------------------------------------------------------------

    def _send_all(self) -> None:
        """Sends the requests in flight that have not been sent, or not since the server was started."""
        channel, pool = self.channel, self.coordinator.pool
        nodes = channel.by_node(ticket.client for ticket in pool.flying)
        tickets = {ticket.client: ticket for ticket in pool.flying}
        for node, clients in nodes.items():
            fresh = [client for client in clients if self._sent_to.get(tickets[client].number) != node]
            behind = fresh if channel.members.relays(node) else ()
            if not fresh or (behind and channel.assignments.of(node) is not None):
                continue  # an earlier request to a relay first
            ticket = tickets[fresh[0]]
            name = f"{channel.assignments.job}-{ticket.number}"
            sent = self.rounds.record.messages[ticket.round]
            ask = self._asks.get(ticket.round) or self._earlier(ticket)
            limit = largest_sum(self.setup.summed, len(behind)) if behind else self.setup.reply_limit()
            channel.send(node, name, ask, sent, limit, behind)
            self._sent |= {tickets[client].number: name for client in fresh}
            self._sent_to |= {tickets[client].number: node for client in fresh}
        channel.assignments.begin()

    def _earlier(self, ticket: Ticket) -> Ask:
        """The ask of a ticket from before a restart, with its own message."""
        return Ask(Train(self.coordinator.message_for(ticket), ticket.round), (ticket.client,))

    def _withdraw(self) -> None:
        """Takes back requests of which no ticket is in flight any more."""
        numbers = {ticket.number for ticket in self.coordinator.pool.flying}
        gone = [number for number in self._sent if number not in numbers]
        names = {self._sent.pop(number) for number in gone}
        for number in gone:
            self._sent_to.pop(number, None)
        self.channel.assignments.withdraw_named(names.difference(self._sent.values()))  # a relay's may be in part

    def _ticket(self, arrived: ReplyArrived) -> Ticket | None:
        """The ticket in flight that a reply answers."""
        ticket = self.coordinator.pool.ticket_of(arrived.client)
        name = arrived.assignment.assignment
        return ticket if ticket is not None and self._sent.get(ticket.number) == name else None

    def _reserve(self, ask: Ask) -> list[str]:
        """The clients that may be asked instead of the cohort, in an order drawn for the round."""
        if not self.coordinator.pool.quorum.replace:
            return []
        others = sorted(set(self.channel.members.available()) - set(ask.cohort))
        key = self.setup.job.key.derive("fleet").derive("reserve", ask.round, ask.attempt)
        return [others[place] for place in key.permutation(len(others)).tolist()]

    def _now(self) -> float:
        return max(self.channel.clock.now(), self.coordinator.pool.now)


def weight_of(row: ClientReport) -> float:
    """The weight of a client in a sum, as its relay reports it."""
    return row.metrics.get("weight", float(row.examples))
