"""A heat map: a row and a column for each name, the fuller a cell the higher its value, with the value in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from headway.reports.page.charts import frame, join, short, text

CELL, ROW, HEAD, GAP = 84, 28, 30, 10
CAPITAL = 8.4  # pixels of a letter at most, on average over a name with capitals
FULLEST = 0.5  # of the colour, on which the text still has contrast


@dataclass(frozen=True)
class HeatCell:
    """A cell: what is written in it, and how full it is, from 0 to 1; NaN is empty.  marked: whether it has a frame."""

    words: str
    fill: float
    marked: bool = False


def heat_map(
    title: str, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[HeatCell]], apart: int = 0
) -> Markup:
    """The map.  apart: how many columns at the end stand apart, such as a worst case.

    >>> "87.0 %" in heat_map("a", ["Krum"], ["ALIE"], [[HeatCell("87.0 %", 1.0)]])
    True
    """
    left = 12 + CAPITAL * max(len(short(name)) for name in rows)
    places = [left + CELL * k + (GAP if k >= len(columns) - apart else 0) for k in range(len(columns))]
    parts = [
        text(place + CELL / 2, HEAD - 10, short(name, 13), "tick", "middle")
        for place, name in zip(places, columns, strict=True)
    ]
    for line, (name, found) in enumerate(zip(rows, cells, strict=True)):
        y = HEAD + ROW * line
        parts.append(text(left - 8, y + ROW / 2 + 4, short(name), "small", "end"))
        parts += [
            _cell(place, y, cell, f"{name}, {column}: {cell.words or 'not run'}")
            for place, column, cell in zip(places, columns, found, strict=True)
        ]
    width, height = places[-1] + CELL + 4, HEAD + ROW * len(rows) + 4
    size = Markup(' width="{:.0f}" height="{:.0f}"').format(width, height)
    return frame(title, join(parts), width, height, size, "natural")


def _cell(x: float, y: float, cell: HeatCell, title: str) -> Markup:
    fill = 0.0 if math.isnan(cell.fill) else 0.04 + (FULLEST - 0.04) * min(max(cell.fill, 0.0), 1.0)
    shape = Markup(
        '<rect class="heat{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill-opacity="{:.3f}"/>'
    ).format(" failed" if cell.marked else "", x + 1, y + 1, CELL - 2, ROW - 2, fill)
    words = text(x + CELL / 2, y + ROW / 2 + 4, cell.words, "inside", "middle")
    return Markup("<g><title>{}</title>{}{}</g>").format(title, shape, words)
