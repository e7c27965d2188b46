"""The sections of the live page, made from a snapshot with the parts of the report page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headway.federation.operations.status_snapshot import RoundStatus, StatusSnapshot
from headway.federation.operations.status_text import whole_time
from headway.observe.text import bytes_text, name_text, number_text
from headway.reports.page.charts import Line, line_chart
from headway.reports.page.components import Figure, PageTable, Section, curves_table, round_text
from headway.reports.page.privacy_facts import PrivacyFacts
from headway.reports.page.privacy_section import privacy_section

LAST_ROUNDS = 10  # in the table of rounds
BYTE_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1.0))
EVENT_WORDS = {
    "refused": "update refused",
    "late": "update late",
    "lost": "update lost",
    "alarm": "alarm",
    "note": "note",
}
Of = Callable[[RoundStatus], float | None]


def curve(index: int, name: str, rounds: Sequence[RoundStatus], value: Of, scale: float = 1.0) -> Line:
    """A line over the rounds that have a value."""
    points = [(float(each.round), found / scale) for each in rounds if (found := value(each)) is not None]
    x, y = tuple(point[0] for point in points), tuple(point[1] for point in points)
    return Line(index, name, x, y, y, y)


def figure(title: str, caption: str, lines: Sequence[Line], zero: bool = False) -> Figure | None:
    """Curves over rounds; nothing where there is no point yet."""
    shown = [line for line in lines if line.x]
    if not shown:
        return None
    picture = line_chart(title.lower(), shown, x_name="round", x_text=round_text, zero=zero)
    return Figure(title, caption, picture, curves_table("round", shown, number_text, round_text))


def learning(status: StatusSnapshot) -> Section:
    """The deciding metric and the losses over rounds."""
    rounds, name = status.history, status.metric.replace("_", " ") or "metric"
    where = "on the central test set" if status.central else "over the clients' own test parts"
    figures = [
        figure(f"{name.capitalize()} over rounds", f"Measured {where}.", [curve(0, name, rounds, lambda r: r.value)]),
        figure(
            "Loss over rounds",
            f"In training, as the counted clients saw it; in the test, {where}.",
            [
                curve(1, "training", rounds, lambda r: r.train_loss),
                curve(0, "test", rounds, lambda r: r.loss),
            ],
        ),
    ]
    return _section("learning", "Learning", figures)


def costs(status: StatusSnapshot) -> Section:
    """Bytes and seconds of each round, and the last rounds as a table."""
    rounds = status.history
    most = max((each.bytes_up + each.bytes_down for each in rounds), default=0)
    unit, scale = next((each for each in BYTE_UNITS if most >= each[1]), BYTE_UNITS[-1])
    figures = [
        figure(
            f"Bytes of each round, in {unit}",
            "Up is from the clients.",
            [
                curve(0, "up", rounds, lambda r: r.bytes_up, scale),
                curve(1, "down", rounds, lambda r: r.bytes_down, scale),
            ],
            zero=True,
        ),
        figure(
            "Seconds of each round",
            "Training with all waiting for clients; and evaluation, where the round had one.",
            [
                curve(0, "training", rounds, lambda r: r.seconds),
                curve(1, "evaluation", rounds, lambda r: r.evaluation_seconds or None),
            ],
            zero=True,
        ),
    ]
    section = _section("rounds", "Bytes and time", figures)
    columns = ["round", "asked", "counted", "refused", "lost", "training loss", "up", "down", "time"]
    rows = [
        [
            str(each.round),
            str(each.asked),
            str(each.counted),
            str(each.rejected),
            str(each.dropped),
            number_text(each.train_loss),
            bytes_text(each.bytes_up),
            bytes_text(each.bytes_down),
            whole_time(each.seconds),
        ]
        for each in reversed(rounds[-LAST_ROUNDS:])
    ]
    note = f"The last {len(rows)} of the rounds that are kept." if len(rounds) > len(rows) else ""
    return Section(section.anchor, section.title, section.lead, section.figures, [PageTable(columns, rows, note)])


def drift(status: StatusSnapshot) -> Section:
    """How far the updates point apart."""
    rounds = status.history
    pulls = figure(
        "Headway and leeway",
        "The mean update of a client along the cohort's common direction (headway) and across it (leeway).",
        [
            curve(0, "headway", rounds, lambda r: r.headway),
            curve(1, "leeway", rounds, lambda r: r.leeway),
        ],
        zero=True,
    )
    lead = "" if pulls else "Not measured yet; where the server sees only sums of updates it cannot be measured."
    return Section("drift", "Drift", lead, [] if pulls is None else [pulls])


def troubles(status: StatusSnapshot) -> Section:
    """The updates that did not count and why, alarms and notes, the newest first."""
    if not status.events:
        return Section("events", "Late, refused and lost updates; alarms", "None.")
    rows = [
        [str(each.round), EVENT_WORDS[each.sort], name_text(each.client) if each.client else "", each.text]
        for each in status.events
    ]
    table = PageTable(["round", "what", "client", "reason"], rows, words=True)
    return Section("events", "Late, refused and lost updates; alarms", "The newest first.", tables=[table])


def algorithm(status: StatusSnapshot) -> Section:
    """The chain of stages, and what the server sees."""
    chain = status.chain
    tables = [PageTable(chain.columns, chain.rows, _sentences(chain.notes), words=True)] if chain.rows else []
    return Section("algorithm", "Algorithm", tables=tables)


def privacy(status: StatusSnapshot) -> Section:
    """The privacy budget: epsilon over rounds, what is left, and what each round releases."""
    held = status.privacy
    accounts = dict.fromkeys(account for each in status.history for account in each.epsilon)
    curves = {
        account: {
            each.round: float(spent) for each in status.history if (spent := each.epsilon.get(account)) is not None
        }
        for account in accounts
    }
    facts = PrivacyFacts("", curves, held.budgets, held.delta, held.sampling, held.releases, held.others)
    return privacy_section([facts] if held.delta is not None else [])


def _sentences(notes: Sequence[str]) -> str:
    return " ".join(f"{note[0].upper()}{note[1:].rstrip('.')}." for note in notes if note)


def _section(anchor: str, title: str, figures: Sequence[Figure | None]) -> Section:
    present = [each for each in figures if each is not None]
    return Section(anchor, title, "" if present else "No round is finished yet.", present)
