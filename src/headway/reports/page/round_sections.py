"""The sections about rounds: the table of methods, learning curves, drift, bytes and seconds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from headway.experiment.comparison import Summary
from headway.experiment.trials import TAIL
from headway.numerics.units import time_text
from headway.observe.fairness import Fairness, fairness
from headway.observe.text import bytes_text, difference_text, listed, metric_text, number_text, time_unit
from headway.reports.page.axes import tick_text
from headway.reports.page.charts import Line, bar_chart, line_chart
from headway.reports.page.components import Figure, PageTable, Section, band, curves_table, mean, per_run, round_text
from headway.reports.page.content import Evidence, Method, SeedRun
from headway.reports.page.journal_reader import Record

DRIFT = {
    "share": (
        "headway share",
        "Mean headway over mean headway plus mean leeway: 1 where all clients pull one way, less the more they pull "
        "across the common direction.",
    ),
    "headway": ("headway", "How far an update goes along the cohort's common direction; mean over clients."),
    "leeway": ("leeway", "How far an update goes across it, which averaging cancels; mean over clients."),
    "diversity": (
        "gradient diversity",
        "Squared lengths of the weighted updates over that of their sum: 1/C where C equal clients agree, 1 where "
        "they are at right angles, more where they cancel.",
    ),
    "dissimilarity": (
        "dissimilarity",
        "Root mean square length of the updates over the length of their mean: 1 where all agree.",
    ),
    "alignment": (
        "alignment",
        "Mean cosine over pairs of clients: 1 the same direction, 0 unrelated, below 0 opposed.",
    ),
    "path_efficiency": (
        "path efficiency",
        "How far a client got over how far its steps went together: 1 on a straight path, 0 where it ended where it "
        "began; mean over clients.",
    ),
    "relative_step_variance": (
        "relative step variance",
        "The share of a client's squared step lengths that lies off its mean step: 0 where all steps are the same; "
        "mean over clients.",
    ),
    "step_variance": (
        "step variance",
        "Squared distances of a client's steps from their mean, summed; mean over clients.",
    ),
}
UNRECORDED = "No journal was kept for these runs, so this was not recorded"


def fairness_of(evidence: Evidence, method: Method) -> Fairness:
    """The fairness of each seed's model, averaged over seeds; NaN where a seed counts for nothing."""
    runs = [run for run in method.runs if run.clients]
    if method.summed.failures or not runs:
        return fairness([])
    each = [fairness(run.clients.values(), evidence.lower_is_better) for run in runs]
    return Fairness(
        *(mean(getattr(one, name) for one in each) for name in ("mean", "variance", "worst", "worst_decile", "jain"))
    )


