"""The section about a simulated clock: when clients worked, how often they counted, how stale, and work in vain."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from headway.numerics.units import time_text
from headway.observe.text import bytes_text, listed, number_text, time_unit
from headway.observe.workload import IN_FLIGHT, Span, Workload, at_work
from headway.reports.page.axes import MOST_POINTS, thinned, tick_text
from headway.reports.page.bars import histogram_chart, timeline_chart
from headway.reports.page.charts import bar_chart, line_chart
from headway.reports.page.components import Figure, PageTable, Section, band, curves_table, mean, round_text
from headway.reports.page.content import Evidence, Method

STRETCHES = 120  # of the curve of clients at work

MethodWork = Sequence[tuple[int, Method, list[Workload]]]


def clock_section(evidence: Evidence) -> Section | None:
    """The section about the simulated clock; `None` where no run has one."""
    clocked = [
        (index, method, works)
        for index, method in enumerate(evidence.methods)
        if (works := [record.work for record in method.records() if record.work is not None])
    ]
    if not clocked:
        return None
    figures = [_busy(clocked), _participation(clocked), *_wasted(clocked)]
    if late := [each for each in clocked if any(age for work in each[2] for age in work.ages)]:
        figures.append(_ages(late))
    figures += [_timeline(index, method) for index, method, _ in clocked]
    missing = [
        method.name for index, method in enumerate(evidence.methods) if index not in {place for place, *_ in clocked}
    ]
    lead = (
        "Work is in vain where no update of it counted: the client was late, failed or left, or was rejected. What was "
        "in flight when a run ended is neither."
    )
    lead += f" Not known of {listed(missing)}." if missing else ""
    return Section("clock", "Time, waste and participation", lead, figures, [_table(clocked)])


def _busy(clocked: MethodWork) -> Figure:
    """The number of clients at work, over simulated time."""
    unit, seconds = time_unit(max(work.ends[-1] for _, _, works in clocked for work in works))
    lines = []
    for index, method, works in clocked:
        curves = at_work(works, STRETCHES)
        until = min(work.ends[-1] for work in works)
        middles = {place: until * (place + 0.5) / STRETCHES / seconds for place in range(STRETCHES)}
        lines.append(band(index, method.name, curves, [middles for _ in curves]))
    lines = [line for line in lines if line.x]
    return Figure(
        "Clients at work",
        "How many clients have been asked and have not yet answered or failed, on average over short times.",
        line_chart(
            "clients at work over simulated time", lines, x_name=f"simulated time, {unit}", unit=unit, zero=True
        ),
        curves_table(unit, lines, number_text, tick_text),
    )


def _participation(clocked: MethodWork) -> Figure:
    """The number of times that each client counted, in descending order."""
    lines = []
    for index, method, works in clocked:
        curves = [_ranked(work) for work in works]
        lines.append(band(index, method.name, curves, [{rank: rank for rank in curve} for curve in curves]))
    return Figure(
        "How often each client counted",
        "Clients in the order of how often their updates counted: level where all have their share, at zero where they "
        "never did.",
        line_chart("how often each client counted", lines, x_name="client, from the most often counted", zero=True),
        curves_table("client", lines, number_text, round_text),
    )


def _ranked(work: Workload) -> Mapping[int, float]:
    """By rank, how often that client counted; of many clients an even choice."""
    counts = sorted(work.counts.values(), reverse=True)
    return {
        rank: float(counts[rank - 1]) if rank <= len(counts) else 0.0
        for rank in thinned(range(1, work.clients + 1), MOST_POINTS)
    }


def _ages(clocked: MethodWork) -> Figure:
    """The age in rounds of counted updates."""
    rows = [(index, method.name, _shares(works)) for index, method, works in clocked]
    most = max(age for _, _, shares in rows for age in shares)
    table = [
        [f"{age}", *(f"{shares.get(age, 0.0) * 100:.3g} %" for _, _, shares in rows)]
        for age in thinned(range(most + 1), 50)
    ]
    return Figure(
        "Ages of counted updates",
        "By how many rounds the model had moved on since the client was asked, in shares of the counted updates.",
        histogram_chart("ages of counted updates", rows, "age in rounds"),
        PageTable(["age", *(name for _, name, _ in rows)], table),
    )


def _shares(works: Sequence[Workload]) -> dict[int, float]:
    total = sum(count for work in works for count in work.ages.values())
    ages = sorted({age for work in works for age in work.ages})
    return {age: sum(work.ages.get(age, 0) for work in works) / total for age in ages}


def _wasted(clocked: MethodWork) -> list[Figure]:
    """Client-seconds and bytes, spent for updates that counted and in vain."""

    def picture(title: str, words: str, counted: str, vain: str, value_text: Callable[[float], str]) -> Figure:
        rows = [
            (index, method.name, mean(getattr(w, counted) for w in works), mean(getattr(w, vain) for w in works))
            for index, method, works in clocked
        ]
        return Figure(title, words, bar_chart(title.lower(), rows, ("counted", "in vain"), value_text))

    return [
        picture("Client time of a run", "How long clients worked, all together.", "counted_s", "vain_s", time_text),
        picture("Bytes of a run", "Up and down, all clients.", "counted_bytes", "vain_bytes", bytes_text),
    ]


def _timeline(index: int, method: Method) -> Figure:
    """The times at which the clients of one run worked."""
    clocked = ((run, run.record.work) for run in method.runs if run.record is not None)
    run, work = next((run, work) for run, work in clocked if work is not None)
    seed = f", seed {run.seed}" if len(method.runs) > 1 else ""
    many = len(work.counts) > len(work.spans)
    whose = f"The {len(work.spans) // 2} busiest and the {len(work.spans) // 2} idlest of" if many else "All"
    never = work.clients - len(work.counts)
    caption = (
        f"{whose} {len(work.counts)} clients that were asked{seed}, the busiest first. Full bar: at work on an update "
        "that counted. Thin: in vain. Upright lines: ends of rounds."
        + (
            " Hollow: still at work at the end."
            if any(k == IN_FLIGHT for s in work.spans for *_, k in s.pieces)
            else ""
        )
        + (f" {never} of {work.clients} clients were never asked." if never else "")
    )
    title = f"Who worked when, {method.name}"
    picture = timeline_chart(title.lower(), index, work.spans, work.ends, time_unit(work.ends[-1]), _description)
    rows = [[s.client, f"{s.asked}", f"{s.counted}", time_text(s.seconds)] for s in work.spans]
    table = PageTable(["client", "asked", "counted", "at work"], rows)
    return Figure(title, caption, picture, table, wide=True)


def _description(span: Span) -> str:
    return f"{span.client}: asked {span.asked} times, counted {span.counted}, at work for {time_text(span.seconds)}"


def _table(clocked: MethodWork) -> PageTable:
    """Time, waste and participation of each method in numbers."""
    rows = []
    for _, method, works in clocked:
        rows.append(
            [
                method.name,
                time_text(mean(work.ends[-1] for work in works)),
                time_text(mean(work.counted_s for work in works)),
                time_text(mean(work.vain_s for work in works)),
                _percent(work.vain_s / total for work in works if (total := work.vain_s + work.counted_s)),
                bytes_text(mean(work.vain_bytes for work in works)),
                _percent(work.vain_bytes / total for work in works if (total := work.vain_bytes + work.counted_bytes)),
                number_text(mean(work.mean_age for work in works)),
                f"{mean(work.clients for work in works):g}",
                _percent(work.never for work in works),
                number_text(mean(work.jain for work in works)),
            ]
        )
    columns = [
        "method",
        "simulated time",
        "client time counted",
        "in vain",
        "share",
        "bytes in vain",
        "share",
        "mean age",
    ]
    columns += ["clients", "never counted", "Jain's index"]
    note = (
        "Of a run, means over seeds. Client time: added up over clients. Jain's index is that of how often each client "
        "counted, those never asked among them: 1 where all counted alike, 1/n where only one of n did."
    )
    if any(work.population is None for _, _, works in clocked for work in works):
        note += " An older journal lacks the number of clients: those that were never asked are left out."
    return PageTable(columns, rows, note, [index for index, *_ in clocked])


def _percent(shares: Iterable[float]) -> str:
    value = mean(shares)
    return "-" if math.isnan(value) else f"{value * 100:.3g} %"
