"""Charts of an audit: receiver operating characteristics on logarithmic axes."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from headway.audit.audit_result import Curve
from headway.reports.page.axes import Axis, tick_text
from headway.reports.page.charts import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, frame, grid, join, of_method, text

LEAST = 1e-3  # the lowest rate that is shown


def roc_chart(title: str, curves: Sequence[Curve]) -> Markup:
    """The rate of members found by the rate of false alarms, both by their logarithm, with the line of chance."""
    across = Axis(LEAST, 1.0, LEFT, WIDTH - 24, log=True)
    up = Axis(LEAST, 1.0, HEIGHT - BOTTOM, TOP, log=True)
    parts = [
        grid(across, up, tick_text, "share of false alarms"),
        text(LEFT + 4, TOP + 4, "share of members found", "axis"),
    ]
    parts.append(Markup('<path class="target" d="M{} {}L{} {}"/>').format(LEFT, up.start, across.end, up.end))
    parts.append(text(across.at(0.05), up.at(0.05) + 18, "chance", "small"))
    for index, curve in enumerate(curves):
        points = [
            f"{across.at(max(x, LEAST))} {up.at(max(y, LEAST))}"
            for x, y in zip(curve.false_positive, curve.true_positive, strict=True)
            if x >= LEAST
        ]
        parts.append(of_method(index, Markup('<path class="line" d="M{}"/>').format("L".join(points))))
        parts.append(of_method(index, text(LEFT + 10, TOP + 24 + 16 * index, curve.name, "name")))
    return frame(title, join(parts), WIDTH, HEIGHT)
