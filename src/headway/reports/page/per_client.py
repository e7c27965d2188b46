"""The sections about clients: where each pulls, how well each is served, and the labels that each holds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from headway.observe.text import number_text
from headway.reports.page.charts import FEW, Dots, scatter_axes, scatter_chart, strip_chart
from headway.reports.page.components import Figure, PageTable, Section, mean
from headway.reports.page.content import Evidence, Method, Partition
from headway.reports.page.journal_reader import Pull
from headway.reports.page.matrix import MOST_CLIENTS, bubble_chart, shown
from headway.reports.page.round_sections import fairness_of

MOST_NAMES = 100  # of classes
NAMED = 3  # clients of a method that are named for their leeway, and for their cosine


def pulls(evidence: Evidence) -> Section:
    """Each client's mean headway, leeway and cosine, and the names of those that pull elsewhere."""
    anchor, title = "clients", "Which clients pull where"
    found = [_pulls(evidence, method) for method in evidence.methods]
    if not any(found):
        return Section(anchor, title, "What single clients did was not recorded, or is protected.")
    spans = scatter_axes((name, pull.headway, pull.leeway) for pulls in found for name, pull in pulls.items())
    pictures, rows, methods = [], [], []
    for index, (method, pulls) in enumerate(zip(evidence.methods, found, strict=True)):
        if not pulls:
            continue
        reasons = _reasons(pulls)
        points = tuple((name, pull.headway, pull.leeway) for name, pull in pulls.items())
        few = len(pulls) <= 2 * FEW
        picture = scatter_chart(
            f"headway and leeway of each client, {method.name}",
            Dots(index, method.name, points),
            spans,
            list(pulls) if len(pulls) <= FEW else list(reasons),
            few,
        )
        pictures.append(Figure(method.name, f"{len(pulls)} clients, means over their rounds.", picture))
        for name in list(pulls) if len(pulls) <= FEW else list(reasons):
            pull = pulls[name]
            numbers = [number_text(value) for value in (pull.headway, pull.leeway, pull.cosine)]
            rows.append([method.name, name, *numbers, f"{pull.rounds}", reasons.get(name, "")])
            methods.append(index)
    against = sum(pull.cosine < 0 for pulls in found for pull in pulls.values())
    lead = (
        "A dot is a client: to the right it moves the model along the common direction, higher up it pulls across it; "
        "left of zero it pulls back. "
        + ("No client pulls against the others on average." if not against else "")
        + (" Clients are listed by seed, as each seed draws other clients." if _by_seed(evidence) else "")
    )
    columns = ["method", "client", "headway", "leeway", "cosine", "rounds", "why it is named"]
    tables = [PageTable(columns, rows, "", methods, words=True)]
    if (alarms := _alarms(evidence)) is not None:
        tables.append(alarms)
    return Section(anchor, title, lead, pictures, tables)


def _alarms(evidence: Evidence) -> PageTable | None:
    """The alarms of the runs about their clients, of each run the ones that it raised most often."""
    rows, methods = [], []
    for index, method in enumerate(evidence.methods):
        for run in method.runs:
            for alarm in (run.record.alarms if run.record is not None else ())[:NAMED]:
                span = f"{alarm.first}" if alarm.count == 1 else f"{alarm.count}, from {alarm.first} to {alarm.last}"
                rows.append([method.name, f"{run.seed}", span, alarm.text])
                methods.append(index)
    note = "Alarms: what stood out in three rounds in a row. A run is shown with those that it raised most often."
    return PageTable(["method", "seed", "rounds", "alarm"], rows, note, methods, words=True) if rows else None


def _by_seed(evidence: Evidence) -> bool:
    return evidence.drawn and any(len(method.runs) > 1 for method in evidence.methods)


def _named(evidence: Evidence, client: str, seed: int) -> str:
    return f"{client} (seed {seed})" if _by_seed(evidence) else client


def _pulls(evidence: Evidence, method: Method) -> dict[str, Pull]:
    """Each client's pull, a mean over the seeds at which it is the same client."""
    each: dict[str, list[Pull]] = {}
    for run in method.runs:
        for client, pull in run.record.pulls.items() if run.record is not None else ():
            each.setdefault(_named(evidence, client, run.seed), []).append(pull)
    return {
        client: Pull(
            mean(p.headway for p in pulls),
            mean(p.leeway for p in pulls),
            mean(p.cosine for p in pulls),
            sum(p.rounds for p in pulls),
        )
        for client, pulls in each.items()
    }


def _reasons(pulls: dict[str, Pull]) -> dict[str, str]:
    """Why a client is named: among the largest leeway, or the lowest cosine."""
    across = sorted(pulls, key=lambda name: (-pulls[name].leeway, name))[:NAMED]
    least = sorted(pulls, key=lambda name: (pulls[name].cosine, name))[:NAMED]
    reasons = {}
    for name in dict.fromkeys(across + least):
        words = [f"{_ordinal(across.index(name))} largest leeway".strip().capitalize()] if name in across else []
        if name in least:
            low = f"{_ordinal(least.index(name))} lowest cosine".strip()
            words.append(
                (low if words else low.capitalize()) + (", against the others" if pulls[name].cosine < 0 else "")
            )
        reasons[name] = ", ".join(words)
    return reasons


