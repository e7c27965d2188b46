"""The replies to requests other than training: each client of a cohort answers once, or is given up."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from headway.core.errors import FrameError
from headway.core.update import Tensors
from headway.federation.serving.assignments import MembersChanged, ReplyArrived
from headway.federation.serving.request_channel import KINDS, TURN_S, RequestChannel, SentMessage
from headway.protocol.by_client import replies_of_relay
from headway.protocol.messages import Answer, Ask, Declined, Evaluate, Exchange, ExchangeReply, Reply, Scores, SumReply
from headway.protocol.reports import Reports, columns_of
from headway.protocol.total_frames import largest_sum
from headway.protocol.wire_messages import decode_reply

REPLY_ROOM = 1 << 28  # bytes of a reply to an exchange


@dataclass(slots=True)
class Gathered:
    """The replies to a request, and why others are missing."""

    replies: dict[str, Reply] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    bytes_up: dict[str, int] = field(default_factory=dict)

    def take_relayed(self, replies: Mapping[str, Tensors], missing: Mapping[str, str]) -> None:
        """Takes the replies of a relay's clients to an exchange, and why others are missing."""
        self.replies |= {client: ExchangeReply(tensors) for client, tensors in replies.items()}
        self.missing |= missing


class Recorder(Protocol):
    """Writes what becomes of each client, on the disk before it is acted upon."""

    def replied(self, arrived: ReplyArrived) -> None:
        """A reply that is taken."""
        ...

    def missing(self, client: str, reason: str) -> None:
        """A client that is given up."""
        ...


