"""The status of a server: its clients, its phase and its job, read from the parts that serve them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from headway.federation.operations.status_board import LONGEST, MOST_CLIENTS, ClientsNow, StatusBoard, StatusObserver
from headway.federation.operations.status_snapshot import ClientStatus, Presence
from headway.federation.serving.assignments import Assignments
from headway.federation.serving.members import Members
from headway.federation.serving.network_training import Progress


@dataclass(frozen=True)
class ServerStatus:
    """The board of a server.

    show: is given the progress of the engine.  observer: of the run.
    """

    board: StatusBoard
    observer: StatusObserver
    now: Callable[[], float]

    @classmethod
    def of(
        cls,
        members: Members,
        assignments: Assignments,
        *,
        name: str,
        rounds: int,
        now: Callable[[], float],
        kind: Literal["server", "relay"] = "server",
    ) -> Self:
        """The status of these clients and their job; now: the run's clock."""

        def clients() -> ClientsNow:
            shown, presences = shown_clients(members.snapshot(), board.wall(), assignments.open_clients())
            return ClientsNow(shown, presences, {str(code): count for code, count in members.refused_calls.items()})

        board = StatusBoard(
            kind, name, rounds, clients, lambda: (assignments.job, assignments.state, assignments.reason)
        )
        members.on_late = lambda client, reason: board.add_event("late", reason, client)
        return cls(board, StatusObserver(board), now)

    def show(self, progress: Progress) -> None:
        """Puts the progress of the engine on the board."""
        wall, now = self.board.wall(), self.now()
        deadline = wall + progress.deadline - now if math.isfinite(progress.deadline) else None
        since = wall - max(0.0, now - progress.since)
        self.board.set_phase(progress.phase, progress.note, since, deadline, progress.waiting_for)


def shown_clients(
    rows: Sequence[dict[str, Any]], wall: float, awaited: Collection[str]
) -> tuple[list[ClientStatus], Counter[str]]:
    """At most so many clients, those that the round waits for and those with trouble first; and how many of all are
    connected, gone and so on, relays not counted."""
    placed = [(row["name"] not in awaited, (presence := _presence(row)) == "connected", presence, row) for row in rows]
    if len(placed) > MOST_CLIENTS:
        placed.sort(key=lambda each: each[:2])
    shown = [client_status(row, presence, wall, not free) for free, _, presence, row in placed[:MOST_CLIENTS]]
    return shown, Counter(str(presence) for _, _, presence, row in placed if not row.get("relays"))


def client_status(row: dict[str, Any], presence: Presence, wall: float, awaited: bool) -> ClientStatus:
    """A client of `Members.snapshot`; wall: the time now, in Unix time."""
    outcomes = row.get("outcomes", {})
    silent = row.get("silent_s")
    return ClientStatus(
        name=row["name"],
        presence=presence,
        activity=str(row.get("activity", ""))[:LONGEST],
        done=row.get("done"),
        contact=None if silent is None else wall - silent,
        awaited=awaited,
        via=row.get("via", ""),
        relay=row.get("relays", False),
        train=row.get("train", 0),
        test=row.get("test", 0),
        **{name: outcomes.get(name, 0) for name in ("counted", "late", "refused", "lost")},
        reason=str(row.get("declined") or row.get("reason", ""))[:LONGEST],
        bytes_up=row.get("bytes_up", 0),
        bytes_down=row.get("bytes_down", 0),
    )


def _presence(row: dict[str, Any]) -> Presence:
    if row.get("declined"):
        return "declined"
    if row.get("left"):
        return "left"
    if row.get("set_aside"):
        return "set aside"
    return "connected" if row.get("present") else "gone"
