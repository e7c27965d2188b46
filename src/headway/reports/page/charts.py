"""Charts as inline SVG: lines with bands, strips of dots, scatters, bars.

Colours and dashes are classes, so that one style sheet serves light and dark.  Every text is escaped by `Markup`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from headway.observe.text import number_text
from headway.reports.page.axes import MOST_POINTS, Axis, Text, apart, axis, thinned, tick_text

COLOURS, DASHES = 8, 6
WIDTH, HEIGHT, TOP, BOTTOM, LEFT = 460, 280, 12, 42, 54
LETTER, BOLD = 6.4, 7.7  # pixels, of the labels' font on average
LONGEST = 18  # letters of a label on a picture; the whole name is in the legend
FEW = 6  # clients whose names there is room for
NOTHING = Markup("")


@dataclass(frozen=True)
class Line:
    """One method's curve: the mean over its seeds, the lowest and the highest."""

    index: int
    name: str
    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Dots:
    """One method's clients: (name, x, y or nothing)."""

    index: int
    name: str
    points: tuple[tuple[str, float, float], ...]
    mean: float = math.nan
    decile: float = math.nan


def look(index: int) -> str:
    """The classes of a method's colour and dash; beyond eight methods the same colour has another dash."""
    return f"c{index % COLOURS} d{(index + index // COLOURS) % DASHES}"


def short(name: str, most: int = LONGEST) -> str:
    """A name cut to the room that there is, in its middle: names often differ at their ends.

    >>> short("fedprox FedProx.mu=0.1")
    'fedprox …ox.mu=0.1'
    """
    head = (most - 1) // 2
    return name if len(name) <= most else f"{name[:head]}…{name[head + 1 - most :]}"


def join(parts: Iterable[Markup]) -> Markup:
    """Pieces of SVG, one after another."""
    return NOTHING.join(parts)


def frame(title: str, body: Markup, width: float, height: float, more: Markup = NOTHING, kind: str = "") -> Markup:
    """A picture with a name for screen readers."""
    return Markup(
        '<svg class="chart {}" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}"{}><title>{}</title>{}</svg>'
    ).format(kind, width, height, title, more, title, body)


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> Markup:
    """Words at a place."""
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(x, y, kind, anchor, words)


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_name: str,
    x_text: Text = tick_text,
    target: float | None = None,
    log: bool = False,
    unit: str = "",
    zero: bool = False,
) -> Markup:
    """Curves with bands and names at their ends.

    unit: of what is spent along x, which begins at nothing; or none.  zero: whether y begins there.
    """
    right = WIDTH - 12 - BOLD * max((len(short(line.name)) for line in lines), default=0)
    kept = [_thinned(line) for line in lines]
    first = [0.0] if unit else []
    across = axis([*first, *(x for line in kept for x in line.x)], LEFT, right, room=0)
    values = [0.0] * zero + [value for line in kept for part in (line.low, line.high) for value in part]
    up = axis(values, HEIGHT - BOTTOM, TOP, log=log)
    parts = [grid(across, up, x_text, x_name, whole=unit in ("", "bytes"))]  # rounds and bytes are counted
    if target is not None and up.low <= target <= up.high:
        y = up.at(target)
        parts.append(Markup('<path class="target" d="M{} {}H{}"/>').format(LEFT, y, across.end))
        parts.append(text(LEFT + 4, y - 4, f"target {number_text(target)}", "small"))
    parts += [_curve(line, across, up) for line in kept]
    parts.append(_end_names(kept, across, up))
    more = Markup(' data-plot="{}"').format(_plot(kept, across, x_name, unit)) if kept else NOTHING
    return frame(title, join(parts), WIDTH, HEIGHT, more)


def _thinned(line: Line) -> Line:
    rows = thinned(list(zip(line.x, line.mean, line.low, line.high, strict=True)), MOST_POINTS)
    finite = [row for row in rows if all(map(math.isfinite, row))]
    columns = zip(*finite, strict=True) if finite else ((), (), (), ())
    return Line(line.index, line.name, *columns)


def _plot(lines: Sequence[Line], across: Axis, x_name: str, unit: str) -> str:
    """The data with which the script shows values under the pointer."""
    series = [
        {"i": line.index, "n": line.name, "x": [_brief(x) for x in line.x], "y": [number_text(y) for y in line.mean]}
        for line in lines
    ]
    span = [_brief(across.low), _brief(across.high), round(across.start, 1), round(across.end, 1), WIDTH]
    return json.dumps({"x": x_name, "unit": unit, "span": span, "lines": series}, separators=(",", ":"))


