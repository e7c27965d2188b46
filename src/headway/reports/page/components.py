"""The parts of a page: sections with pictures and tables, and helpers that several sections share."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from headway.reports.page.axes import thinned
from headway.reports.page.charts import Line
from headway.reports.page.content import Method

MOST_ROWS = 50  # of a table behind a picture


@dataclass(frozen=True)
class PageTable:
    """Rows of texts.  methods: the index of each row's method, where rows are methods."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    methods: Sequence[int] = ()
    words: bool = False  # whether its cells are words, set to the left


@dataclass(frozen=True)
class Figure:
    """A picture, what it shows in a line, and its numbers as a table."""

    title: str
    caption: str
    picture: Markup
    table: PageTable | None = None
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading.  folded: (title, text) that is shown on demand."""

    anchor: str
    title: str
    lead: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[PageTable] = ()
    folded: Sequence[tuple[str, str]] = field(default_factory=tuple)


def band(index: int, name: str, curves: Sequence[Mapping[int, float]], xs: Sequence[Mapping[int, float]]) -> Line:
    """A method's line over the rounds that all its seeds reached: mean, lowest and highest.

    curves, xs: per seed, the value and the place along the axis at each round.
    """
    known = [(curve, x) for curve, x in zip(curves, xs, strict=True) if curve]
    rounds = sorted(set.intersection(*(set(curve) & set(x) for curve, x in known))) if known else []
    at = [[curve[round_] for curve, _ in known] for round_ in rounds]
    return Line(
        index,
        name,
        tuple(statistics.fmean(x[round_] for _, x in known) for round_ in rounds),
        tuple(map(statistics.fmean, at)),
        tuple(map(min, at)),
        tuple(map(max, at)),
    )


def curves_table(
    first: str, lines: Sequence[Line], text: Callable[[float], str], x_text: Callable[[float], str]
) -> PageTable:
    """The numbers of a picture whose lines share their places: a row per place, a column per line."""
    places = sorted({x for line in lines for x in line.x})
    at = [dict(zip(line.x, zip(line.mean, line.low, line.high, strict=True), strict=True)) for line in lines]

    def cell(found: tuple[float, float, float] | None) -> str:
        if found is None:
            return ""
        mean, low, high = map(text, found)
        return mean if low == high else f"{mean} ({low} to {high})"

    chosen = thinned(places, MOST_ROWS)
    note = f"{len(chosen)} of {len(places)} are listed." if len(chosen) < len(places) else ""
    rows = [[x_text(x), *(cell(known.get(x)) for known in at)] for x in chosen]
    return PageTable([first, *(line.name for line in lines)], rows, note)


def per_run(methods: Sequence[Method], figure: Callable[[Method], Sequence[Mapping[int, float]]]) -> list[Line]:
    """A line over rounds for each method that has one."""
    lines = []
    for index, method in enumerate(methods):
        curves = figure(method)
        line = band(index, method.name, curves, [{round_: round_ for round_ in curve} for curve in curves])
        if line.x:
            lines.append(line)
    return lines


def mean(values: Iterable[float]) -> float:
    """The mean of what is a number; NaN of nothing."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def round_text(value: float) -> str:
    """A round's number."""
    return f"{value:.0f}"