def summary(evidence: Evidence) -> Section:
    """The table of methods."""
    columns = ["method", "seeds", "mean", "±\u00a095\u00a0%", f"vs\u00a0{evidence.methods[0].name}", "spread"]
    columns += ["worst client", "worst decile", "Jain's index"]
    columns += ["rounds to target", "bytes to target", *(["time to target"] if evidence.clocked else [])]
    columns += ["bytes a round", *(["time a round"] if evidence.clocked else [])]
    columns += [f"at {words}".replace(" ", "\u00a0") for words, _ in _budgets(evidence)]
    columns += ["seconds a round"]
    rows = []
    for method in evidence.methods:
        total, fair = method.summed, fairness_of(evidence, method)
        reached = total.rounds_to_target
        rows.append(
            [
                method.name + (f" ({total.failures} failed)" if total.failures else ""),
                str(len(method.runs)),
                number_text(total.mean),
                number_text(total.half_width),
                difference_text(total.difference, total.difference_half).replace("+-", "±").replace(" ", "\u00a0"),
                number_text(total.spread),
                number_text(fair.worst),
                number_text(fair.worst_decile),
                number_text(fair.jain),
                "-" if reached is None else f"{reached:g}",
                "-" if total.bytes_to_target is None else bytes_text(total.bytes_to_target),
                *([time_text(total.seconds_to_target)] if evidence.clocked else []),
                "-" if math.isnan(total.bytes_a_round) else bytes_text(total.bytes_a_round),
                *([time_text(total.seconds_a_round)] if evidence.clocked else []),
                *(number_text(value(total)) for _, value in _budgets(evidence)),
                _seconds(mean(second for record in method.records() for second in record.seconds.values())),
            ]
        )
    note = (
        f"{evidence.measure.capitalize()} {evidence.where}, a mean over {evidence.tail}, then over seeds; "
        "± is half the width of the 95 % interval over seeds (Student's t). Vs the first method: the difference, "
        "paired by seed. Spread: standard deviation over "
        "these. Worst client, worst decile and Jain's index: of the clients' own values, mean over seeds. "
        f"Target: {number_text(evidence.target)}; rounds and bytes to it are medians over seeds, a dash where most "
        "seeds did not reach it. Bytes count both ways."
        + (" Times are those of the simulated clock, but for the last column." if evidence.clocked else "")
    )
    if evidence.budget is not None:
        note += f" At {bytes_text(evidence.budget)}: the mean as if each run had ended when it had sent so much."
    if evidence.time_budget is not None:
        note += f" At {time_text(evidence.time_budget)}: as if each had ended with its last value by that time."
    table = PageTable(columns, rows, note, methods=range(len(rows)))
    return Section("methods", "Methods", evidence.caption, tables=[table, *measured(evidence)])


def measured(evidence: Evidence) -> list[PageTable]:
    """Every metric of every method over the last rounds, with that of the best constant answer."""
    curves = [
        [record.central if evidence.central else record.clients for record in method.records()]
        for method in evidence.methods
    ]
    kept = [data for method in evidence.methods for data in method.data]
    undefined = {name: why for data in kept for name, why in data.undefined.items()}
    names = dict.fromkeys([*undefined, *(name for each in curves for scope in each for name in scope)])
    answers = list(dict.fromkeys(data.answer for data in kept if data.answer))
    if not names:
        return []
    rows = []
    for name in names:
        cells = [_last_mean([scope[name] for scope in each if name in scope]) for each in curves]
        shown = [metric_text(value) if each else "-" for value, each in zip(cells, curves, strict=True)]
        constant = mean(data.constant[name] for data in kept if name in data.constant)
        rows.append([name.replace("_", " "), *shown, *([number_text(constant)] if answers else [])])
    columns = ["metric", *(method.name for method in evidence.methods), *(["constant answer"] if answers else [])]
    note = f"All metrics {evidence.where}, over the last evaluations and the seeds."
    if answers:
        label = answers[0] if len(answers) == 1 else "at each seed the best one"
        note += f" Constant answer: what the same answer for every example would reach ({label})."
    note += "".join(f" {name.replace('_', ' ').capitalize()} is not defined: {why}." for name, why in undefined.items())
    return [PageTable(columns, rows, note)]


def _last_mean(curves: Sequence[Mapping[int, float]]) -> float:
    """The mean over runs of each one's mean over its last evaluations; NaN where there is none."""
    return mean(statistics.fmean(list(curve.values())[-TAIL:]) for curve in curves if curve)


def _budgets(evidence: Evidence) -> list[tuple[str, Callable[[Summary], float]]]:
    """The point at which methods are compared, in words, and the value there."""
    present: list[tuple[str, Callable[[Summary], float]]] = []
    if evidence.budget is not None:
        present.append((bytes_text(evidence.budget), lambda summary: summary.at_budget))
    if evidence.time_budget is not None:
        present.append((time_text(evidence.time_budget), lambda summary: summary.at_time))
    return present