def _ordinal(place: int) -> str:
    return ("", "second", "third")[place]


def distribution(evidence: Evidence) -> Section:
    """Each client's own value, and how evenly methods serve them."""
    anchor, title = "fairness", "How each client is served"
    rows: list[Dots] = []
    table, methods = [], []
    for index, method in enumerate(evidence.methods):
        values: dict[str, list[float]] = {}
        for run in method.runs:
            for client, value in run.clients.items() if not run.failure else ():
                values.setdefault(_named(evidence, client, run.seed), []).append(value)
        if not values:
            continue
        fair = fairness_of(evidence, method)
        points = tuple((client, mean(each), 0.0) for client, each in values.items())
        rows.append(Dots(index, method.name, points, mean(x for _, x, _ in points), fair.worst_decile))
        methods.append(index)
        numbers = (fair.mean, fair.worst, fair.worst_decile)
        table.append([method.name, *map(number_text, numbers), _variance(fair.variance), number_text(fair.jain)])
    if not rows:
        return Section(anchor, title, "No client's own value is known: clients have no test part, or are protected.")
    worse = "highest" if evidence.lower_is_better else "lowest"
    picture = Figure(
        f"Each client's own {evidence.measure}",
        "A dot per client, a mean over the last rounds"
        + ("; every seed has clients of its own" if _by_seed(evidence) else " and over seeds")
        + ". Bar: mean. Triangle: worst decile.",
        strip_chart(f"each client's own {evidence.measure}", rows, evidence.measure),
        wide=True,
    )
    note = (
        f"Each client counts once. Worst decile: the mean of the {worse} tenth of clients, at least one. "
        "Variance over clients. Jain's index: (sum x)² / (n sum x²), 1 where all are served alike. All are of each "
        "seed's model, then means over seeds; so the worst may lie outside the dots, which are means themselves."
    )
    columns = ["method", "mean", "worst client", "worst decile", "variance", "Jain's index"]
    tables = [PageTable(columns, table, note, methods)]
    if evidence.gaps:
        found = [[client, *map(number_text, numbers)] for client, *numbers in evidence.gaps]
        words = "What each client gains: trained alone, in the best federation, and with all data pooled."
        tables.append(PageTable(["client", "alone", "federated", "pooled"], found, words))
    return Section(anchor, title, "", [picture], tables)


def _variance(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def holdings(evidence: Evidence) -> Section:
    """The labels of each client."""
    anchor, title, found = "partition", "Who holds what", evidence.partition
    read = _read(evidence)
    if isinstance(found, str):
        return Section(anchor, title, found, tables=read)
    rows = shown(found)
    lead = f"Training examples of the {len(found.holdings)} clients of {found.source}"
    lead += f", as drawn by seed {evidence.partition_seed}." if evidence.drawn else "."
    if rows.rest:
        what = "whose labels differ most from those of all together" if found.classes else "that hold the most"
        lead += f" The {MOST_CLIENTS} {what} are shown; the other {len(rows.rest)} are summed up."
    columns = ["client", "size", "label entropy", "distance to the pool"] if found.classes else ["client", "size"]
    table = PageTable(columns, _rows(found), "", ())
    if not found.classes:
        return Section(
            anchor, title, f"{lead} The targets are not classes, so only sizes are shown.", tables=[table, *read]
        )
    caption = (
        "The area of a bubble is a count; columns are classes. Entropy: of a client's labels in nats, "
        f"{math.log(found.classes):.2f} where all {found.classes} are equally frequent and 0 where it holds one. "
        "Distance: total variation to the labels of all clients together, 0 where they are alike."
    )
    picture: Markup = bubble_chart("training examples by client and class", found)
    return Section(anchor, title, lead, [Figure("Clients by classes", caption, picture, table, wide=True)], read)


def _read(evidence: Evidence) -> list[PageTable]:
    """The notes on reading the data, as the run folders keep them, and the names of the classes."""
    kept = [data for method in evidence.methods for data in method.data]
    names = next((data.class_names for data in kept if data.class_names), ())
    notes = dict.fromkeys(note for data in kept for note in data.notes)
    tables = (
        [PageTable(["what was changed when the data were read"], [[note] for note in notes], words=True)]
        if notes
        else []
    )
    if names:
        rows = [[f"{index}", name] for index, name in enumerate(names[:MOST_NAMES])]
        more = f"{len(names) - MOST_NAMES} more are not shown." if len(names) > MOST_NAMES else ""
        tables.append(PageTable(["class", "name"], rows, more, words=True))
    return tables


def _rows(found: Partition) -> Sequence[Sequence[str]]:
    rows = shown(found)
    cells = [[h.client, str(h.size), *_skew(found, h.entropy, h.distance)] for h in rows.holdings]
    if rows.rest:
        size = mean(float(h.size) for h in rows.rest)
        skew = _skew(found, mean(h.entropy for h in rows.rest), mean(h.distance for h in rows.rest))
        cells.append([f"{len(rows.rest)} more, mean", f"{size:.4g}", *skew])
    return cells


def _skew(found: Partition, entropy: float, distance: float) -> list[str]:
    return [number_text(entropy), number_text(distance)] if found.classes else []
