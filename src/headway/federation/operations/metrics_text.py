"""The status as metrics in the text format of Prometheus, version 0.0.4."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from headway.federation.operations.status_snapshot import ClientStatus, Presence, RunState, StatusSnapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[Mapping[str, str], float | None]
OUTCOMES = ("counted", "late", "refused", "lost")


def metrics_text(status: StatusSnapshot) -> str:
    """The whole exposition.  Sums begin anew with a new process, which Prometheus expects of counters."""
    return "".join([*_run(status), *_updates(status), *_results(status), *_clients(status)])


def process_text(statm: Path = Path("/proc/self/statm")) -> str:
    """The time and, where the system shows it in this way, the memory of this process."""
    parts = [family("process_cpu_seconds_total", "counter", "Processor time.", [({}, time.process_time())])]
    with contextlib.suppress(OSError, ValueError, IndexError):
        resident = float(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        parts.append(family("process_resident_memory_bytes", "gauge", "Memory in use.", [({}, resident)]))
    return "".join(parts)


def family(name: str, kind: Literal["counter", "gauge"], help_: str, samples: Sequence[Sample]) -> str:
    r"""One metric with its samples; those without a value are left out.

    >>> print(family("a_total", "counter", "What.", [({"client": 'x"\n'}, 2.0), ({}, None)]), end="")
    # HELP a_total What.
    # TYPE a_total counter
    a_total{client="x\"\n"} 2
    """
    known = [(labels, value) for labels, value in samples if value is not None]
    if not known:
        return ""
    lines = [f"# HELP {name} {_escaped(help_, quote=False)}", f"# TYPE {name} {kind}"]
    for labels, value in known:
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        lines.append(f"{name}{{{inside}}} {_number(value)}" if inside else f"{name} {_number(value)}")
    return "\n".join(lines) + "\n"


def _escaped(text: str, quote: bool = True) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))


def _run(status: StatusSnapshot) -> Iterator[str]:
    phase, totals = status.phase, status.totals
    is_waiting = bool(phase.phase)
    labels = {"name": status.name, "job": status.job, "kind": status.kind}
    yield family("headway_run_info", "gauge", "The run, always 1.", [(labels, 1)])
    states = [({"state": state}, float(state == status.state)) for state in get_args(RunState)]
    yield family("headway_run_state", "gauge", "1 for the state of the run, 0 for the others.", states)
    yield family("headway_start_time_seconds", "gauge", "When it began, in Unix time.", [({}, status.started)])
    yield family("headway_rounds_completed_total", "counter", "Rounds that are complete.", [({}, status.round)])
    yield family("headway_rounds_planned", "gauge", "Rounds of the run.", [({}, status.rounds)])
    yield family(
        "headway_round_seconds", "gauge", "Median of the last rounds, with waiting.", [({}, status.round_seconds)]
    )
    yield family("headway_remaining_seconds", "gauge", "Estimate of the time to the end.", [({}, status.eta_s)])
    since = max(0.0, status.at - phase.since) if is_waiting else None
    yield family(
        "headway_phase_seconds", "gauge", "Time since the present phase began.", [({"phase": phase.phase}, since)]
    )
    until = None if phase.deadline is None else phase.deadline - status.at
    yield family("headway_deadline_seconds", "gauge", "Time to the deadline of the round.", [({}, until)])
    yield family("headway_awaited_clients", "gauge", "Clients that the round waits for.", [({}, phase.waiting)])
    moved = [({"direction": "up"}, totals.bytes_up), ({"direction": "down"}, totals.bytes_down)]
    yield family("headway_round_bytes_total", "counter", "Bytes of messages in complete rounds.", moved)
    yield family("headway_busy_seconds_total", "counter", "Seconds of rounds and evaluations.", [({}, totals.seconds)])


def _updates(status: StatusSnapshot) -> Iterator[str]:
    totals = status.totals
    ended = {"counted": totals.counted, "refused": totals.rejected, "lost": totals.dropped}
    samples = [({"outcome": name}, float(count)) for name, count in ended.items()]
    yield family("headway_updates_total", "counter", "Requests to train in complete rounds, by outcome.", samples)


def _results(status: StatusSnapshot) -> Iterator[str]:
    values = [({"metric": name, "on": "clients"}, value) for name, value in status.metrics.items()]
    values += [({"metric": name, "on": "central"}, value) for name, value in status.central.items()]
    yield family("headway_metric", "gauge", "The last evaluation.", values)
    loss = status.history[-1].train_loss if status.history else None
    yield family("headway_training_loss", "gauge", "Of the last round.", [({}, loss)])
    drift = [({"figure": name}, value) for name, value in status.drift.items()]
    yield family("headway_drift", "gauge", "How far the updates of the last round point apart.", drift)
    spent = {} if not status.history else status.history[-1].epsilon
    yield family("headway_epsilon", "gauge", "Spent, by account.", [({"account": n}, e) for n, e in spent.items()])
    budgets = [({"account": name}, limit) for name, limit in status.privacy.budgets.items()]
    yield family("headway_epsilon_budget", "gauge", "The largest epsilon of each account.", budgets)


def _clients(status: StatusSnapshot) -> Iterator[str]:
    clients = status.clients
    if status.has_agents:
        samples = [
            ({"presence": name}, float(status.presences.get(name, 0)))
            for name in get_args(Presence)
            if name != "simulated"
        ]
        yield family("headway_clients", "gauge", "Clients by presence.", samples)
    refused = [({"status": code}, float(count)) for code, count in status.refused_calls.items()]
    yield family("headway_refused_calls_total", "counter", "Calls that were not admitted, by the answer.", refused)
    if len(clients) < sum(status.presences.values()):  # series that come and go with the choice would be wrong
        return
    yield family(
        "headway_client_updates_total", "counter", "Updates of a client, by outcome.",
        [({"client": each.name, "outcome": name}, float(getattr(each, name))) for each in clients for name in OUTCOMES],
    )  # fmt: skip
    moved = [
        ({"client": each.name, "direction": way}, float(getattr(each, f"bytes_{way}"))) for each, way in _ways(clients)
    ]
    yield family("headway_client_bytes_total", "counter", "Bytes of a client.", moved)
    if status.has_agents:
        there = [({"client": each.name}, float(each.presence == "connected")) for each in clients]
        yield family("headway_client_connected", "gauge", "Whether a client is in contact.", there)
        silent = [
            ({"client": each.name}, max(0.0, status.at - each.contact)) for each in clients if each.contact is not None
        ]
        yield family("headway_client_silent_seconds", "gauge", "Time since the last contact of a client.", silent)


def _ways(clients: Sequence[ClientStatus]) -> Iterator[tuple[ClientStatus, str]]:
    return ((each, way) for each in clients for way in ("up", "down"))