def learning(evidence: Evidence) -> Section:
    """The metric over rounds, over bytes and over simulated time, and the training loss."""
    methods, name = evidence.methods, evidence.measure
    values = per_run(methods, lambda m: [dict(zip(run.rounds, run.values, strict=True)) for run in m.runs])
    spent = _spent(methods, lambda run: run.bytes_total)
    losses = per_run(methods, _losses)
    pictures = [
        Figure(
            f"{name.capitalize()} over rounds",
            f"{name.capitalize()} {evidence.where}.",
            line_chart(f"{name} over rounds", values, x_name="round", target=evidence.target),
            curves_table("round", values, number_text, round_text),
        ),
        Figure(
            f"{name.capitalize()} over bytes",
            "The same values by the bytes sent until then, up and down together, all clients.",
            line_chart(
                f"{name} over bytes",
                spent,
                x_name="bytes sent so far",
                x_text=bytes_text,
                target=evidence.target,
                unit="bytes",
            ),
            curves_table("bytes", spent, number_text, bytes_text),
        ),
        *_over_time(evidence),
    ]
    if losses:
        pictures.append(
            Figure(
                "Training loss over rounds",
                "Mean over the counted clients' examples, as each client saw it while it trained.",
                line_chart("training loss over rounds", losses, x_name="round", log=True),
                curves_table("round", losses, number_text, round_text),
            )
        )
    return Section("learning", "Learning", _band_words(evidence), pictures)


def _over_time(evidence: Evidence) -> list[Figure]:
    """The metric over simulated time, where runs had a clock."""
    methods, name = evidence.methods, evidence.measure
    missing = [method.name for method in methods if not any(run.simulated_s for run in method.runs)]
    if len(missing) == len(methods):
        return []
    unit, seconds = time_unit(max(at for method in methods for run in method.runs for at in run.simulated_s))
    lines = _spent(methods, lambda run: [at / seconds for at in run.simulated_s])
    picture = line_chart(
        f"{name} over simulated time", lines, x_name=f"simulated time, {unit}", target=evidence.target, unit=unit
    )
    words = "The same values by the time that had passed on the simulated clock."
    words += f" Without a clock: {listed(missing)}." if missing else ""
    title = f"{name.capitalize()} over simulated time"
    return [Figure(title, words, picture, curves_table(unit, lines, number_text, tick_text))]


def _spent(methods: Sequence[Method], spent: Callable[[SeedRun], Sequence[float]]) -> list[Line]:
    """The metric of each method over what its runs have spent, where they know it."""
    lines = []
    for index, method in enumerate(methods):
        runs = [run for run in method.runs if spent(run)]
        curves = [dict(zip(run.rounds, run.values, strict=True)) for run in runs]
        lines.append(band(index, method.name, curves, [dict(zip(r.rounds, spent(r), strict=True)) for r in runs]))
    return [line for line in lines if line.x]


def _band_words(evidence: Evidence) -> str:
    if all(len(method.runs) == 1 for method in evidence.methods):
        return "Each line is one seed, so there is no band around it."
    return "Line: mean over seeds. Band: from the lowest to the highest seed."


def _losses(method: Method) -> list[Mapping[int, float]]:
    """The training loss of each seed: of every round where there is a journal, else of the evaluated ones."""
    return [
        run.record.loss
        if run.record is not None
        else {r: loss for r, loss in zip(run.rounds, run.losses, strict=True) if not math.isnan(loss)}
        for run in method.runs
    ]


def drift(evidence: Evidence) -> Section:
    """The drift of the clients' updates, round by round."""
    names = {name for method in evidence.methods for record in method.records() for name in record.drift}
    if not names:
        kept = any(method.records() for method in evidence.methods)
        why = (
            "The journals hold no drift: the chain protects the updates, late ones were kept, or no client was counted."
        )
        return Section("drift", "Drift", why if kept else f"{UNRECORDED}: how far clients pulled apart is not known.")
    pictures = []
    ordered = [name for name in DRIFT if name in names or (name == "share" and {"headway", "leeway"} <= names)]
    for name in [*ordered, *sorted(names - set(DRIFT))]:
        title, words = DRIFT.get(name, (name, "As the journal names it."))
        lines = per_run(evidence.methods, lambda m, name=name: [_drift_curve(r, name) for r in m.records()])  # type: ignore[misc]
        if lines:
            picture = line_chart(f"{title} over rounds", lines, x_name="round", log=name != "share")
            pictures.append(
                Figure(title.capitalize(), words, picture, curves_table("round", lines, number_text, round_text))
            )
    lead = (
        "Every update splits into a part along the cohort's common direction (headway) and a part across it (leeway). "
        + _band_words(evidence)
    )
    missing = [method.name for method in evidence.methods if not any(r.drift for r in method.records())]
    return Section("drift", "Drift", lead + (f" Not recorded for {listed(missing)}." if missing else ""), pictures)


