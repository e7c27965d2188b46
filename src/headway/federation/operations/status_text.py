"""The status in words: the same sentences in the terminal, on the page and for screen readers."""

from __future__ import annotations

from headway.federation.operations.status_snapshot import ClientStatus, StatusSnapshot
from headway.numerics.units import time_text
from headway.observe.text import name_text, number_text

NAMES = 3  # of the clients that a round waits for


def whole_time(seconds: float | None) -> str:
    """A duration to the second, and shorter ones to a tenth.

    >>> whole_time(0.234), whole_time(61.3), whole_time(None)
    ('0.2 s', '1 min 1 s', '-')
    """
    return time_text(seconds if seconds is None else round(seconds, 1) if seconds < 10 else float(round(seconds)))


def state_sentence(status: StatusSnapshot) -> str:
    """What the run does, without times."""
    why = f": {status.reason.rstrip('.')}" if status.reason else ""
    done = f"{done_text(status)} rounds are done"
    if status.state == "finished":
        return f"The run has finished{why}; {done}."
    if status.state == "failed":
        return f"The run has failed{why}; {done}."
    if status.state in ("stopped", "paused"):
        return f"The run is {status.state}{why}; {done}."
    if not status.knows_round:
        doing = _doing(status)
        return f"{doing[0].upper()}{doing[1:]}."
    return f"Round {min(status.round + 1, max(status.rounds, 1))} of {status.rounds}: {_doing(status)}."


def done_text(status: StatusSnapshot) -> str:
    """How many of the rounds are done."""
    return f"{status.round if status.knows_round else '-'} of {status.rounds}"


def _doing(status: StatusSnapshot) -> str:
    phase, note = status.phase.phase, status.phase.note.rstrip(".")
    if phase.startswith("waiting for clients") and note:
        return f"waiting {note}" if note.startswith("for ") else f"{phase} ({note})"
    doing = phase or ("not begun" if not status.round else "between rounds")
    if note and not note.startswith("round "):
        doing = f"{doing} ({note})"
    return f"{doing}, waiting for {awaited_text(status)}" if status.phase.waiting else doing


def awaited_text(status: StatusSnapshot) -> str:
    """The clients that the round waits for: their number, and the names of the first."""
    phase = status.phase
    names = [name_text(name) for name in phase.waiting_for[:NAMES]]
    more = f" and {phase.waiting - len(names)} more" if phase.waiting > len(names) else ""
    clients = "client" if phase.waiting == 1 else "clients"
    return f"{phase.waiting} {clients}: {', '.join(names)}{more}"


def now_text(client: ClientStatus, at: float) -> str:
    """What a client does now, and its standing where it has one; at: the time, in Unix time."""
    return "; ".join(filter(None, (_activity_text(client, at), standing_text(client))))


def standing_text(client: ClientStatus) -> str:
    """A client's reputation and its quarantine; empty where the algorithm has none.

    >>> standing_text(ClientStatus(name="ward-3", reputation=0.21, quarantine=40))
    'reputation 0.21, in quarantine until round 40'
    """
    if client.reputation is None:
        return ""
    inside = "" if client.quarantine is None else f", in quarantine until round {client.quarantine}"
    return f"reputation {client.reputation:.2f}{inside}"


def _activity_text(client: ClientStatus, at: float) -> str:
    doing = client.activity
    if client.done is not None and doing:
        doing = f"{doing}, {100 * client.done:.0f} %"
    if client.presence == "simulated":
        return doing
    if client.presence == "connected":
        doing = doing or ("asked" if client.awaited else "waits for work")
        behind = f" (by the relay {name_text(client.via)})" if client.via else ""
        return f"relay: {doing}" if client.relay else f"{doing}{behind}"
    silent = "" if client.contact is None else f" for {whole_time(max(0.0, at - client.contact))}"
    words = {
        "absent": "has not joined yet",
        "gone": f"gone, silent{silent}",
        "left": "has left",
        "declined": "takes no part",
        "set aside": "set aside after refusals",
    }
    return words[client.presence]


REFUSALS = {"401": "without a valid identity", "403": "revoked or not admitted", "429": "too often", "503": "too many"}


def refused_calls_text(status: StatusSnapshot) -> str:
    """How many calls were not admitted, and why; empty without any."""
    parts = [f"{count} {REFUSALS.get(code, f'with status {code}')}" for code, count in status.refused_calls.items()]
    return f"Calls that were not admitted: {', '.join(parts)}." if parts else ""


def metric_pairs(status: StatusSnapshot) -> list[tuple[str, str]]:
    """The metrics of the last evaluation, in words, the deciding one first."""
    pairs = [("on the central test set", status.central), ("over the clients", status.metrics)]
    found = []
    for where, metrics in pairs:
        names = sorted(metrics, key=lambda name: (name != status.metric, name == "loss", name))
        found += [(f"{name.replace('_', ' ')} {where}", number_text(metrics[name])) for name in names]
    return found
