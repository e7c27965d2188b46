"""The picture of a grid of rules and attacks: a heat map for each setting."""

from __future__ import annotations

import io
import math

from headway.experiment.grid_result import Cell, GridResult


def attack_picture(result: GridResult, metric: str) -> bytes:
    """The heat maps as a PNG: a row for each rule, a column for each attack, and the worst case at the end."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = [*result.attacks, "worst"]
    width, height = 2.2 + 0.85 * len(columns), 0.9 + 0.36 * len(result.rules)
    with matplotlib.rc_context({"font.size": 8}):
        figure = Figure(figsize=(width, height * len(result.settings)), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(result.settings), 1, squeeze=False)[:, 0]
        known = [value for value in result.values.values() if math.isfinite(value)] or [0.0, 1.0]
        for panel, setting in zip(panels, result.settings, strict=True):
            grid = [_row(result, rule, setting) for rule in result.rules]
            colours = "viridis" if result.higher else "viridis_r"
            panel.imshow(grid, cmap=colours, vmin=min(known), vmax=max(known), aspect="auto")
            panel.set_xticks(range(len(columns)), columns, rotation=25, ha="right")
            panel.set_yticks(range(len(result.rules)), result.rules)
            panel.set_title(f"{metric}, data {setting}", loc="left")
            middle = (min(known) + max(known)) / 2
            for row, rule in enumerate(result.rules):
                for column, value in enumerate(grid[row]):
                    failed = column < len(result.attacks) and (
                        Cell(rule, result.attacks[column], setting) in result.failures
                    )
                    label = "diverged" if failed else "" if math.isnan(value) else f"{value:.2f}"
                    dark = (value < middle) if result.higher else (value > middle)
                    panel.text(column, row, label, ha="center", va="center", color="white" if dark else "black")
            panel.axvline(len(result.attacks) - 0.5, color="white", linewidth=2)
        target = io.BytesIO()
        figure.savefig(target, format="png", dpi=150)
    return target.getvalue()


def _row(result: GridResult, rule: str, setting: str) -> list[float]:
    """The values of a rule under each attack, and in its worst case."""
    values = [result.value(rule, attack, setting) for attack in result.attacks]
    return [*values, result.worst(rule, setting)[0]]
