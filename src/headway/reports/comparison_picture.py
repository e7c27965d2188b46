"""Pictures of comparisons, by matplotlib without a screen."""

from __future__ import annotations

import contextlib
import statistics
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.observe.text import name_text, time_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: distinct with any kind of colour vision, and in grey by their order
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#8C8C00")
DASHES = ("-", "--", ":")  # when the colours have been used up
FEW = 6  # clients whose names there is room for
INK, FAINT = "#222222", "#D8D8D8"

Series = Sequence[tuple[Sequence[int], Sequence[float]]]  # a seed's rounds and values
Times = Sequence[Sequence[float]]  # a seed's places along an axis, one for each of its values


@contextlib.contextmanager
def drawing(size: float = 9.5) -> Iterator[None]:
    """Within, text is of this size in points and as written: a client's id may hold a dollar sign."""
    import matplotlib as mpl

    colours: dict[Any, Any] = {"axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK}
    with mpl.rc_context({"font.size": size, "text.parse_math": False, **colours}):
        yield


def comparison_picture(
    path: Path,
    *,
    title: str,
    metric: tuple[str, str],
    curves: Mapping[str, Series],
    clients: Mapping[str, Sequence[tuple[str, float]]],
    times: Mapping[str, Times] | None = None,
    target: float | None = None,
    stopped: Collection[str] = (),
) -> None:
    """Draws a metric over rounds, a line per method with the band of its seeds, and each client's final value.

    metric: its name, and on which examples it was measured.  curves: per method, (rounds, values) of every seed.
    clients: per method, (name or nothing, value) of each client.
    times: per method, the simulated seconds at the rounds of every seed, over which the metric is drawn as well.
    stopped: the methods of which a seed failed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with drawing(10):
        ratios = [1.75] * (1 if times is None else 2) + [1.0] * any(clients.values())
        figure = Figure(figsize=(11 if times is None else 16.5, 4.8), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        panels = list(figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0])
        if any(clients.values()):  # else clients have no test part of their own
            _clients(panels.pop(), clients, metric[0])
        title = f"{metric[0].replace('_', ' ')} {metric[1]}"
        by_round = {method: [rounds for rounds, _ in series] for method, series in curves.items()}
        _curves(panels[0], curves, by_round, title, "round", target, stopped)
        if times is not None:
            unit, seconds = time_unit(max((at for each in times.values() for seed in each for at in seed), default=0.0))
            scaled = {method: [[at / seconds for at in seed] for seed in each] for method, each in times.items()}
            _curves(panels[1], curves, scaled, title, f"simulated time in {unit}", target, stopped)
        save_picture(figure, path)


def save_picture(figure: Figure, path: Path) -> None:
    """Writes a PNG; a letter that no font here has is an empty box in it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(path, format="png")


def _curves(
    axes: Axes,
    curves: Mapping[str, Series],
    along: Mapping[str, Times],
    title: str,
    x_name: str,
    target: float | None,
    stopped: Collection[str],
) -> None:
    """Lines over `along`, which has a place for every value."""
    ends: list[tuple[float, str, str, float]] = []
    last = max((places[-1] for series in along.values() for places in series if places), default=1)
    for index, (method, series) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        rounds, places, mean, low, high = _band(series, along[method])
        if not rounds:
            continue
        axes.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
        dashes = DASHES[index // len(COLOURS) % len(DASHES)]
        axes.plot(places, mean, color=colour, linewidth=2, linestyle=dashes, solid_capstyle="round")
        if method in stopped:
            axes.plot(places[-1], mean[-1], marker="x", color=colour, markersize=8, markeredgewidth=2)
        label = f"{method} (dashed)" if dashes == "--" else f"{method} (dotted)" if dashes == ":" else method
        ends.append((mean[-1], f"{label}, a seed stopped" if method in stopped else label, colour, places[-1]))
    if target is not None:
        axes.axhline(target, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
        axes.text(0.005, target, " target", transform=axes.get_yaxis_transform(), va="bottom", fontsize=8)
    _label_ends(axes, ends, last)
    _dress(axes, title)
    axes.set_xlabel(f"{x_name} (line: mean, band: range over seeds)")


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str, float]], last: float) -> None:
    """Names at the lines' ends, pushed apart evenly where they would overlap."""
    from matplotlib.patheffects import withStroke

    low, high = axes.get_ylim()
    gap = (high - low) * 0.06
    heights = _apart([end[0] for end in sorted(ends)], gap)
    top = max([high, *(height + gap / 2 for height in heights)])
    for (_, name, colour, place), height in zip(sorted(ends), heights, strict=True):
        words = axes.text(place, height, f"  {name}", color=colour, fontweight="bold", va="center")
        words.set_path_effects([withStroke(linewidth=3, foreground="white")])  # where another line passes behind
    axes.set_ylim(low, top)
    axes.margins(x=0)
    axes.set_xlim(right=1.28 * last)
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 < tick <= last])


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Ascending values moved as little as groups of neighbours need to stand `gap` apart.

    >>> _apart([0.0, 1.0, 1.0], 0.5)
    [0.0, 0.75, 1.25]
    """
    groups: list[list[float]] = []
    for value in values:
        groups.append([value])
        while len(groups) > 1 and _low(groups[-1], gap) < _low(groups[-2], gap) + gap * len(groups[-2]):
            merged = groups.pop()
            groups[-1] += merged
    return [_low(group, gap) + gap * place for group in groups for place in range(len(group))]


def _low(group: Sequence[float], gap: float) -> float:
    """The place of the lowest of a group that is centred on its mean."""
    return statistics.fmean(group) - gap * (len(group) - 1) / 2


def _clients(axes: Axes, clients: Mapping[str, Sequence[tuple[str, float]]], metric: str) -> None:
    names = list(clients)
    for index, method in enumerate(names):
        colour, values = COLOURS[index % len(COLOURS)], [value for _, value in clients[method]]
        row = len(names) - 1 - index
        axes.scatter(values, [row] * len(values), s=34, color=colour, alpha=0.65, linewidth=0)
        if values:
            axes.plot([statistics.fmean(values)] * 2, [row - 0.28, row + 0.28], color=colour, linewidth=2.5)
        if len(values) <= FEW:  # names above and below in turn, so that neighbours do not meet
            for place, (client, value) in enumerate(sorted(clients[method], key=lambda each: each[1])):
                above = place % 2
                height, side = row + (0.14 if above else -0.14), "bottom" if above else "top"
                axes.text(value, height, name_text(client, 20), color=INK, fontsize=7, ha="center", va=side)
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_ylim(-0.6, len(names) - 0.4)
    _dress(axes, f"each client's own {metric.replace('_', ' ')}")
    axes.set_xlabel("a dot per client, over the last rounds (bar: mean)")


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _band(series: Series, along: Times) -> tuple[list[int], list[float], list[float], list[float], list[float]]:
    """Rounds, their mean places, and mean, lowest and highest value over the seeds, where all seeds have a value."""
    at: dict[int, list[float]] = {}
    places: dict[int, list[float]] = {}
    for (rounds, values), where in zip(series, along, strict=True):
        for round_, value, place in zip(rounds, values, where, strict=True):
            at.setdefault(round_, []).append(value)
            places.setdefault(round_, []).append(place)
    common = [round_ for round_ in sorted(at) if len(at[round_]) == len(series)]
    return (
        common,
        [statistics.fmean(places[r]) for r in common],
        [statistics.fmean(at[r]) for r in common],
        [min(at[r]) for r in common],
        [max(at[r]) for r in common],
    )
