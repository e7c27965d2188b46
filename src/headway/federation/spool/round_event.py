"""The events of rounds, from which a resumed run comes to the same decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from headway.federation.http_api import RoundVerdict

EventKind = Literal[
    "opened", "arrived", "failed", "passed", "closed", "begun", "asked", "replied", "missing", "gathered"
]


@dataclass(frozen=True, slots=True)
class RoundEvent:
    """One event of a round.

    at: by the run's clock, in seconds.  number: of the ticket, the request to one client.  digest: of the bytes of a
    reply, or of the request's frame when the round is opened.  more: further plain values.

    opened: the round began; more has the available clients, the cohort, and the clients in reserve.  arrived: an
    update that was accepted by the guard is on disk; more has the number of the client's examples and the fingerprint
    of its data, and the relay in whose sum it is.  failed: a request came to nothing; more has "refused" if its
    update was refused.  passed: time passed without a reply.  closed: the round is over.

    Of a protocol, whose exchanges stand around the training, with the number of the ask in the round: begun: an attempt
    at the round began; more has the available clients and the number of the next ticket.  asked: an exchange; more has
    its name and cohort.  replied: the reply of a client is on disk, or that of a relay for the clients in more.
    missing: a client has not replied.  gathered: all replies are there that are waited for.
    """

    kind: EventKind
    round: int
    attempt: int
    at: float
    number: int = 0
    client: str = ""
    digest: str = ""
    weight: float = 0.0
    reason: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)


class RoundLog(Protocol):
    """The durable log of events and verdicts."""

    def append(self, event: RoundEvent) -> int:
        """Writes an event, which is on disk when this returns; its number, from 1."""
        ...

    def after(self, number: int) -> list[tuple[int, RoundEvent]]:
        """The events with a larger number, in order."""
        ...

    def ends(self, numbers: Sequence[int]) -> Mapping[int, RoundEvent]:
        """The event by which each of these tickets has ended, an arrival or a failure, where there is one."""
        ...

    def record_verdicts(self, verdicts: Mapping[str, RoundVerdict]) -> None:
        """Writes verdicts, by client; a verdict that is there already stays."""
        ...

    def verdict(self, client: str, round: int, attempt: int) -> RoundVerdict | None:
        """The verdict on the update of a client; `None` while there is none."""
        ...
