"""Rounds of a protocol over a network: the attempts at each, and its exchanges, whose replies are on disk first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.core.errors import RunFolderError
from headway.federation.http_api import RoundVerdict
from headway.federation.serving.assignments import ReplyArrived
from headway.federation.serving.gathering import Gathered, Gathering, missing_notes
from headway.federation.serving.request_channel import RequestChannel, SentMessage
from headway.federation.serving.training_round import TrainingRounds
from headway.federation.spool.round_event import EventKind, RoundEvent, RoundLog
from headway.protocol.by_client import replies_of_relay
from headway.protocol.messages import Answer, Ask, Exchange, Reply
from headway.protocol.reports import Reports
from headway.protocol.round_pool import Closed
from headway.protocol.wire_messages import decode_reply

BEGUN_AGAIN = "the round was begun again"


@dataclass(slots=True)
class _RoundAttempt:
    """An attempt at a round: the clients that were asked in it, and whether its training is over."""

    round: int
    number: int
    clients: set[str] = field(default_factory=set)
    trained: bool = False

    def to_state(self) -> dict[str, Any]:
        """The attempt in plain values."""
        return {"round": self.round, "number": self.number, "clients": sorted(self.clients), "trained": self.trained}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> _RoundAttempt:
        """The attempt of what `to_state` gave."""
        return cls(state["round"], state["number"], set(state["clients"]), state["trained"])


class ProtocolRounds:
    """The attempts at the rounds of a protocol.

    A server that ends before the training of an attempt is closed begins the round again as a new attempt, for which
    clients make new keys.  One that ends later goes on with the attempt from the recorded replies: clients may have
    revealed shares in it, and a second sum over nearly the same updates would show the difference, which is the update
    of a single client.

    attempt: at the present round.  digests: of the requests and replies of the last round, which a restart may need.
    """

    def __init__(self, channel: RequestChannel, rounds: TrainingRounds, gathering: Gathering, log: RoundLog) -> None:
        self.channel, self.rounds, self.gathering, self.log = channel, rounds, gathering, log
        self.attempt = 0
        self.digests: set[str] = set()
        self._now: _RoundAttempt | None = None
        self._left: list[_RoundAttempt] = []  # attempts at the present round that were given up, without verdicts
        self._notes: list[str] = []

    # a restart ------------------------------------------------------------------------------------------

    def recall(self) -> RoundEvent | None:
        """Takes up the round that was open before a restart: the beginning of the attempt that is gone on with; `None`
        if a new attempt, or a new round, is to begin."""
        self.attempt, self._now, self._left = 0, None, []
        recorded = [event for _, event in self.rounds.recorded]
        if not recorded:
            return None
        own = [event for event in recorded if event.round == recorded[0].round]
        begun = [place for place, event in enumerate(own) if event.kind == "begun"]
        tries = [_attempt(own[place:end]) for place, end in zip(begun, [*begun[1:], len(own)], strict=True)]
        last = tries[-1]
        if last.trained:
            self._left, self.attempt = tries[:-1], last.number
            for _ in range(begun[-1]):
                self.rounds.take()
            return own[begun[-1]]
        self._left, self.attempt = tries, last.number + 1
        self.rounds.coordinator.pool.renumber(_next_ticket(recorded))
        while self.rounds.recorded:
            self.rounds.take()
        self._notes.append(
            "the server was restarted before this round had trained, so that it was begun again with new keys, as "
            f"attempt {self.attempt + 1}."
        )
        return None

    def to_state(self) -> dict[str, Any]:
        """The attempts at the round that is open, in plain values; empty between two rounds."""
        if self._now is None:
            return {}
        left = [each.to_state() for each in self._left]
        return {"now": self._now.to_state(), "left": left, "digests": sorted(self.digests)}

    def from_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `to_state` gave: with a round whose exchanges are over, and whose verdicts are to come."""
        self._now = _RoundAttempt.from_state(state["now"]) if state else None
        self._left = [_RoundAttempt.from_state(left) for left in state.get("left", ())]
        self.digests = set(state.get("digests", ()))
        self.attempt = 0 if self._now is None else self._now.number

    def is_left(self, round_: int, attempt: int) -> bool:
        """Whether an attempt at the present round was given up."""
        return any((each.round, each.number) == (round_, attempt) for each in self._left)

    # one round ------------------------------------------------------------------------------------------

    def begin(self, ask: Ask) -> _RoundAttempt:
        """The attempt that the clients of an ask take part in, which the first ask of a round begins."""
        if self._now is None:
            self._now = self._begun(ask)
        self._now.clients |= set(ask.cohort)
        return self._now

    def _begun(self, ask: Ask) -> _RoundAttempt:
        """A new attempt, or one that is gone on with after a restart."""
        pool, rounds = self.rounds.coordinator.pool, self.rounds
        if rounds.next_kind == "begun":
            event = rounds.take()
            pool.renumber(int(event.more["first"]))
        else:
            more = {"available": list(rounds.available), "first": pool.asked, "sizes": rounds.sizes}
            event = RoundEvent("begun", ask.round, self.attempt, self._time(), more=more)
            rounds.write(event)
        self.digests = set()
        rounds.record.counted, rounds.record.lost = {}, {}
        rounds.record.closed = Closed(ask.round, event.at, (), ())
        for left in self._left:
            self._give_verdicts(left, BEGUN_AGAIN)
        return _RoundAttempt(ask.round, self.attempt)

    def exchange(self, ask: Ask) -> Answer:
        """The answer to an exchange of the protocol."""
        assert isinstance(ask.request, Exchange)
        attempt = self.begin(ask)
        sent, name = self.channel.encode(ask), ask.request.name
        self.digests.add(sent.digest)
        gathered = self._recorded(ask, sent)
        if self.rounds.next_kind == "gathered":
            self.rounds.take()
        else:
            job = self.channel.assignments.job
            assignment = f"{job}-{ask.round}.{ask.attempt}.{ask.number}"
            self.gathering.gather(ask, sent, gathered, _Recorder(self, ask), assignment)
            self.write("gathered", ask)
        replies = {
            client: gathered.replies[client].tensors  # type: ignore[attr-defined]
            for client in sorted(gathered.replies)
        }
        notes, self._notes = self._notes, []
        lost = sorted(gathered.missing) if not attempt.trained else []  # of others the training has reports
        reasons = [f"it took no part in the exchange {name!r}, since {gathered.missing[client]}" for client in lost]
        reports = Reports(lost, "dropped", reasons=reasons) if lost else Reports()
        return Answer(
            replies=replies, reports=reports, notes=[*notes, *missing_notes(gathered.missing, f"exchange {name!r}")]
        )

    def trained(self) -> list[str]:
        """Notes that the training of the attempt is over; sentences on the round."""
        if self._now is not None:
            self._now.trained = True
        notes, self._notes = self._notes, []
        return notes

    def end(self, verdicts: Mapping[str, RoundVerdict]) -> dict[str, RoundVerdict]:
        """Ends the round: the verdicts on all clients that took part, so that they forget their secrets."""
        now, self._now = self._now, None
        if now is None:
            return dict(verdicts)
        if not now.trained:
            if self.rounds.next_kind == "closed":
                self.rounds.take()
            else:
                self.rounds.write(RoundEvent("closed", now.round, now.number, self._time()))
        others = now.clients - verdicts.keys()
        reason = "it was not in the sum"
        own = RoundVerdict(round=now.round, attempt=now.number, counted=False, reason=reason)
        self._left, self.attempt = [], 0
        return {**dict.fromkeys(sorted(others), own), **verdicts}

    # inside ---------------------------------------------------------------------------------------------

    def write(self, kind: EventKind, ask: Ask, **facts: Any) -> None:
        """Writes an event of an exchange."""
        self.rounds.write(RoundEvent(kind, ask.round, ask.attempt, self._time(), ask.number, **facts))

    def _recorded(self, ask: Ask, sent: SentMessage) -> Gathered:
        """The replies that were there before a restart; of a new exchange, that it begins.

        Raises:
            RunFolderError: if another exchange was recorded.
        """
        rounds, gathered = self.rounds, Gathered()
        if rounds.next_kind != "asked":
            more = {"name": ask.request.name, "cohort": list(ask.cohort)}  # type: ignore[attr-defined]
            self.write("asked", ask, digest=sent.digest, more=more)
            return gathered
        event = rounds.take()
        if (event.number, event.digest) != (ask.number, sent.digest):
            raise RunFolderError(
                f"an exchange {event.more.get('name')!r} was recorded in round {event.round + 1} that is not the one "
                "that the run has come to: the checkpoint and the event log are not of one run. Restore the run folder "
                "from a copy, or start a new run."
            )
        while rounds.next_kind in ("replied", "missing"):
            event = rounds.take()
            if event.kind == "missing":
                gathered.missing[event.client] = event.reason
            else:
                reply = _read(self.channel.files.path(event.digest), sent)
                self.digests.add(event.digest)
                if behind := event.more.get("clients"):
                    gathered.take_relayed(*replies_of_relay(reply, behind))
                else:
                    gathered.replies[event.client] = reply
        return gathered

    def _give_verdicts(self, attempt: _RoundAttempt, reason: str) -> None:
        """Has the clients of an attempt that was given up drop what they hold of it."""
        verdict = RoundVerdict(round=attempt.round, attempt=attempt.number, counted=False, reason=reason)
        verdicts = dict.fromkeys(sorted(attempt.clients), verdict)
        self.log.record_verdicts(verdicts)
        self.channel.assignments.add_verdicts(verdicts, self.channel.members.node_of)

    def _time(self) -> float:
        return max(self.channel.clock.now(), self.rounds.coordinator.pool.now, 0.0)


