"""What an agent writes about its work: sentences for a reader, or JSON lines for a program; no secret is in them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from headway.observe.text import emit

Sink = Callable[[str, str, dict[str, Any]], None]  # of an event: its kind, its sentence, its facts


class AgentLog:
    """Events of an agent, each a kind, a sentence and facts.

    sink: receives each of them; by default they are dropped, as suits a program that embeds an agent.
    """

    def __init__(self, sink: Sink | None = None) -> None:
        self.sink = sink
        self._once: set[str] = set()
        self._lock = threading.Lock()

    def write(self, kind: str, sentence: str, **facts: Any) -> None:
        """Writes one event."""
        if self.sink is not None:
            with self._lock:
                self.sink(kind, sentence, facts)

    def once(self, kind: str, sentence: str, **facts: Any) -> None:
        """Writes an event, unless the last one of its kind has not been ended by `over`."""
        if kind not in self._once:
            self._once.add(kind)
            self.write(kind, sentence, **facts)

    def over(self, kind: str) -> bool:
        """Ends an event that was written once; whether there was one."""
        there = kind in self._once
        self._once.discard(kind)
        return there


def text_sink(stream: TextIO | None = None) -> Sink:
    """Events as lines for a reader, with the time of day."""

    def write(kind: str, sentence: str, facts: dict[str, Any]) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {sentence}", file=stream or sys.stdout, flush=True)

    return write


def json_sink() -> Sink:
    """Events as JSON on standard output, one a line: time (seconds since 1970), event, message, the event's facts."""

    def write(kind: str, sentence: str, facts: dict[str, Any]) -> None:
        emit({"time": round(time.time(), 3), "event": kind, "message": sentence, **facts})

    return write