def _exchanged(name: str, records: Sequence[Record]) -> str:
    """The part of a method's bytes that its exchanges of keys and shares take, as a sentence; "" without any."""
    up, down = (
        sum(sum(record.exchanged.get(way, {}).values()) for record in records) / sum(len(r.rounds) for r in records)
        if records
        else 0.0
        for way in ("up", "down")
    )
    if not (up or down):
        return ""
    moved = f"{bytes_text(up)} up and {bytes_text(down)} down a round"
    return f" Of these bytes, exchanges of keys and shares took {moved} ({name})."


def _drift_curve(record: Record, name: str) -> Mapping[int, float]:
    if name != "share":
        return record.drift.get(name, {})
    along, across = record.drift.get("headway", {}), record.drift.get("leeway", {})
    sums = {r: along[r] + across[r] for r in along if r in across}
    return {r: along[r] / total for r, total in sums.items() if total > 0}


def costs(evidence: Evidence) -> Section:
    """Bytes and seconds."""
    anchor, title = "costs", "Bytes and seconds"
    traffic, clock, rows, methods = [], [], [], []
    for index, method in enumerate(evidence.methods):
        records = method.records()
        if not records:
            continue
        up, down = (_a_round(records, name) for name in ("bytes_up", "bytes_down"))
        train, evaluate = (_a_round(records, name) for name in ("seconds", "evaluation_seconds"))
        total = statistics.fmean(sum(record.seconds.values()) for record in records)
        traffic.append((index, method.name, up, down))
        clock.append((index, method.name, train, evaluate))
        methods.append(index)
        rows.append(
            [
                method.name,
                bytes_text(up),
                bytes_text(down),
                bytes_text(statistics.fmean(_all_bytes(record) for record in records)),
                _seconds(train),
                _seconds(evaluate),
                _seconds(total),
            ]
        )
    if not rows:
        return Section(anchor, title, f"{UNRECORDED}: bytes a round stand in the table of methods, seconds nowhere.")
    columns = ["method", "up a round", "down a round", "bytes of a run", "training a round"]
    columns += ["evaluation a round", "training of a run"]
    note = "Means over rounds and seeds. Up: from clients to the server. Seconds are those of the machine that ran it."
    note += "".join(_exchanged(method.name, method.records()) for method in evidence.methods)
    pictures = [
        Figure(
            "Bytes a round",
            "Up to the server, and down to the clients.",
            bar_chart("bytes a round", traffic, ("up", "down"), bytes_text),
        ),
        Figure(
            "Seconds a round",
            "Training with aggregation, and evaluation; runs side by side share a machine.",
            bar_chart("seconds a round", clock, ("training", "evaluation"), _seconds),
        ),
    ]
    missing = [method.name for method in evidence.methods if not method.records()]
    lead = f"Not recorded for {listed(missing)}." if missing else ""
    return Section(anchor, title, lead, pictures, [PageTable(columns, rows, note, methods)])


def _a_round(records: Sequence[Record], name: str) -> float:
    return statistics.fmean(value for record in records for value in getattr(record, name).values())


def _all_bytes(record: Record) -> float:
    return sum(record.bytes_up.values()) + sum(record.bytes_down.values())


def _seconds(value: float) -> str:
    """A duration, short ones too.

    >>> _seconds(0.01234), _seconds(12.34), _seconds(float("nan"))
    ('0.012 s', '12.3 s', '-')
    """
    if math.isnan(value):
        return "-"
    digits = 3 if value < 0.1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} s"
