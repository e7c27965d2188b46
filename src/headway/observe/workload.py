"""The clients' work by a simulated clock, from a journal: times, purposes, counts and staleness."""

from __future__ import annotations

import math
import sqlite3
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from headway.observe.fairness import fairness

STRETCHES = 200  # of a run, at whose ends it is known how long clients have worked
MOST_SPANS = 24  # clients of whom it is kept when they worked: half of them the busiest, half the idlest
FINEST = 1 / 600  # of a run; shorter pauses between pieces of work of a kind are not kept

COUNTED, VAIN, IN_FLIGHT = (
    "counted",
    "vain",
    "flying",
)  # the outcome of work: a counted update, none, or still in flight
Ask = tuple[str, float, float, str, int, int]  # client, asked, ended, status, age, bytes
Piece = tuple[float, float, str]  # begun, ended, and what became of it


@dataclass(frozen=True, slots=True)
class Span:
    """The times at which one client worked.  pieces: in the order of time, short pauses left out."""

    client: str
    asked: int
    counted: int
    seconds: float
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """The work of one run's clients, in seconds of its simulated clock.

    ends: of the rounds.  until: client-seconds of work up to `STRETCHES + 1` times, evenly spread over the run.
    spans: of chosen clients.  counts: how often each client that was asked counted; population: how many there are, or
    `None` where the journal lacks it.  ages: how many counted updates were so many rounds old.
    counted_s, vain_s, counted_bytes, vain_bytes: what went into updates that counted, and into those that did not.
    What was in flight when the run ended is in `until` and `spans`, and in nothing else.
    """

    ends: tuple[float, ...]
    until: tuple[float, ...]
    spans: tuple[Span, ...]
    counts: Mapping[str, int]
    population: int | None
    ages: Mapping[int, int]
    counted_s: float
    vain_s: float
    counted_bytes: int
    vain_bytes: int

    @property
    def clients(self) -> int:
        """The number of clients, as far as the journal has it."""
        return max(self.population or 0, len(self.counts))

    @property
    def never(self) -> float:
        """The share of clients that never counted."""
        return 1 - sum(count > 0 for count in self.counts.values()) / self.clients

    @property
    def jain(self) -> float:
        """Jain's index of how often each client counted, clients never asked included; NaN if none ever did."""
        if not any(self.counts.values()):
            return math.nan
        return fairness(self.counts.values()).jain * len(self.counts) / self.clients

    @property
    def mean_age(self) -> float:
        """By how many rounds a counted update was behind, on average; NaN if there was none."""
        count = sum(self.ages.values())
        return sum(age * many for age, many in self.ages.items()) / count if count else math.nan

    def worked(self, begin: float, end: float) -> float:
        """Client-seconds of work between two times, exact at the ends of stretches."""
        return self._until(end) - self._until(begin)

    def _until(self, time: float) -> float:
        place = min(max(time / self.ends[-1], 0.0), 1.0) * STRETCHES if self.ends[-1] else 0.0
        low = min(int(place), STRETCHES - 1)
        return self.until[low] + (place - low) * (self.until[low + 1] - self.until[low])


