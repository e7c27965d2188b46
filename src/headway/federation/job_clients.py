"""The clients of a job while it is served: who is connected, what is written about that, and their farewell."""

from __future__ import annotations

import threading
import time

from headway.federation.server_log import ServerLog
from headway.federation.serving.assignments import Assignments, MembersChanged, State
from headway.federation.serving.members import Members

TURN_S = 0.05


class JobClients:
    """The clients of a job, and what they are asked.

    lease_s: seconds without any contact after which a client counts as gone.
    """

    def __init__(self, lease_s: float, log: ServerLog) -> None:
        self.log, self.assignments = log, Assignments()
        self._lock = threading.Lock()
        self._present: frozenset[str] = frozenset()
        self.members = Members(lease_s, on_change=self.look)

    def look(self) -> None:
        """Writes who has come and gone since the last look; called by threads of the HTTP server."""
        with self._lock:
            self._write_changes()
        self.assignments.events.put(MembersChanged())

    def _write_changes(self) -> None:
        present = frozenset(self.members.available())
        for client in sorted(present - self._present):
            self.log.write("connected", f"{client} is connected ({len(present)} now)", client=client)
        for client in sorted(self._present - present):
            member = self.members.get(client)
            why = "has left" if member is not None and member.left else "takes no part any more"
            self.log.write("gone", f"{client} {why} ({len(present)} are connected)", client=client)
        self._present = present
        for client, reason in self.members.declined().items():
            sentence = f"{client} does not take part: {reason}"
            self.log.change(f"declined {client}", sentence, client=client, reason=reason)

    def dismiss(self, state: State, reason: str, patience_s: float) -> None:
        """Shows the state of the job to the clients that are connected, or their relays; it takes so long at most."""
        self.assignments.set_state(state, reason[:2000])
        until = time.monotonic() + patience_s
        while time.monotonic() < until and not self.assignments.all_shown(self._nodes()):
            time.sleep(TURN_S)
        time.sleep(2 * TURN_S)  # for the last answers to leave

    def _nodes(self) -> set[str]:
        """The nodes by which the clients that are connected are reached."""
        return {self.members.node_of(client) for client in self.members.available()}
