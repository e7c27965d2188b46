"""The board that a run writes its status on, and from which pages and commands read it; its memory is bounded."""

from __future__ import annotations

import statistics
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from headway.federation.operations.status_history import StatusHistory, round_status
from headway.federation.operations.status_snapshot import (
    ChainStatus,
    ClientStatus,
    EventSort,
    PhaseStatus,
    PrivacyStatus,
    RoundStatus,
    RunKind,
    RunState,
    StatusEvent,
    StatusSnapshot,
)
from headway.observe.observer import Observer, TrainedRound
from headway.observe.round_report import RoundReport

MOST_CLIENTS, MOST_EVENTS, MOST_NAMES, PACE_ROUNDS = 1000, 200, 20, 10
EACH_ROUND = 5  # events of one sort in one round, before the rest is counted in one line
LONGEST = 500  # characters of a text
Job = Callable[[], tuple[str, RunState, str]]


@dataclass(frozen=True)
class ClientsNow:
    """The clients of a server at one moment.

    shown: at most `MOST_CLIENTS` of them.  presences: how many of all are connected, gone and so on.  refused_calls:
    how many calls were not admitted, by the status of the answer.
    """

    shown: Sequence[ClientStatus]
    presences: Mapping[str, int]
    refused_calls: Mapping[str, int] = field(default_factory=dict)


class StatusBoard:
    """The status of one run; every method may be called from any thread.

    kind, name, rounds: see `StatusSnapshot`.  clients: gives those of a server; without it, what rounds report is kept,
    for the clients that were asked last.  job: gives the identifier, state and reason of a server's job.
    wall, pace: clocks, in Unix time and for durations.
    """

    def __init__(
        self,
        kind: RunKind,
        name: str,
        rounds: int,
        clients: Callable[[], ClientsNow] | None = None,
        job: Job | None = None,
        wall: Callable[[], float] = time.time,
        pace: Callable[[], float] = time.monotonic,
    ) -> None:
        self.kind: RunKind = kind
        self.name, self.rounds, self.clients, self.job, self.wall, self.pace = name, rounds, clients, job, wall, pace
        self.started, self.population, self.metric = wall(), 0, ""
        self.chain = ChainStatus()
        self.privacy = PrivacyStatus()  # of a run that is ready
        self.history = StatusHistory()
        self._state: tuple[RunState, str] = ("waiting", "")
        self._phase = PhaseStatus(since=self.started)
        self._report: RoundReport | None = None
        self._evaluated: RoundReport | None = None
        self._round = 0
        self._seen: OrderedDict[str, ClientStatus] = OrderedDict()
        self._scores: OrderedDict[str, float] = OrderedDict()  # of the clients that were asked last
        self._events: deque[StatusEvent] = deque(maxlen=MOST_EVENTS)
        self._ends: deque[float] = deque([pace()], maxlen=PACE_ROUNDS + 1)
        self._lock = threading.RLock()

    # written --------------------------------------------------------------------------------------------

    def describe(self, metric: str, chain: ChainStatus, population: int, earlier: Iterable[RoundStatus] = ()) -> None:
        """Facts of the run that are known once it is ready; earlier: the rounds of a run that goes on."""
        with self._lock:
            self.metric, self.chain, self.population = metric, chain, population
            for each in earlier:
                self.history.add(each)
                self._round = each.round
            self._ends = deque([self.pace()], maxlen=PACE_ROUNDS + 1)

    def set_state(self, state: RunState, reason: str = "") -> None:
        """The state of the run; a server's job gives it by itself until it has ended."""
        with self._lock:
            self._state = (state, reason[:LONGEST])
            if state not in ("waiting", "running"):
                self._phase = PhaseStatus(since=self.wall())

    def set_phase(
        self,
        phase: str,
        note: str = "",
        since: float | None = None,
        deadline: float | None = None,
        waiting_for: Sequence[str] = (),
    ) -> None:
        """What the run does now; since, deadline: in Unix time, since now by default."""
        with self._lock:
            if since is None:
                since = self._phase.since if phase == self._phase.phase else self.wall()
            self._phase = PhaseStatus(
                phase=phase,
                note=note[:LONGEST],
                since=since,
                deadline=deadline,
                waiting_for=tuple(waiting_for[:MOST_NAMES]),
                waiting=len(waiting_for),
            )

    def set_round(self, done: int) -> None:
        """The rounds that are done, to a relay, which learns of them by the requests of its server."""
        with self._lock:
            self._round = max(self._round, done)

    def add_event(self, sort: EventSort, text: str, client: str = "") -> None:
        """Something that happened in the round that is going on."""
        with self._lock:
            self._events.append(StatusEvent(round=self._round + 1, sort=sort, text=text[:LONGEST], client=client))

    def add_round(self, report: RoundReport) -> None:
        """A finished round."""
        with self._lock:
            self._round, self._report = report.round, report
            if report.metrics or report.central:
                self._evaluated = report
            self.history.add(round_status(report, self.metric))
            self._ends.append(self.pace())
            self._events.extend(_events(report))
            for client, score in report.reputation.items():
                self._scores[client] = score
                self._scores.move_to_end(client)
            while len(self._scores) > MOST_CLIENTS:
                self._scores.popitem(last=False)
            if self.clients is None:
                self._note_clients(report)

    def _note_clients(self, report: RoundReport) -> None:
        """Keeps what a round reports of each client; of large cohorts, the last that there is room for."""
        for row in report.clients[-MOST_CLIENTS:]:
            old = self._seen.pop(row.client, None) or ClientStatus(name=row.client)
            counted = row.status == "counted"
            self._seen[row.client] = old.model_copy(
                update={
                    "activity": f"{row.status} in round {report.round}",
                    "train": row.examples or old.train,
                    "counted": old.counted + counted,
                    "refused": old.refused + (row.status == "rejected"),
                    "lost": old.lost + (row.status == "dropped"),
                    "reason": old.reason if counted else row.reason[:LONGEST],
                    "bytes_up": old.bytes_up + row.bytes_up,
                    "bytes_down": old.bytes_down + row.bytes_down,
                    "seconds": row.seconds if counted else old.seconds,
                    "loss": row.metrics.get("train_loss") if counted else old.loss,
                }
            )
        while len(self._seen) > MOST_CLIENTS:
            self._seen.popitem(last=False)

    # read -----------------------------------------------------------------------------------------------

    def snapshot(self) -> StatusSnapshot:
        """The status now."""
        clients = self._seen_clients() if self.clients is None else self.clients()
        with self._lock:
            job, (state, reason) = "", self._state
            if self.kind != "simulation":
                clients = _with_absent(clients, self._phase.waiting_for)
            if self.job is not None:
                job, theirs, why = self.job()
                state, reason = (state, reason) if state in ("finished", "failed", "stopped") else (theirs, why)
            pace, evaluated, report = self._pace(), self._evaluated, self._report
            is_open = state in ("waiting", "running")
            return StatusSnapshot(
                kind=self.kind,
                name=self.name,
                job=job,
                state=state,
                reason=reason[:LONGEST],
                at=self.wall(),
                started=self.started,
                round=self._round,
                rounds=self.rounds,
                phase=self._phase if is_open else PhaseStatus(since=self._phase.since),
                round_seconds=pace,
                eta_s=None if pace is None or not is_open else pace * max(0, self.rounds - self._round),
                metric=self.metric,
                evaluated=None if evaluated is None else evaluated.round,
                metrics={} if evaluated is None else dict(evaluated.metrics),
                central={} if evaluated is None else dict(evaluated.central),
                drift={} if report is None else dict(report.drift),
                totals=self.history.totals,
                population=max(self.population, sum(clients.presences.values())),
                connected=clients.presences.get("connected", 0),
                presences=dict(clients.presences),
                clients=tuple(sorted(map(self._with_standing, clients.shown), key=lambda each: each.name)),
                refused_calls=dict(clients.refused_calls),
                history=self.history.rounds(),
                events=tuple(reversed(self._events)),
                chain=self.chain,
                privacy=self.privacy,
            )

    def _with_standing(self, client: ClientStatus) -> ClientStatus:
        """A client with its reputation and its quarantine, where it has them."""
        if (score := self._scores.get(client.name)) is None:
            return client
        until = None if self._report is None else self._report.quarantine.get(client.name)
        return client.model_copy(update={"reputation": score, "quarantine": until})

    def _seen_clients(self) -> ClientsNow:
        with self._lock:
            return ClientsNow(list(self._seen.values()), {"simulated": len(self._seen)})

    def _pace(self) -> float | None:
        """The median of the last rounds' durations with all waiting; `None` before the first."""
        ends = list(self._ends)
        spans = [after - before for before, after in pairwise(ends)]
        return statistics.median(spans) if spans else None


