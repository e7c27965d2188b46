"""One round of training over a network: requests to clients, their replies, and the events that decide it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

from headway.core.errors import FrameError, RunFolderError, UpdateRejected
from headway.federation.serving.assignments import ReplyArrived
from headway.federation.serving.request_channel import SentMessage
from headway.federation.serving.server_setup import ServerSetup
from headway.federation.spool.round_event import RoundEvent
from headway.protocol.messages import Answer, Ask, Declined, Reply, SumReply, UpdateReply
from headway.protocol.reports import Reports
from headway.protocol.round_pool import Arrival, Closed, LostClient, Ticket
from headway.protocol.wire_files import MAPPED
from headway.protocol.wire_messages import Binding, read_reply
from headway.server.coordinator import Coordinator


@dataclass(slots=True)
class RoundRecord:
    """What the server holds of the rounds that are open.

    messages: the frames that went out, by round.  replies: the digest of each accepted update, by the number of its
    ticket; summed: of these, the ones in the sum of a relay, with its name.  refused: why the update of a ticket was
    refused.  counted: the tickets that counted in the last round.  closed: the end of that round.
    """

    messages: dict[int, SentMessage] = field(default_factory=dict)
    replies: dict[int, str] = field(default_factory=dict)
    summed: dict[int, str] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    counted: dict[str, Ticket] = field(default_factory=dict)
    lost: dict[str, tuple[Ticket, str]] = field(default_factory=dict)
    closed: Closed | None = None

    def to_state(self) -> dict[str, Any]:
        """The record in plain values."""
        messages = [[m.digest, m.size, m.round, m.attempt, m.ask] for m in self.messages.values()]
        return {
            "messages": messages,
            "replies": [[number, digest] for number, digest in self.replies.items()],
            "counted": [astuple(ticket) for ticket in self.counted.values()],
            "lost": [[astuple(ticket), reason] for ticket, reason in self.lost.values()],
            "refused": [[number, reason] for number, reason in self.refused.items()],
            "closed": None if self.closed is None else astuple(self.closed),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> RoundRecord:
        """The record that `to_state` gave."""
        sent = [SentMessage(*each) for each in state["messages"]]
        record = cls({message.round: message for message in sent}, {int(n): digest for n, digest in state["replies"]})
        counted = [Ticket(*each) for each in state["counted"]]
        lost = [(Ticket(*each), reason) for each, reason in state["lost"]]
        record.counted = {ticket.client: ticket for ticket in counted}
        record.lost = {ticket.client: (ticket, reason) for ticket, reason in lost}
        record.refused = {int(number): reason for number, reason in state.get("refused", ())}
        if (closed := state.get("closed")) is not None:
            round_, at, arrivals, losses = closed
            ended = tuple(Arrival(Ticket(*ticket), when, age) for ticket, when, age in arrivals)
            missed = tuple(LostClient(Ticket(*ticket), when, reason) for ticket, when, reason in losses)
            record.closed = Closed(round_, at, ended, missed)
        return record


class ReplyReader:
    """Reads and checks the replies that lie in the spool; large vectors stay in their files.

    path: the file of some contents, by their digest.
    """

    def __init__(self, setup: ServerSetup, path: Callable[[str], Path]) -> None:
        self.setup, self.path = setup, path

    def read(self, digest: str, binding: Binding, first: bool = False, mapped: int = MAPPED) -> Reply:
        """The reply in a file, whose digest was compared when it came in; first: its own checksum is compared, too.

        mapped: the bytes from which a vector stays in the file.

        Raises:
            FrameError: for bytes that are no reply to this request.
        """
        path, guard = self.path(digest), self.setup.guard
        size = path.stat().st_size
        return read_reply(path, binding, size, guard.bits, guard.lengths, checked=not first, mapped=mapped)

    def update(self, digest: str, binding: Binding, mapped: int = MAPPED) -> UpdateReply:
        """The update in a file that was accepted."""
        reply = self.read(digest, binding, mapped=mapped)
        assert isinstance(reply, UpdateReply)
        return reply

    def sum(self, digest: str, binding: Binding) -> SumReply | Declined:
        """The reply of a relay in a file.

        Raises:
            FrameError: for bytes that are no such reply to this request.
        """
        path, setup = self.path(digest), self.setup
        reply = read_reply(path, binding, path.stat().st_size, setup.modulo, setup.summed, checked=True)
        if not isinstance(reply, SumReply | Declined):
            raise FrameError(f"a relay's sum was expected, found {type(reply).__name__}.")
        return reply

    def checked_sum(self, arrived: ReplyArrived, sent: SentMessage, examples: Mapping[str, int]) -> SumReply | Declined:
        """The reply of a relay for its clients, checked; examples: of each client.

        Raises:
            UpdateRejected: naming what is wrong with it.
        """
        relay = arrived.client
        with _from_model(arrived, sent):
            reply = self.sum(arrived.digest, sent.binding)
        if isinstance(reply, SumReply):
            if strangers := set(reply.reports.clients) - set(arrived.assignment.clients):
                raise UpdateRejected(relay, f"its sum holds {min(strangers)!r}, which was not asked through it")
            counted = reply.reports.with_status("counted").clients
            if len(counted) != reply.total.count:
                raise UpdateRejected(
                    relay, f"{reply.total.count} updates are in its sum, and it reports {len(counted)}"
                )
            known = sum(examples.get(client, 0) for client in counted)
            self.setup.guard.check_sum(reply.total, relay, known)
        return reply

    def checked(self, arrived: ReplyArrived, sent: SentMessage, ask: Ask, examples: int) -> UpdateReply | Declined:
        """The reply of a client, checked against all that was promised.

        Raises:
            UpdateRejected: naming what is wrong with it.
        """
        client = arrived.client
        with _from_model(arrived, sent):
            reply = self.read(arrived.digest, sent.binding, first=True)
        if isinstance(reply, Declined):
            return reply
        if not isinstance(reply, UpdateReply):
            raise UpdateRejected(client, f"an update was asked for, found {type(reply).__name__}")
        self.setup.collector.check_received(ask, client, reply.update, examples)
        return reply


@contextmanager
def _from_model(arrived: ReplyArrived, sent: SentMessage) -> Iterator[None]:
    """Reads a reply to a message; one to another message, or that is no such reply, is rejected."""
    if arrived.message != sent.digest:
        raise UpdateRejected(arrived.client, "it was computed from another model than the one that the server sent")
    try:
        yield
    except FrameError as error:
        raise UpdateRejected(arrived.client, str(error).rstrip(".")) from error


class TrainingRounds:
    """Feeds the coordinator with events, each of which is on disk first, so that a resumed run decides alike.

    recorded: numbered events from before a restart that are still to be fed.  append: writes an event; its number.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        append: Callable[[RoundEvent], int],
        recorded: Sequence[tuple[int, RoundEvent]] = (),
    ) -> None:
        self.coordinator, self.append = coordinator, append
        self.recorded = deque(recorded)
        self.record = RoundRecord()
        self.last = 0  # the number of the last event that was fed
        self.available: tuple[str, ...] = ()  # of which the next cohort is drawn
        self.sizes: dict[str, Sequence[Any]] = {}  # of the data of clients that are new in the next round

    def begin(self, ask: Ask, now: float, reserve: Sequence[str], sent: SentMessage) -> bool:
        """Opens a round, or goes on with one that was open before a restart; whether it is the latter.

        Raises:
            RunFolderError: if the round that was open is another one.
        """
        again = bool(self.recorded)
        if again:
            event = self.take()
            self._check_same(event, ask, sent)
            now, reserve = event.at, event.more["reserve"]
        else:
            more: dict[str, Any] = {
                "available": list(self.available),
                "cohort": list(ask.cohort),
                "reserve": list(reserve),
                "first": self.coordinator.pool.asked,
            }
            more |= {"sizes": self.sizes} if self.sizes else {}
            self.write(RoundEvent("opened", ask.round, ask.attempt, now, digest=sent.digest, more=more))
        self.record.messages[ask.round] = sent
        self.record.refused.clear()
        self.coordinator.begin(ask, now, reserve)
        while self.next_kind not in ("", "opened", "closed"):
            self._feed(self.take())
        return again

    def feed(self, event: RoundEvent) -> str:
        """Writes an event and feeds it; the verdict on an arrival."""
        self.write(event)
        return self._feed(event)

    def replay_between(self) -> None:
        """Feeds the recorded events up to the opening of the next round."""
        while self.next_kind not in ("", "opened", "begun"):
            self._feed(self.take())

    @property
    def opened(self) -> RoundEvent | None:
        """The opening of the next round, if it was open before the restart."""
        return self.recorded[0][1] if self.next_kind == "opened" else None

    @property
    def was_closed(self) -> bool:
        """Whether the round that is gone on with was closed before the restart."""
        return self.next_kind == "closed"

    def close(self, ask: Ask) -> tuple[Ask, Closed]:
        """Ends the round: the ask to the clients that count, and the pool's record."""
        if self.was_closed:
            self.take()
        else:
            self.write(RoundEvent("closed", ask.round, ask.attempt, self.coordinator.pool.now))
        counting, closed = self.coordinator.close(ask)
        self.record.closed = closed
        self.record.counted = {arrival.ticket.client: arrival.ticket for arrival in closed.counted}
        self.record.lost = {loss.ticket.client: (loss.ticket, loss.reason) for loss in closed.losses}
        return counting, closed

    def forget(self) -> None:
        """Drops what no open request refers to any more."""
        pool, record = self.coordinator.pool, self.record
        numbers, rounds = pool.open_asks, pool.open_rounds
        record.replies = {number: digest for number, digest in record.replies.items() if number in numbers}
        record.summed = {number: relay for number, relay in record.summed.items() if number in record.replies}
        record.messages = {round_: sent for round_, sent in record.messages.items() if round_ in rounds}

    def attempt(self, round_: int) -> int:
        """The attempt at a round whose message is held."""
        sent = self.record.messages.get(round_)
        return 0 if sent is None else sent.attempt

    @property
    def next_kind(self) -> str:
        """The kind of the next recorded event; empty if there is none."""
        return self.recorded[0][1].kind if self.recorded else ""

    def take(self) -> RoundEvent:
        """The next recorded event, which is then no longer waiting."""
        self.last, event = self.recorded.popleft()
        return event

    def write(self, event: RoundEvent) -> None:
        """Writes an event, which is on disk when this returns."""
        self.last = self.append(event)

    def _feed(self, event: RoundEvent) -> str:
        pool = self.coordinator.pool
        at = max(event.at, pool.now)
        if event.kind == "passed":
            pool.pass_time(at)
            return ""
        ticket = pool.ticket_of(event.client)
        if ticket is None or ticket.number != event.number:
            return "late"
        if event.kind == "failed":
            if event.more.get("refused"):
                self.record.refused[ticket.number] = event.reason
            pool.failed(ticket, at, event.reason)
            return "refused"
        verdict = pool.arrived(ticket, at)
        if verdict == "accepted":
            self.record.replies[ticket.number] = event.digest
            if relay := event.more.get("relay"):
                self.record.summed[ticket.number] = str(relay)
        return verdict

    def _check_same(self, event: RoundEvent, ask: Ask, sent: SentMessage) -> None:
        """Refuses to go on with a round of another model or cohort than the recorded one."""
        recorded = event.kind, event.round, tuple(event.more.get("cohort", ())), event.digest
        if recorded != ("opened", ask.round, ask.cohort, sent.digest):
            raise RunFolderError(
                f"the recorded round {event.round + 1} was opened with another model or cohort than the one that the "
                f"run has come to in round {ask.round + 1}: the checkpoint and the event log are not of one run. "
                "Restore the run folder from a copy, or start a new run."
            )


def refused_reports(answer: Answer, refused: Mapping[str, str]) -> Answer:
    """The answer in which clients whose update was refused have the status "rejected"."""
    if not refused:
        return answer
    rows = [
        replace(row, status="rejected") if row.client in refused and row.status == "dropped" else row
        for row in answer.reports
    ]
    return replace(answer, reports=Reports.of(rows))
