"""A picture of a partition: clients by classes, sizes, and examples of each client's images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from headway.data import ClientSkew, FederatedData, Skew
from headway.observe.text import name_text
from headway.reports.comparison_picture import COLOURS, FAINT, INK, drawing, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BUBBLES = 30  # clients; more are drawn as columns of a heat map
MOST_CLASSES = 40  # whose names there is room for
MOST_STRIPS, SAMPLES = 12, 3
BLUE, ORANGE, GREY = COLOURS[0], COLOURS[1], "#9A9A9A"


def partition_picture(path: Path, data: FederatedData, found: Skew, title: str) -> None:
    """Draws the partition as a PNG: what each client holds, its size, and samples where images are shifted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    few = len(found.clients) <= MOST_BUBBLES
    strips = _sampled(data, found)
    height = (1.6 + 0.34 * len(found.clients)) if few else 6.6
    height = max(height, 3.4)
    extra = 0.0 if not strips else 1.0 + 0.72 * SAMPLES
    with drawing():
        figure = Figure(figsize=(11, height + extra + 0.5), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        main: Any = figure
        if strips:
            halves: Any = figure.subfigures(2, 1, height_ratios=(height, extra))
            main = halves[0]
            _samples(halves[1], data, strips)
        (_few if few else _many)(main, found)
        save_picture(figure, path)


def _few(figure: Any, found: Skew) -> None:
    """A row per client: bubbles per class (or the targets' mean and spread), its size, and its distances."""
    left, middle, right = figure.subplots(1, 3, width_ratios=(2.6, 1.2, 1.0), sharey=True)
    places = range(len(found.clients))
    if found.labels is not None:
        _bubbles(left, found)
    else:
        _means(left, found)
    train, test = [each.train for each in found.clients], [each.test for each in found.clients]
    middle.barh(places, train, color=BLUE, height=0.62)
    middle.barh(places, test, left=train, color=BLUE, alpha=0.35, height=0.62)
    for place, (held, tested) in enumerate(zip(train, test, strict=True)):
        middle.annotate(f"{held}", (held + tested, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    middle.margins(x=0.14)
    _dress(middle, "examples: training, test (pale)")
    _distances(right, found.clients)
    some = 0 < len(found.shifted) < len(found.clients)
    left.set_yticks(places, [name_text(each.client, 32) + " *" * bool(some and each.shifts) for each in found.clients])
    if some:
        middle.set_xlabel("*: shifted")
    left.set_ylim(len(found.clients) - 0.4, -0.6)


def _bubbles(axes: Axes, found: Skew) -> None:
    """Areas are proportional to counts; the largest just fills its cell."""
    counts = torch.tensor([each.labels for each in found.clients], dtype=torch.float64)
    classes = counts.shape[1]
    largest = float(counts.max())
    across = min(26.0, 360.0 / classes)  # points; the cell's smaller side
    y, x = (counts > 0).nonzero(as_tuple=True)
    areas = (across**2) * counts[y, x] / largest
    axes.scatter(x.numpy(), y.numpy(), s=areas.clamp(min=1.5).numpy(), color=BLUE, alpha=0.75, linewidth=0)
    _dress(axes, f"training examples of each class (largest bubble: {largest:.0f})")
    axes.set_xlim(-0.7, classes - 0.3)
    step = 1 + (classes - 1) // MOST_CLASSES
    axes.set_xticks(range(0, classes, step))
    axes.set_xlabel("class")


def _means(axes: Axes, found: Skew) -> None:
    means = [each.target_mean or 0.0 for each in found.clients]
    spreads = [each.target_std or 0.0 for each in found.clients]
    sizes = [each.train for each in found.clients]
    pooled = sum(m * n for m, n in zip(means, sizes, strict=True)) / sum(sizes)
    axes.axvline(pooled, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
    axes.errorbar(means, range(len(means)), xerr=spreads, fmt="o", color=BLUE, ecolor=GREY, elinewidth=1.5)
    _dress(axes, "target: mean and standard deviation (dotted: the mean of all)")


def _distances(axes: Axes, clients: Sequence[ClientSkew], upright: bool = False) -> None:
    """A dot per client and kind of distance, and a short line where chance alone would put it."""
    kinds = (("label", BLUE), ("target", BLUE), ("feature", ORANGE))
    shown = [(name, colour) for name, colour in kinds if getattr(clients[0], f"{name}_distance") is not None]
    for name, colour in shown:
        places: Any = range(len(clients))
        values = [getattr(each, f"{name}_distance") for each in clients]
        chances = [getattr(each, f"{name}_chance") for each in clients]
        x, y = (places, values) if upright else (values, places)
        axes.scatter(x, y, s=14 if upright else 30, color=colour, zorder=3, linewidth=0)
        x, y = (places, chances) if upright else (chances, places)
        axes.scatter(x, y, s=60, color=colour, marker="_" if upright else "|", alpha=0.7)
    _dress(axes, "distance to all (-: by chance)" if upright else "distance to all (|: by chance)")
    for place, (name, colour) in enumerate(shown):
        at = (1.0 - 0.07 * place, 1.02) if upright else (0.42 * place, -0.02 - 0.5 / max(len(clients), 6))
        side = ("right", "bottom") if upright else ("left", "top")
        axes.text(*at, f"● {name}", color=colour, transform=axes.transAxes, ha=side[0], va=side[1], fontsize=8.5)
    (axes.set_ylim if upright else axes.set_xlim)(0)


def _many(figure: Any, found: Skew) -> None:
    """A column per client: its size above, and below it the shares of classes (or its targets)."""
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    top, middle, bottom = figure.subplots(3, 1, height_ratios=(1, 1, 2.2), sharex=True)
    order = _order(found)
    places = range(len(order))
    sizes = [found.clients[i].train for i in order]
    top.bar(places, sizes, width=1.0, color=BLUE, linewidth=0)
    if max(sizes) > 30 * min(sizes):
        top.set_yscale("log")
        top.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        top.yaxis.set_minor_locator(NullLocator())
        top.yaxis.set_major_formatter(ScalarFormatter())
    each = f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else f"{sizes[0]} each"
    _dress(top, f"training examples ({each})")
    _distances(middle, [found.clients[i] for i in order], upright=True)
    if found.labels is not None:
        counts = torch.tensor([found.clients[i].labels for i in order], dtype=torch.float64)
        shares = (counts / counts.sum(dim=1, keepdim=True)).T
        norm = PowerNorm(0.6, vmin=0, vmax=1)  # the same in every picture, so that two can be compared
        image = bottom.imshow(
            shares.numpy(), aspect="auto", cmap="Blues", norm=norm, interpolation="nearest", origin="lower"
        )
        bar = figure.colorbar(image, ax=bottom, pad=0.01, aspect=18)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
        _dress(bottom, "share of each class in a client's training examples")
        bottom.grid(visible=False)
        bottom.set_ylabel("class")
        step = 1 + (counts.shape[1] - 1) // MOST_CLASSES
        bottom.set_yticks(range(0, counts.shape[1], step))
        how = "clients, by their commonest class and then their size"
    else:
        means = [found.clients[i].target_mean or 0.0 for i in order]
        spreads = [found.clients[i].target_std or 0.0 for i in order]
        low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
        bottom.fill_between(places, low, high, color=BLUE, alpha=0.15, linewidth=0, step="mid")
        bottom.scatter(places, means, s=9, color=BLUE)
        _dress(bottom, "target: mean and standard deviation")
        how = "clients, by the mean of their targets"
    bottom.set_xlabel(f"{len(order)} {how}")
    bottom.set_xticks([])
    bottom.set_xlim(-0.5, len(order) - 0.5)


def _order(found: Skew) -> list[int]:
    """Clients by their commonest class and then their size, or by the mean of their targets."""
    if found.labels is None:
        return sorted(range(len(found.clients)), key=lambda i: found.clients[i].target_mean or 0.0)

    def rank(i: int) -> tuple[int, int]:
        labels = found.clients[i].labels or (0,)
        return labels.index(max(labels)), -found.clients[i].train

    return sorted(range(len(found.clients)), key=rank)


def _sampled(data: FederatedData, found: Skew) -> list[str]:
    """The clients whose images are shown: some, spread evenly, where any are shifted."""
    if not found.shifted or len(data.input_shape) != 3 or data.input_shape[0] not in (1, 3):
        return []
    count = min(MOST_STRIPS, len(data.clients))
    if count == 1:
        return list(data.clients)
    return [data.clients[round(i * (len(data.clients) - 1) / (count - 1))] for i in range(count)]


def _samples(figure: Any, data: FederatedData, clients: Sequence[str]) -> None:
    """Columns of images: the same classes at every client, as far as it holds them."""
    chosen = [_chosen(data, client) for client in clients]
    shown = [data.store.inputs[index].float() for index in chosen]
    values = torch.cat([images.flatten() for images in shown])
    low, high = float(values.quantile(0.005)), float(values.quantile(0.995))
    if float(values.min()) >= 0.0 and float(values.max()) <= 1.0:
        low, high = 0.0, 1.0
    grid = figure.subplots(SAMPLES, len(clients), squeeze=False)
    named = data.classes is not None and data.store.targets.ndim == 1
    title = "training images of clients as they hold them" + ", with their labels" * named
    figure.suptitle(title, x=0.01, ha="left", fontsize=9.5)
    for column, (client, images, index) in enumerate(zip(clients, shown, chosen, strict=True)):
        for row in range(SAMPLES):
            axes = grid[row][column]
            axes.set_axis_off()
            if row < len(images):
                picture = ((images[row] - low) / max(high - low, 1e-9)).clamp(0, 1).permute(1, 2, 0).numpy()
                axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                if named:
                    label = f"{int(data.store.targets[index[row]])} "
                    axes.text(0, 1, label, transform=axes.transAxes, ha="right", va="top", fontsize=8)
        grid[0][column].set_title(client[:14], fontsize=8, parse_math=False)


def _chosen(data: FederatedData, client: str) -> torch.Tensor:
    """Indices of a few training examples of a client, of the first classes that it holds, one of each in turn."""
    index = data.train[client]
    if data.classes is None or data.store.targets.ndim != 1:
        return index[:SAMPLES]
    labels = data.store.targets[index]
    turn = torch.zeros_like(labels)
    for label in labels.unique().tolist():
        mine = labels == label
        turn[mine] = torch.arange(int(mine.sum()))
    first = (turn * data.classes + labels).argsort(stable=True)
    return index[first[:SAMPLES]]


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=9.5)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