class StatusObserver(Observer):
    """Writes the rounds of a run on a board; in a simulation the phases as well, which a server's engine reports."""

    def __init__(self, board: StatusBoard) -> None:
        self.board = board

    def on_trained(self, trained: TrainedRound) -> Sequence[str]:
        """The clients have answered."""
        if self.board.kind == "simulation":
            self.board.set_phase("evaluating", f"round {trained.report.round}")
        return ()

    def on_round(self, report: RoundReport) -> None:
        """The round is finished."""
        self.board.add_round(report)
        if self.board.kind == "simulation":
            self.board.set_phase("training", f"round {report.round + 1}")


def _events(report: RoundReport) -> list[StatusEvent]:
    """The events of a round: updates that did not count, alarms and notes; the rest of many in one line."""
    sorts: dict[EventSort, list[tuple[str, str]]] = {
        "lost": [(row.client, row.reason or "no answer") for row in report.clients.with_status("dropped")[:EACH_ROUND]],
        "refused": [(row.client, row.reason) for row in report.clients.with_status("rejected")[:EACH_ROUND]],
        "alarm": [("", alarm.text) for alarm in report.alarms[:EACH_ROUND]],
        "note": [("", note) for note in report.notes[:EACH_ROUND]],
    }
    found = {
        "lost": report.count("dropped"),
        "refused": report.count("rejected"),
        "alarm": len(report.alarms),
        "note": len(report.notes),
    }
    events = []
    for sort, texts in sorts.items():
        if (more := found[sort] - len(texts)) > 0:
            texts.append(("", f"and {more} more in this round"))
        events += [
            StatusEvent(round=report.round, sort=sort, client=client, text=text[:LONGEST]) for client, text in texts
        ]
    return events


def _with_absent(clients: ClientsNow, awaited: Sequence[str]) -> ClientsNow:
    """The clients with those that are awaited and have not joined; awaited: the first names."""
    joined = {each.name for each in clients.shown}
    absent = [ClientStatus(name=name, presence="absent", awaited=True) for name in awaited if name not in joined]
    if not absent or sum(clients.presences.values()) > len(clients.shown):  # which of them have joined is not known
        return clients
    presences = {**clients.presences, "absent": len(absent)}
    return replace(clients, shown=[*clients.shown, *absent], presences=presences)