@dataclass(frozen=True, slots=True)
class _Recorder:
    """Writes what becomes of each client in an exchange."""

    rounds: ProtocolRounds
    ask: Ask

    def replied(self, arrived: ReplyArrived) -> None:
        """A reply that is on disk, before its client is given a receipt."""
        self.rounds.digests.add(arrived.digest)
        behind = arrived.assignment.clients
        more = {"clients": list(behind)} if behind else {}
        self.rounds.write("replied", self.ask, client=arrived.client, digest=arrived.digest, more=more)

    def missing(self, client: str, reason: str) -> None:
        """A client that is given up."""
        self.rounds.write("missing", self.ask, client=client, reason=reason)


def _attempt(events: list[RoundEvent]) -> _RoundAttempt:
    """The attempt whose events these are."""
    made = _RoundAttempt(events[0].round, events[0].attempt)
    for event in events:
        made.clients |= set(event.more.get("cohort", ()))
        made.trained |= event.kind == "closed"
    return made


def _next_ticket(events: list[RoundEvent]) -> int:
    """A number for tickets that none of these events has."""
    numbers = [0]
    for event in events:
        if event.kind in ("begun", "opened"):
            numbers.append(int(event.more["first"]) + len(event.more.get("cohort", ())))
        elif event.kind in ("arrived", "failed"):
            numbers.append(event.number + 1)
    return max(numbers) + len(events)  # of clients that were asked again and have not ended


def _read(path: Path, sent: SentMessage) -> Reply:
    """A recorded reply; that of a relay may be that it has declined."""
    return decode_reply(path.read_bytes(), sent.binding, path.stat().st_size)
