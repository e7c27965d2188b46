"""Pictures of comparisons, by matplotlib without a screen."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: told apart with any kind of colour vision, and in grey by their order
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#8C8C00")
INK, FAINT = "#222222", "#D8D8D8"

Series = Sequence[tuple[Sequence[int], Sequence[float]]]


def comparison_picture(
    path: Path,
    *,
    title: str,
    metric: str,
    where: str,
    curves: Mapping[str, Series],
    clients: Mapping[str, Mapping[str, float]],
    target: float | None = None,
) -> None:
    """Draws a metric over rounds, a line per method with the band of its seeds, and each client's final value.

    curves: per method, (rounds, values) of every seed.  clients: per method, each client's value.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 10, "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK}):
        figure = Figure(figsize=(11, 4.8), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(1.75, 1))
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        _curves(left, curves, metric, where, target)
        _clients(right, clients, metric)
        figure.savefig(path, format="png")


def _curves(axes: Axes, curves: Mapping[str, Series], metric: str, where: str, target: float | None) -> None:
    ends = []
    for index, (method, series) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        rounds, mean, low, high = _band(series)
        if not rounds:
            continue
        axes.fill_between(rounds, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.plot(rounds, mean, color=colour, linewidth=2, solid_capstyle="round")
        ends.append((mean[-1], method, colour, rounds[-1]))
    if target is not None:
        axes.axhline(target, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
        axes.text(0.005, target, " target", transform=axes.get_yaxis_transform(), va="bottom", fontsize=8)
    _label_ends(axes, ends)
    _dress(axes, f"{metric.replace('_', ' ')} {where}")
    axes.set_xlabel("round (line: mean, band: range over seeds)")


def _label_ends(axes: Axes, ends: list[tuple[float, str, str, int]]) -> None:
    """Names at the lines' ends, pushed apart where they would overlap."""
    if not ends:
        return
    low, high = axes.get_ylim()
    gap, last = (high - low) * 0.055, None
    for value, method, colour, round_ in sorted(ends):
        height = value if last is None else max(value, last + gap)
        axes.text(round_, height, f"  {method}", color=colour, fontweight="bold", va="center")
        last = height
    axes.margins(x=0)
    axes.set_xlim(right=1.25 * max(end[3] for end in ends))


def _clients(axes: Axes, clients: Mapping[str, Mapping[str, float]], metric: str) -> None:
    names = list(clients)
    for index, method in enumerate(names):
        colour, values = COLOURS[index % len(COLOURS)], sorted(clients[method].values())
        row = len(names) - 1 - index
        axes.scatter(values, [row] * len(values), s=34, color=colour, alpha=0.65, linewidth=0)
        if values:
            axes.plot([statistics.fmean(values)] * 2, [row - 0.28, row + 0.28], color=colour, linewidth=2.5)
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_ylim(-0.6, len(names) - 0.4)
    _dress(axes, f"each client's own {metric.replace('_', ' ')}")
    axes.set_xlabel("mean of the last rounds and of seeds (bar: mean)")


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _band(series: Series) -> tuple[list[int], list[float], list[float], list[float]]:
    """Mean, lowest and highest over the seeds that have a value at a round."""
    at: dict[int, list[float]] = {}
    for rounds, values in series:
        for round_, value in zip(rounds, values, strict=True):
            at.setdefault(round_, []).append(value)
    ordered: list[Any] = sorted(at)
    return (
        ordered,
        [statistics.fmean(at[r]) for r in ordered],
        [min(at[r]) for r in ordered],
        [max(at[r]) for r in ordered],
    )