def read_work(database: sqlite3.Connection) -> Workload | None:
    """The work in a journal; `None` for a run without a clock or without a request."""
    clock = "SELECT value FROM metrics WHERE scope = 'clock' AND name = ? ORDER BY round"
    figures = {
        name: [float(value) for (value,) in database.execute(clock, (name,))]
        for name in ("ended_s", "wasted_s", "population")
    }
    counts, asked = Counter[str](), Counter[str]()
    seconds, spent_s = defaultdict[str, float](float), defaultdict[str, float](float)
    ages, spent_bytes = Counter[int](), Counter[str]()
    asks = list(_asks(database)) if figures["ended_s"] else []
    for client, begun, ended, status, age, size in asks:
        asked[client] += 1
        seconds[client] += ended - begun
        counts[client] += status == COUNTED
        if status == IN_FLIGHT:
            continue
        spent_s[status] += ended - begun
        spent_bytes[status] += size
        if status == COUNTED:
            ages[age] += 1
    if not asked:
        return None
    span = figures["ended_s"][-1]
    ordered = sorted(asked, key=lambda client: (-seconds[client], client))
    chosen = ordered if len(ordered) <= MOST_SPANS else [*ordered[: MOST_SPANS // 2], *ordered[-MOST_SPANS // 2 :]]
    pieces = _pieces(asks, set(chosen), span)
    return Workload(
        ends=tuple(figures["ended_s"]),
        until=_until(asks, span),
        spans=tuple(Span(c, asked[c], counts[c], seconds[c], pieces[c]) for c in chosen),
        counts=dict(counts),
        population=int(max(figures["population"])) if figures["population"] else None,
        ages=dict(sorted(ages.items())),
        counted_s=spent_s[COUNTED],
        vain_s=sum(figures["wasted_s"]) + spent_s["rejected"],  # older journals lack asks that were made again
        counted_bytes=spent_bytes[COUNTED],
        vain_bytes=spent_bytes.total() - spent_bytes[COUNTED],
    )


def _asks(database: sqlite3.Connection) -> Iterator[Ask]:
    """All asks; those in flight up to now."""
    times = (  # in one pass, in the order of the table's index
        "SELECT round, substr(scope, 8) AS client, max(CASE name WHEN 'asked_s' THEN value END) AS asked, "
        "max(CASE name WHEN 'ended_s' THEN value END) AS ended, max(CASE name WHEN 'age' THEN value END) AS age "
        "FROM metrics WHERE name IN ('asked_s', 'ended_s', 'age') AND scope LIKE 'client:%' GROUP BY round, scope"
    )
    query = (
        "SELECT t.client, t.asked, t.ended, c.status, coalesce(t.age, 0), c.bytes_up + c.bytes_down "
        f"FROM ({times}) t JOIN clients c ON c.round = t.round AND c.client = t.client WHERE t.asked IS NOT NULL"
    )
    if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'earlier'").fetchone():  # older journals have none
        query += " UNION ALL SELECT client, asked_s, ended_s, 'dropped', 0, bytes_down FROM earlier"
        now = "(SELECT max(value) FROM metrics WHERE scope = 'clock' AND name = 'ended_s')"
        query += f" UNION ALL SELECT client, asked_s, {now}, '{IN_FLIGHT}', 0, 0 FROM flying"
    for client, begun, ended, status, age, size in database.execute(query):
        yield str(client), float(begun), float(ended), str(status), int(age), int(size)


def _until(asks: Iterable[Ask], span: float) -> tuple[float, ...]:
    """Client-seconds up to each end of a stretch t: the sum of t - asked over those asked, less that of those ended."""
    step = span / STRETCHES
    ends = [step * place for place in range(STRETCHES)] + [span]
    count, sums = [0] * (STRETCHES + 1), [0.0] * (STRETCHES + 1)
    for _, begun, ended, *_ in asks:
        for time, sign in ((begun, 1), (ended, -1)):
            if (place := bisect_right(ends, time)) <= STRETCHES:
                count[place] += sign
                sums[place] += sign * time
    found, busy, offset = [], 0, 0.0
    for end, more, time in zip(ends, count, sums, strict=True):
        busy, offset = busy + more, offset + time
        found.append(max(end * busy - offset, 0.0))
    return tuple(found)


def _pieces(asks: Iterable[Ask], chosen: set[str], span: float) -> dict[str, tuple[Piece, ...]]:
    """The times at which chosen clients worked; work of a kind with hardly a pause between is one piece."""
    own: dict[str, list[Piece]] = {client: [] for client in chosen}
    for client, begun, ended, status, *_ in asks:
        if client in chosen:
            own[client].append((begun, ended, status if status in (COUNTED, IN_FLIGHT) else VAIN))
    joined = {}
    for client, found in own.items():
        pieces: list[Piece] = []
        for begun, ended, kind in sorted(found):
            if pieces and pieces[-1][2] == kind and begun - pieces[-1][1] < span * FINEST:
                pieces[-1] = (pieces[-1][0], max(ended, pieces[-1][1]), kind)
            else:
                pieces.append((begun, ended, kind))
        joined[client] = tuple(pieces)
    return joined


def at_work(runs: Iterable[Workload], stretches: int) -> list[dict[int, float]]:
    """How many clients of each run were at work on average, in stretches of time that are the same for all.

    The stretches, numbered from 0, divide the time until the first run ends.
    """
    known = list(runs)
    until = min((work.ends[-1] for work in known), default=0.0)
    if not until > 0:
        return []
    cuts = list(pairwise(until * place / stretches for place in range(stretches + 1)))
    return [
        {place: work.worked(begin, end) / (end - begin) for place, (begin, end) in enumerate(cuts)} for work in known
    ]