class Gathering:
    """Puts a request to clients and waits until each has answered or is gone.

    other: is given replies to other requests, such as updates that come late.  prefix: before the names of
    assignments, different after each start of the server.
    """

    def __init__(self, channel: RequestChannel, other: Callable[[ReplyArrived], None], prefix: str) -> None:
        self.channel, self.other, self.prefix = channel, other, prefix
        self.on_change: Callable[[Collection[str]], None] = lambda names: None  # given those that have not answered
        self._numbers = itertools.count()

    def answer(self, ask: Ask) -> Answer:
        """The answer to a request to evaluate or to measure."""
        sent, gathered = self.channel.encode(ask), Gathered()
        self.gather(ask, sent, gathered)
        notes = missing_notes(gathered.missing, f"request to {KINDS[type(ask.request)]}")
        scores = {client: reply for client, reply in gathered.replies.items() if isinstance(reply, Scores)}
        scores = {client: scores[client] for client in sorted(scores) if scores[client].examples}
        examples = [each.examples for each in scores.values()] if isinstance(ask.request, Evaluate) else 0
        metrics = columns_of([each.metrics for each in scores.values()])
        up = [gathered.bytes_up[client] for client in scores]
        reports = Reports(scores, "counted", examples, bytes_up=up, bytes_down=sent.size, metrics=metrics)
        if not isinstance(ask.request, Evaluate) and gathered.missing:
            reports = Reports.joined([reports, Reports(sorted(gathered.missing), "dropped", bytes_down=sent.size)])
        return Answer(reports=reports, notes=notes)

    def gather(
        self,
        ask: Ask,
        sent: SentMessage,
        gathered: Gathered,
        recorder: Recorder | None = None,
        name: str | None = None,
    ) -> None:
        """Adds the replies of the cohort that are not there; a client that leaves, or does not answer by the quorum's
        deadline, is missing.

        recorder: is given each reply before its client has a receipt.  name: of every node's assignment, by default
        one that no other has.
        """
        channel = self.channel
        wanted = [client for client in ask.cohort if client not in gathered.replies and client not in gathered.missing]
        _lose(gathered, channel.members.silent(wanted), recorder)
        wanted = [client for client in wanted if client not in gathered.missing]
        nodes, names = self._send(ask, sent, wanted, name)
        seconds = ask.quorum.deadline_s
        last = math.inf if seconds is None else channel.clock.now() + seconds
        shown = -math.inf
        while names:
            if channel.clock.now() - shown >= TURN_S:
                self.on_change(names)
                shown = channel.clock.now()
            event = channel.event(last - channel.clock.now())
            if isinstance(event, ReplyArrived):
                if names.get(event.client) == event.assignment.assignment:
                    self._take(event, ask, sent, gathered, recorder)
                    del names[event.client]
                else:
                    self.other(event)
            if event is None or isinstance(event, MembersChanged):
                gone = channel.members.silent(names)
                moved = {
                    node: clients for node, clients in nodes.items() if node in names and self._moved(node, clients)
                }
                if moved:  # they have come back behind a relay, since the server was started
                    channel.assignments.withdraw(moved)
                    names = {node: name for node, name in names.items() if node not in moved}
                    clients = [client for own in moved.values() for client in own]
                    others, more = self._send(ask, sent, clients, name)
                    nodes, names = {**nodes, **others}, {**names, **more}
                if channel.clock.now() >= last:
                    gone = dict.fromkeys(names, f"it has not answered within {seconds:g} s") | gone
                channel.assignments.withdraw(gone)
                _lose(gathered, {client: why for node, why in gone.items() for client in nodes[node]}, recorder)
                names = {node: name for node, name in names.items() if node not in gone}

    def _send(
        self, ask: Ask, sent: SentMessage, clients: Sequence[str], name: str | None
    ) -> tuple[dict[str, list[str]], dict[str, str]]:
        """Sends the request to some clients: the nodes that have it for which of them, and each node's assignment."""
        channel, nodes, names = self.channel, self.channel.by_node(clients), dict[str, str]()
        for node, own in nodes.items():
            names[node] = name or f"{self.prefix}-{next(self._numbers)}"
            behind = own if channel.members.relays(node) else ()
            limit = REPLY_ROOM if isinstance(ask.request, Exchange) else largest_sum({}, len(behind))
            if behind and name is not None:  # replies that a relay has kept for some clients are not those of others
                names[node] = f"{name}.{hashlib.sha256(json.dumps(own).encode()).hexdigest()[:16]}"
            channel.send(node, names[node], ask, sent, limit, behind)
        if name is not None:
            channel.assignments.begin()  # whatever else a client still holds is not wanted
        return nodes, names

    def _moved(self, node: str, clients: Sequence[str]) -> bool:
        """Whether some clients are reached by another node by now."""
        return any(self.channel.members.node_of(client) != node for client in clients)

    def _take(
        self, arrived: ReplyArrived, ask: Ask, sent: SentMessage, gathered: Gathered, recorder: Recorder | None
    ) -> None:
        """Reads a reply, of a client or of a relay for its clients."""
        behind = arrived.assignment.clients
        try:
            reply = decode_reply(arrived.path.read_bytes(), sent.binding, arrived.assignment.limit)
            exchange = isinstance(ask.request, Exchange)
            relayed = replies_of_relay(reply, behind) if exchange and behind else None
            if behind and not exchange and not isinstance(reply, SumReply | Declined):
                raise FrameError(f"a relay's reports were expected, found {type(reply).__name__}.")
            if exchange and not isinstance(reply, ExchangeReply | Declined):
                raise FrameError(f"the reply to an exchange was expected, found {type(reply).__name__}.")
        except FrameError as error:
            _lose(gathered, dict.fromkeys(behind or [arrived.client], f"its reply was refused: {error}"), recorder)
            self.channel.decide(arrived, "refused", str(error))
            return
        if relayed is not None:
            if recorder is not None:
                recorder.replied(arrived)
            gathered.take_relayed(*relayed)
        elif behind:
            _take_reports(reply, behind, gathered)
        elif isinstance(reply, Declined):
            _lose(gathered, {arrived.client: reply.reason}, recorder)
        else:
            if recorder is not None:
                recorder.replied(arrived)
            gathered.replies[arrived.client], gathered.bytes_up[arrived.client] = reply, arrived.size
        self.channel.decide(arrived, "answered")


def _take_reports(reply: Reply, behind: Sequence[str], gathered: Gathered) -> None:
    """Takes what a relay reports on its clients."""
    rows = {row.client: row for row in reply.reports} if isinstance(reply, SumReply) else {}
    for client in behind:
        row = rows.get(client)
        if row is not None and row.status == "counted":
            gathered.replies[client] = Scores(row.metrics, row.examples or 1)
            gathered.bytes_up[client] = row.bytes_up
        elif row is None or row.reason:
            gathered.missing[client] = "its relay has no report on it" if row is None else row.reason


def missing_notes(missing: Mapping[str, str], request: str) -> list[str]:
    """A sentence on the clients that have not answered a request."""
    if not missing:
        return []
    first = sorted(missing)[0]
    more = f", and {len(missing) - 1} more clients have not either" if len(missing) > 1 else ""
    return [f"client {first!r} has not answered the {request}, since {missing[first].rstrip('.')}{more}."]


def _lose(gathered: Gathered, missing: Mapping[str, str], recorder: Recorder | None) -> None:
    """Gives up clients, each with the reason."""
    for client, why in missing.items():
        if recorder is not None:
            recorder.missing(client, why)
        gathered.missing[client] = why