def _brief(value: float) -> float:
    return int(value) if value == int(value) else float(f"{value:.5g}")


def grid(
    across: Axis,
    up: Axis,
    x_text: Text,
    x_name: str,
    *,
    labelled: bool = True,
    below: bool = True,
    whole: bool = False,
) -> Markup:
    """Faint lines, and the numbers at both axes."""
    left, right, bottom, top = across.start, across.end, up.start, up.end
    parts = []
    for value in up.ticks(7) if labelled else ():
        y = up.at(value)
        parts.append(Markup('<path class="grid" d="M{:.1f} {}H{:.1f}"/>').format(left, y, right))
        parts.append(text(left - 6, y + 4, tick_text(value), "tick", "end"))
    room = max(len(x_text(across.high)), len(x_text(across.low)), 3) * LETTER + 14
    for value in across.ticks(max(int((right - left) // room), 1), whole) if below else ():
        x = across.at(value)
        parts.append(Markup('<path class="grid" d="M{} {:.1f}V{:.1f}"/>').format(x, bottom, top))
        parts.append(text(x, bottom + 16, x_text(value), "tick", "middle"))
    parts.append(text((left + right) / 2, bottom + 34, x_name, "axis", "middle"))
    return join(parts)


def _curve(line: Line, across: Axis, up: Axis) -> Markup:
    xs = [across.at(x) for x in line.x]
    forth = [f"{x} {up.at(y)}" for x, y in zip(xs, line.high, strict=True)]
    back = [f"{x} {up.at(y)}" for x, y in zip(xs, line.low, strict=True)]
    middle = [f"{x} {up.at(y)}" for x, y in zip(xs, line.mean, strict=True)]
    parts = []
    if line.low != line.high:
        parts.append(Markup('<path class="band" d="M{}Z"/>').format("L".join(forth + back[::-1])))
    if len(middle) > 1:
        parts.append(Markup('<path class="line" d="M{}"/>').format("L".join(middle)))
    elif middle:
        x, y = middle[0].split()
        parts.append(Markup('<circle class="dot" cx="{}" cy="{}" r="4"/>').format(x, y))
    return of_method(line.index, join(parts))


def of_method(index: int, body: Markup) -> Markup:
    """The shapes of one method, so that they can be hidden."""
    return Markup('<g class="{}" data-m="{}">{}</g>').format(look(index), index, body)


def _end_names(lines: Sequence[Line], across: Axis, up: Axis) -> Markup:
    ends = sorted((up.at(line.mean[-1]), across.at(line.x[-1]), line.index, line.name) for line in lines if line.x)
    places = apart([end[0] for end in ends], 14, TOP + 4, HEIGHT - BOTTOM)
    return join(
        of_method(index, text(max(x, 0) + 6 if x < across.end - 1 else across.end + 6, y + 4, short(name), "name"))
        for (_, x, index, name), y in zip(ends, places, strict=True)
    )


def strip_chart(title: str, rows: Sequence[Dots], x_name: str) -> Markup:
    """A row per method, a dot per client, a bar at the mean and a triangle at the worst decile."""
    left = 14 + BOLD * max((len(short(row.name)) for row in rows), default=0)
    few = all(len(row.points) <= FEW for row in rows)
    step = 54 if few else 44
    bottom = TOP + step * max(len(rows), 1)
    marks = (value for row in rows for value in (*(x for _, x, _ in row.points), row.mean, row.decile))
    across = axis(marks, left, WIDTH - 14)
    parts = [grid(across, Axis(0, 1, bottom, TOP), tick_text, x_name, labelled=False)]
    for place, row in enumerate(rows):
        middle = TOP + step * (place + 0.5)
        parts.append(of_method(row.index, text(left - 8, middle + 4, short(row.name), "name", "end")))
        parts.append(_strip(row, across, middle, few))
    return frame(title, join(parts), WIDTH, bottom + BOTTOM)


def _strip(row: Dots, across: Axis, middle: float, few: bool) -> Markup:
    parts = []
    ordered = sorted((x, client) for client, x, _ in row.points if math.isfinite(x))
    for place, (x, client) in enumerate(ordered):
        shift = 0 if few else (place * 7 % 5 - 2) * 4
        label = f"{client}: {number_text(x)}"
        parts.append(_dot(across.at(x), middle + shift, label, 4.5 if few else 3))
    if few:
        for place, (x, client) in enumerate(ordered):  # above and below in turn, so that neighbours do not meet
            parts.append(text(across.at(x), middle + (-9 if place % 2 else 17), short(client, 14), "small", "middle"))
    if math.isfinite(row.mean):
        at = across.at(row.mean)
        parts.append(Markup('<path class="mean" d="M{} {:.1f}V{:.1f}"/>').format(at, middle - 14, middle + 14))
    if math.isfinite(row.decile):
        at, top = across.at(row.decile), middle + (-5 if few else 12)
        parts.append(
            Markup('<path class="mark" d="M{} {:.1f}l5 9h-10z"><title>{}</title></path>').format(
                at, top, f"worst decile: {number_text(row.decile)}"
            )
        )
    return of_method(row.index, join(parts))


def _dot(x: float, y: float, label: str, radius: float) -> Markup:
    return Markup('<circle class="dot" cx="{}" cy="{:.1f}" r="{}"><title>{}</title></circle>').format(
        x, y, radius, label
    )


def scatter_chart(title: str, dots: Dots, spans: tuple[Axis, Axis], named: Sequence[str], labels: bool) -> Markup:
    """Headway across, leeway up: a dot per client, on axes that all methods share; `named` clients by name."""
    across, up = spans
    parts = [grid(across, up, tick_text, "headway (along the course)")]
    parts.append(text(LEFT + 4, TOP + 2, "leeway (across it)", "axis"))
    if across.low < 0 < across.high:
        x = across.at(0)
        parts.append(Markup('<path class="zero" d="M{} {:.1f}V{:.1f}"/>').format(x, up.start, up.end))
    shown = [point for point in dots.points if math.isfinite(point[1]) and math.isfinite(point[2])]
    points = []
    for client, x, y in shown:
        label = f"{client}: headway {number_text(x)}, leeway {number_text(y)}"
        points.append(_dot(across.at(x), up.at(y), label, 4.5 if labels else 3))
    parts.append(of_method(dots.index, join(points)))
    chosen = sorted((up.at(y), across.at(x), client) for client, x, y in shown if client in named)
    places = apart([each[0] for each in chosen], 13, up.end + 8, up.start)
    for (_, x, client), y in zip(chosen, places, strict=True):
        over = x > (across.start + across.end) / 2
        parts.append(text(x + (-8 if over else 8), y + 4, short(client, 26), "small", "end" if over else "start"))
    return frame(title, join(parts), WIDTH, HEIGHT)


def scatter_axes(points: Iterable[tuple[str, float, float]]) -> tuple[Axis, Axis]:
    """Axes on which all these points lie."""
    known = list(points)
    return (
        axis((x for _, x, _ in known), LEFT, WIDTH - 14, room=0.06),
        axis([0.0, *(y for _, _, y in known)], HEIGHT - BOTTOM, TOP + 8),
    )


def bar_chart(
    title: str, rows: Sequence[tuple[int, str, float, float]], parts_named: tuple[str, str], value_text: Text
) -> Markup:
    """A bar per method in two parts, the second one lighter, with the sum at its end."""
    left = 14 + BOLD * max((len(short(name)) for _, name, _, _ in rows), default=0)
    most = max((one + two for _, _, one, two in rows), default=0.0) or 1.0
    full = WIDTH - left - max(80, 8 * max((len(value_text(one + two)) for _, _, one, two in rows), default=0) + 10)
    body = []
    for place, (index, name, one, two) in enumerate(rows):
        y = 6 + 34 * place
        first, second = full * one / most, full * two / most
        body.append(of_method(index, text(left - 8, y + 16, short(name), "name", "end")))
        inside = Markup('<rect class="bar" x="{:.1f}" y="{}" width="{:.1f}" height="22"/>').format(left, y, first)
        inside += Markup('<rect class="bar light" x="{:.1f}" y="{}" width="{:.1f}" height="22"/>').format(
            left + first, y, second
        )
        label = f"{parts_named[0]} {value_text(one)}, {parts_named[1]} {value_text(two)}"
        body.append(of_method(index, inside + Markup("<title>{}</title>").format(label)))
        body.append(text(left + first + second + 6, y + 16, value_text(one + two), "tick"))
    height = 6 + 34 * max(len(rows), 1)
    body.append(text(left, height + 12, f"full: {parts_named[0]}; faint: {parts_named[1]}", "axis"))
    return frame(title, join(body), WIDTH, height + 20)
