"""Charts of what clients did by a clock: when each of them worked, and how often something occurred."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from headway.observe.workload import COUNTED, IN_FLIGHT, VAIN, Span
from headway.reports.page.axes import Axis, axis, nice_step, thinned
from headway.reports.page.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LETTER,
    NOTHING,
    TOP,
    WIDTH,
    frame,
    grid,
    join,
    of_method,
    short,
    text,
)

BROAD, ROW, HEAD = 760, 18, 22
MOST_MARKS, MOST_NUMBERS = 60, 10  # of the ends of rounds
MOST_BINS = 16
HEIGHTS = {COUNTED: 13, VAIN: 5, IN_FLIGHT: 13}  # of the bars, so that they differ in more than colour


def timeline_chart(
    title: str,
    index: int,
    rows: Sequence[Span],
    ends: Sequence[float],
    scale: tuple[str, float],
    describe: Callable[[Span], str],
) -> Markup:
    """A row per client: full bars for work that counted, thin ones for work in vain, hollow ones for what goes on.

    ends: of the rounds.  scale: the unit of the axis, and its seconds.  describe: the description of a row.
    """
    unit, seconds = scale
    left = 14 + LETTER * max(len(short(row.client)) for row in rows)
    bottom = HEAD + ROW * len(rows)
    last = max(ends[-1], *(ended for row in rows for _, ended, _ in row.pieces))
    across = Axis(0.0, last / seconds, left, BROAD - 16)
    parts = [
        grid(across, Axis(0, 1, bottom, HEAD), lambda value: f"{value:g}", f"simulated time, {unit}", labelled=False)
    ]
    marks = "".join(f"M{across.at(end / seconds):g} {HEAD - 4}V{bottom}" for end in thinned(ends, MOST_MARKS))
    parts.append(Markup('<path class="end" d="{}"/>').format(marks))
    parts.append(text(left - 8, HEAD - 9, "round", "tick", "end"))
    step, free = int(nice_step(max(len(ends) / MOST_NUMBERS, 1))), left
    for number in range(step, len(ends) + 1, step):
        x = across.at(ends[number - 1] / seconds)
        if x - free > LETTER:  # rounds may be much shorter than others
            parts.append(text(x, HEAD - 9, str(number), "tick", "middle"))
            free = x + LETTER * (len(str(number)) + 1)
    for place, row in enumerate(rows):
        y = HEAD + ROW * place
        bars = join(_bars(row, across, seconds, y, kind) for kind in HEIGHTS)
        words = text(left - 8, y + 13, short(row.client), "small", "end")
        parts.append(Markup("<g><title>{}</title>{}{}</g>").format(describe(row), words, bars))
    body = of_method(index, join(parts))
    size = Markup(' width="{}" height="{}"').format(BROAD, bottom + BOTTOM)
    return frame(title, body, BROAD, bottom + BOTTOM, size, "natural")


def _bars(row: Span, across: Axis, seconds: float, y: float, kind: str) -> Markup:
    """All bars of a kind as one path."""
    height, found = HEIGHTS[kind], []
    for begun, ended, own in row.pieces:
        if own == kind:
            x, end = across.at(begun / seconds), across.at(ended / seconds)
            width = round(max(end - x, 0.5), 1)
            found.append(f"M{x:g} {y + (ROW - height) / 2:g}h{width:g}v{height}h-{width:g}z")
    return Markup('<path class="{}" d="{}"/>').format(kind, "".join(found)) if found else NOTHING


def histogram_chart(title: str, rows: Sequence[tuple[int, str, Mapping[int, float]]], x_name: str) -> Markup:
    """The count of each whole number, a bar per method side by side; where there are many, several in a bar."""
    most = max((number for _, _, found in rows for number in found), default=0)
    width = -(-(most + 1) // MOST_BINS)
    count = -(-(most + 1) // width)
    binned = [_binned(found, width, count) for _, _, found in rows]
    right = WIDTH - 14
    step = (right - LEFT) / count
    up = axis([0.0, *(share for shares in binned for share in shares)], HEIGHT - BOTTOM, TOP, room=0.0)
    parts = [grid(Axis(0, 1, LEFT, right), up, lambda _: "", x_name, below=False)]
    for place in range(count):
        low, high = place * width, min(place * width + width - 1, most)
        name = f"{low}" if low == high else f"{low}-{high}"
        parts.append(text(LEFT + step * (place + 0.5), up.start + 16, name, "tick", "middle"))
    bar = min(step * 0.8 / len(rows), 40)
    for number, ((index, method, _), shares) in enumerate(zip(rows, binned, strict=True)):
        bars = []
        for place, share in enumerate(shares):
            x = LEFT + step * (place + 0.5) + bar * (number - len(rows) / 2)
            y = up.at(share)
            label = f"{method}: {share * 100:.3g} %"
            bars.append(
                Markup(
                    '<rect class="bar" x="{:.1f}" y="{}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
                ).format(x, y, bar, up.start - y, label)
            )
        parts.append(of_method(index, join(bars)))
    return frame(title, join(parts), WIDTH, HEIGHT)


def _binned(found: Mapping[int, float], width: int, count: int) -> list[float]:
    shares = [0.0] * count
    for number, share in found.items():
        shares[number // width] += share
    return shares
