"""What a server writes about its work: sentences for a reader, and JSON lines for a program; no secret is in them."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from headway.core.errors import ConfigError
from headway.numerics.units import time_text
from headway.observe.round_report import RoundReport
from headway.observe.text import bytes_text, number_text, strict
from headway.protocol.reports import Status

STATUSES: tuple[Status, ...] = ("counted", "dropped", "rejected")
Sink = Callable[[str, str, dict[str, Any]], None]  # of an event: its kind, its sentence, its facts


class ServerLog:
    """Events of a server, each a kind, a sentence and facts.

    sinks: receive each of them, one event at a time; without any they are dropped, as suits a program that embeds a
    server.
    """

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self.sinks = sinks
        self._lock = threading.Lock()
        self._last: dict[str, str] = {}

    def write(self, kind: str, sentence: str, **facts: Any) -> None:
        """Writes one event."""
        with self._lock:
            for sink in self.sinks:
                sink(kind, sentence, facts)

    def round(self, report: RoundReport, rounds: int, headline: str, left_s: float | None = None) -> None:
        """Writes a round that is done; left_s: until the last one, as far as that can be said."""
        counts: dict[str, int] = {status: report.count(status) for status in STATUSES}
        parts = [f"{number} {status}" for status, number in counts.items() if number or status == "counted"]
        parts += [] if report.train_loss is None else [f"loss {number_text(report.train_loss)}"]
        value = report.headline(headline)
        parts += [] if value is None else [f"{headline} {number_text(value)}"]
        parts += [f"{bytes_text(report.bytes_up + report.bytes_down)}", time_text(report.seconds)]
        parts += [] if left_s is None else [f"about {time_text(left_s)} left"]
        facts: dict[str, Any] = {"round": report.round, "rounds": rounds, **counts, "train_loss": report.train_loss}
        facts |= {"metrics": dict(report.metrics), "bytes_up": report.bytes_up, "bytes_down": report.bytes_down}
        self.write(
            "round",
            f"round {report.round}/{rounds}: {', '.join(parts)}",
            **facts,
            seconds=report.seconds,
            left_s=left_s,
        )
        for client in report.clients.with_status("rejected"):
            sentence = f"round {report.round}: the update of {client.client} was refused: {client.reason}"
            self.write("refused", sentence, round=report.round, client=client.client, reason=client.reason)
        for note in (*report.notes, *(alarm.text for alarm in report.alarms)):
            self.write("note", f"round {report.round}: {note}", round=report.round)

    def change(self, kind: str, sentence: str, **facts: Any) -> None:
        """Writes an event, unless its sentence is that of the last one of its kind."""
        if self._last.get(kind) != sentence:
            self._last[kind] = sentence
            self.write(kind, sentence, **facts)

    def forget(self, kind: str) -> None:
        """Has the next event of a kind written, whatever its sentence."""
        self._last.pop(kind, None)


def json_lines(stream: TextIO) -> Sink:
    """Events as JSON, one a line: time (seconds since 1970), event, message, and the event's facts."""

    def write(kind: str, sentence: str, facts: dict[str, Any]) -> None:
        line = {"time": round(time.time(), 3), "event": kind, "message": sentence, **facts}
        print(json.dumps(strict(line), allow_nan=False), file=stream, flush=True)

    return write


def text_lines(stream: TextIO | None = None) -> Sink:
    """Events as lines for a reader, with the time of day."""

    def write(kind: str, sentence: str, facts: dict[str, Any]) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {sentence}", file=stream or sys.stdout, flush=True)

    return write


def open_log(path: Path) -> TextIO:
    """The file of JSON lines, to which is added.

    Raises:
        ConfigError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"the log {path} cannot be written: {getattr(error, 'strerror', None) or error}.") from error
