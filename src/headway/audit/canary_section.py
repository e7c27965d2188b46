"""The page's section on canary clients: their epsilon beside the ledger's, and the cosines that it comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence

from headway.audit.canary_outcome import TOLERANCE, CanaryOutcome
from headway.reports.page.charts import Dots, bar_chart, strip_chart
from headway.reports.page.components import Figure, PageTable, Section

MOST_DOTS = 200
LEAD = (
    "Each canary client sends a random direction that only the auditor knows, a hundred times longer than the clip "
    "allows, through the same clip, protocol, aggregate and noise as any client. The more of it is left in the "
    "release, the easier it is to tell that this client took part, and the larger the epsilon. An epsilon above "
    f"{TOLERANCE} times the ledger's means that noise or clip are not what the ledger counts."
)


def canary_section(outcomes: Sequence[CanaryOutcome]) -> list[Section]:
    """The section, if there were canaries."""
    if not outcomes:
        return []
    figures = [figure for outcome in outcomes for figure in (_epsilons(outcome), _cosines(outcome))]
    return [Section("canaries", "Canary clients: the promise, measured", LEAD, figures)]


def _epsilons(outcome: CanaryOutcome) -> Figure:
    """The two epsilons as bars."""
    high = outcome.high if math.isfinite(outcome.high) else outcome.shown
    shown = min(outcome.shown, 1e4)
    rows = [(0, "ledger", outcome.release, 0.0), (1, "canaries", shown, max(min(high, 1e4) - shown, 0.0))]
    picture = bar_chart("epsilon of one release", rows, ("epsilon", "two standard errors more"), _text)
    caption = (
        f"One release of {outcome.where}, at delta = {outcome.delta:g}; the canaries' epsilon is {outcome.ratio:.2f} "
        "times the ledger's."
    )
    columns = ["", "noise multiplier", "epsilon of one release", "epsilon of the run"]
    lines = [
        ["ledger", f"{outcome.claimed:.3f}", _text(outcome.release), _text(outcome.run)],
        ["canaries", f"{outcome.estimate.multiplier:.3f}", _text(outcome.shown), _text(outcome.shown_run)],
    ]
    note = (
        f"{len(outcome.estimate.cosines)} canaries in {outcome.estimate.rounds} shadow rounds; standard error of the "
        f"noise multiplier {outcome.estimate.error:.1%}; the run has {outcome.rounds} rounds."
    )
    return Figure("Epsilon, counted and measured", caption, picture, PageTable(columns, lines, note))


def _cosines(outcome: CanaryOutcome) -> Figure:
    """The cosines of the canaries with the release, with and without their taking part."""
    estimate = outcome.estimate
    rows = [
        Dots(
            index,
            name,
            tuple((f"canary {k}", float(x), 0.0) for k, x in enumerate(values[:MOST_DOTS])),
            float(values.mean()) if len(values) else math.nan,
        )
        for index, name, values in ((1, "took part", estimate.cosines), (0, "did not", estimate.controls))
    ]
    picture = strip_chart("cosines of canaries with the release", rows, "cosine of the canary and the release")
    caption = "A dot for each canary, a bar at the mean. What cannot be told apart here is hidden."
    return Figure("How much of a client is left", caption, picture)


def _text(epsilon: float | None) -> str:
    if epsilon is None:
        return "-"
    return "unbounded" if epsilon >= 1e4 else f"{epsilon:.2f}"
