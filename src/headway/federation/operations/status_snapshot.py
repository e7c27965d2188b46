"""The status of a run at one moment, as plain values: what `headway status`, the metrics and the live page show."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

STATUS_VERSION = 1
BEFORE_WORK = ("", "waiting for clients", "waiting for its server")  # phases of a relay before the first request
RunKind = Literal["server", "relay", "simulation"]
RunState = Literal["waiting", "running", "finished", "failed", "stopped", "paused"]
Presence = Literal["connected", "absent", "gone", "left", "declined", "set aside", "simulated"]
EventSort = Literal["refused", "late", "lost", "alarm", "note"]


def _finite(value: Any) -> Any:
    """The value, or `None` for a number that JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]


class StatusPart(BaseModel):
    """A part of the status.  Unknown keys are passed over, so that the status of a newer server can be read."""

    model_config = ConfigDict(frozen=True)


class ClientStatus(StatusPart):
    """One client.

    presence: whether it is connected; "absent" for one that is awaited and has not joined yet; "simulated" for those of
    this process.  activity: what it does, in its own words; done: the share of it.  contact: when it was last in
    contact, in Unix time.  awaited: whether the round waits for it.  via: the relay that it is behind; relay: whether
    it is one itself, and no client.  counted, late, refused, lost: how many of its updates were so.  reason: of the
    last that did not count, or why it takes no part.  seconds, loss: of its last update that counted.  reputation: its
    score, where the algorithm has one.  quarantine: the last round of its quarantine, while it is in one.
    """

    name: str
    presence: Presence = "simulated"
    activity: str = ""
    done: Number = None
    contact: Number = None
    awaited: bool = False
    via: str = ""
    relay: bool = False
    train: int = 0
    test: int = 0
    counted: int = 0
    late: int = 0
    refused: int = 0
    lost: int = 0
    reason: str = ""
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: Number = None
    loss: Number = None
    reputation: Number = None
    quarantine: int | None = None


class RoundStatus(StatusPart):
    """One finished round.

    value: of the deciding metric; loss: on the same examples.  headway, leeway: see `observe.drift`.
    epsilon: what the run had spent by then, by the accounts of its privacy ledger.
    """

    round: int
    asked: int = 0
    counted: int = 0
    rejected: int = 0
    dropped: int = 0
    train_loss: Number = None
    value: Number = None
    loss: Number = None
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: Number = None
    evaluation_seconds: Number = None
    headway: Number = None
    leeway: Number = None
    epsilon: dict[str, Number] = Field(default_factory=dict)


class StatusEvent(StatusPart):
    """Something that a reader should know of: an update that did not count and why, an alarm, or a note."""

    round: int
    sort: EventSort
    text: str
    client: str = ""


class PhaseStatus(StatusPart):
    """What the run does now, and since when.

    since, deadline: in Unix time.  waiting_for: the first of the clients whose replies are open, of `waiting` in all.
    """

    phase: str = ""
    note: str = ""
    since: float = 0.0
    deadline: Number = None
    waiting_for: tuple[str, ...] = ()
    waiting: int = 0


class Totals(StatusPart):
    """Sums over all rounds that were seen: of bytes, seconds and updates."""

    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    counted: int = 0
    rejected: int = 0
    dropped: int = 0


class ChainStatus(StatusPart):
    """The algorithm as a table (see `core.explain`), and its notes."""

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


class PrivacyStatus(StatusPart):
    """The privacy budget of a run whose chain adds noise.

    delta: of all accounts; `None` without noise.  budgets: the largest epsilon of each account, where it has one.
    sampling: in words, with what it is worth.  releases: what each round releases with noise, a row of texts each (see
    `privacy.terms`).  others: what else is released or seen, how it is protected, and to whom.
    """

    delta: Number = None
    budgets: dict[str, Number] = Field(default_factory=dict)
    sampling: str = ""
    releases: tuple[tuple[str, ...], ...] = ()
    others: tuple[tuple[str, ...], ...] = ()


class StatusSnapshot(StatusPart):
    """The status of a run.

    kind: a "server" with clients on other machines, a "relay" with some clients of a server, or a "simulation".
    at: when it was taken, in Unix time.
    round: the rounds that are complete, of `rounds`.  round_seconds: how long a round takes at present, with all
    waiting; eta_s: the seconds to the end at this pace.  metric: the name of the deciding one.  metrics, central: the
    last evaluation, over the clients and on the central test set, of round `evaluated`.  clients: the first of
    `population`; connected: how many are; presences: how many of all there are of each.
    refused_calls: how many calls were not admitted, by the status of the answer.  history: of the rounds,
    thinned evenly where there were many.
    """

    version: int = STATUS_VERSION
    kind: RunKind = "server"
    name: str = ""
    job: str = ""
    state: RunState = "waiting"
    reason: str = ""
    at: float = 0.0
    started: float = 0.0
    round: int = 0
    rounds: int = 0
    phase: PhaseStatus = Field(default_factory=PhaseStatus)
    round_seconds: Number = None
    eta_s: Number = None
    metric: str = ""
    evaluated: int | None = None
    metrics: dict[str, Number] = Field(default_factory=dict)
    central: dict[str, Number] = Field(default_factory=dict)
    drift: dict[str, Number] = Field(default_factory=dict)
    totals: Totals = Field(default_factory=Totals)
    population: int = 0
    connected: int = 0
    presences: dict[str, int] = Field(default_factory=dict)
    clients: tuple[ClientStatus, ...] = ()
    refused_calls: dict[str, int] = Field(default_factory=dict)
    history: tuple[RoundStatus, ...] = ()
    events: tuple[StatusEvent, ...] = ()
    chain: ChainStatus = Field(default_factory=ChainStatus)
    privacy: PrivacyStatus = Field(default_factory=PrivacyStatus)

    @property
    def has_agents(self) -> bool:
        """Whether the clients are on other machines."""
        return self.kind != "simulation"

    @property
    def knows_round(self) -> bool:
        """Whether it is known which round it is: to a relay from the first request of its server on."""
        return self.kind != "relay" or self.round > 0 or self.phase.phase not in BEFORE_WORK

    @property
    def over(self) -> bool:
        """Whether the run has come to its end."""
        return self.state in ("finished", "failed", "stopped")
