"""The picture of a partition: clients by classes, an area per count, with numbers for each client."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from headway.observe.text import number_text
from headway.reports.page.charts import LETTER, frame, join, short, text
from headway.reports.page.content import Holding, Partition

MOST_CLIENTS, MOST_CLASSES = 40, 40
CELL, ROW, HEAD = 26, 24, 26
COLUMNS = (("size", 58), ("entropy", 66), ("distance", 66))


@dataclass(frozen=True)
class Shown:
    """The clients with a row of their own, and those that are summed up in the last row."""

    holdings: tuple[Holding, ...]
    rest: tuple[Holding, ...]


def shown(partition: Partition) -> Shown:
    """All clients where there are few; else the ones whose labels differ most from the pool's, or the largest."""
    if len(partition.holdings) <= MOST_CLIENTS:
        return Shown(partition.holdings, ())

    def distance(holding: Holding) -> float:
        return holding.distance if partition.classes else holding.size

    chosen = {h.client for h in sorted(partition.holdings, key=distance, reverse=True)[:MOST_CLIENTS]}
    own = tuple(h for h in partition.holdings if h.client in chosen)
    return Shown(own, tuple(h for h in partition.holdings if h.client not in chosen))


def bubble_chart(title: str, partition: Partition) -> Markup:
    """A bubble per client and class; the area shows the number of training examples."""
    rows = shown(partition)
    classes = min(partition.classes, MOST_CLASSES)
    more = partition.classes > classes
    columns = classes + more
    last = f"{len(rows.rest)} more, mean"
    names: list[str] = [short(h.client) for h in rows.holdings] + ([last] if rows.rest else [])
    left: float = 16 + LETTER * max(map(len, names))
    end: float = left + CELL * columns
    most = max((max(_cells(h.labels, classes)) for h in rows.holdings), default=1) or 1
    parts = [text(left + CELL * (k + 0.5), HEAD - 8, str(k), "tick", "middle") for k in range(classes)]
    if more:
        parts.append(text(left + CELL * (classes + 0.5), HEAD - 8, "other", "tick", "middle"))
    place: float = end
    for name, room in COLUMNS:
        place += room
        parts.append(text(place, HEAD - 8, name, "tick", "end"))
    for line, holding in enumerate(rows.holdings):
        numbers = [str(holding.size), number_text(holding.entropy), number_text(holding.distance)]
        parts.append(_row(line, short(holding.client), _cells(holding.labels, classes), most, left, numbers))
    if rows.rest:
        parts.append(_row(len(rows.holdings), last, _mean(rows.rest, classes), most, left, _means(rows.rest)))
    height = HEAD + ROW * len(names) + 6
    width = end + sum(width for _, width in COLUMNS) + 8
    size = Markup(' width="{:.0f}" height="{:.0f}"').format(width, height)
    return frame(title, join(parts), width, height, size, "natural")


def _cells(labels: tuple[int, ...], classes: int) -> list[float]:
    """Counts by class; those beyond what is shown together in one more."""
    rest = [float(sum(labels[classes:]))] if len(labels) > classes else []
    return [*map(float, labels[:classes]), *rest]


def _row(line: int, name: str, cells: list[float], most: float, left: float, numbers: list[str]) -> Markup:
    y = HEAD + ROW * (line + 0.5)
    end = left + CELL * len(cells)
    width = end + sum(width for _, width in COLUMNS)
    parts = [Markup('<path class="grid" d="M4 {:.1f}H{:.1f}"/>').format(y + ROW / 2, width)]
    parts.append(text(left - 10, y + 4, name, "small", "end"))
    for k, count in enumerate(cells):
        if count:
            radius = max((min(count / most, 1)) ** 0.5 * (CELL / 2 - 1.5), 0.8)
            parts.append(
                Markup('<circle class="bubble" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"><title>{}</title></circle>').format(
                    left + CELL * (k + 0.5), y, radius, f"{name}, class {k}: {count:.4g}"
                )
            )
    place = end
    for words, (_, room) in zip(numbers, COLUMNS, strict=True):
        place += room
        parts.append(text(place, y + 4, words, "tick", "end"))
    return join(parts)


def _mean(rest: tuple[Holding, ...], classes: int) -> list[float]:
    columns = zip(*(_cells(h.labels, classes) for h in rest), strict=True)
    return [sum(column) / len(rest) for column in columns]


def _means(rest: tuple[Holding, ...]) -> list[str]:
    count = len(rest)
    return [
        f"{sum(h.size for h in rest) / count:.4g}",
        number_text(sum(h.entropy for h in rest) / count),
        number_text(sum(h.distance for h in rest) / count),
    ]
