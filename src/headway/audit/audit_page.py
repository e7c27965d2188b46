"""The page of an audit: one HTML file that loads nothing and explains the result in plain words."""

from __future__ import annotations

from torch import Tensor

from headway.audit.audit_charts import roc_chart
from headway.audit.audit_result import CAUTION, AttackRow, AuditReport, Curve, Gallery
from headway.audit.canary_section import canary_section
from headway.audit.picture_grid import is_picture, picture_grid
from headway.observe.text import number_text
from headway.reports.page.charts import look
from headway.reports.page.components import Figure, PageTable, Section
from headway.reports.page.page_parts import document, environment, page_file

PACKAGE = "headway.audit"
GENERATOR = "headway audit"
MOST_FEATURES = 14
VERDICTS = {"failed": "attack failed", "succeeded": "ATTACK SUCCEEDED", "not judged": "not judged"}

MEANINGS = {
    "dense-layer inversion": (
        "The first layer that multiplies its inputs by a matrix moves its weights by the input times a number, and its "
        "bias by that number. Their ratio is the input itself, wherever a neuron was active for one record alone. "
        "Nothing has to be trained or guessed.",
        "Let the server see only sums (SecureSum), of as many clients as you can. Clipping alone hides nothing from "
        "this attack; noise on the aggregate hides records from clients, and not from a server that sees each update.",
    ),
    "gradient inversion": (
        "Pictures are changed until a step of training on them would move the model as the update does.",
        "Let the server see only sums, train on larger batches and for more local steps, or add local noise.",
    ),
    "membership inference": (
        "A model tends to fit the examples that it was trained on better than others: a threshold on the loss guesses "
        "who was among them. Shadow models, trained on other examples, show which ones are hard for everybody.",
        "Train for fewer rounds or with a smaller model, or add noise: differential privacy bounds what any such "
        "attack can do.",
    ),
    "canary clients": (
        "The noise is measured, not taken on trust: random directions pass through the algorithm's own clip, protocol, "
        "aggregate and noise, and what is left of them is compared with what the privacy ledger counts.",
        "Do not use this algorithm: its noise, clip or weights are not what its privacy events say. If all of its "
        "stages are Headway's, please report it.",
    ),
    "canary examples": (
        "The noise of one local step is measured: how far a hostile example can move it, and how much noise there is.",
        "Do not use this trainer: its clip or its noise is not what its privacy event says.",
    ),
}


def render_audit(report: AuditReport) -> str:
    """The whole page as HTML; the same report gives the same text."""
    parts = [
        summary_section(report),
        *canary_section(report.canaries),
        *membership_section(report),
        *gallery_section(report),
        meaning_section(report),
        about_section(report),
    ]
    pages = environment({"audit.html": page_file("audit.html", PACKAGE)})
    return document(
        pages.get_template("audit.html"),
        page_file("style.css") + page_file("audit.css", PACKAGE),
        page_file("page.js"),
        title=f"{report.name} - Headway audit",
        report=report,
        sections=parts,
        looks=[look(index) for index in range(4)],
        generator=GENERATOR,
    )


def summary_section(report: AuditReport) -> Section:
    """A row for each attack."""
    columns, rows = result_table(report)
    rows = [[*cells, row.reason] for cells, row in zip(rows, report.rows, strict=True)]
    protected = ", ".join(report.protections) or "none"
    lead = f"The server sees {report.sees}. Protections of the chain: {protected}."
    return Section("attacks", "The attacks", lead, tables=[PageTable([*columns, "why"], rows, words=True)])


def result_table(report: AuditReport) -> tuple[list[str], list[list[str]]]:
    """Columns, and a row for each attack; the results without protections only where the chain has some."""
    protected = bool(report.protections)
    columns = ["attack", "result", "by", "on"]
    columns += ["without protections", "with protections"] if protected else ["found"]
    rows = [
        [row.attack, _verdict(report, row), row.observer, row.seen, *([row.before] if protected else []), row.after]
        for row in report.rows
    ]
    return columns, rows


def _verdict(report: AuditReport, row: AttackRow) -> str:
    """The result of an attack, and whether it counts."""
    words = VERDICTS[row.verdict]
    return f"{words} (trusted)" if row.verdict == "succeeded" and not report.counts(row) else words


def meaning_section(report: AuditReport) -> Section:
    """What each attack tries, and what to do where it succeeds, in plain words."""
    rows = [[name, *MEANINGS[name]] for name in dict.fromkeys(row.attack for row in report.rows)]
    columns = ["attack", "what it tries", "where it succeeds"]
    return Section("meaning", "What the attacks are", tables=[PageTable(columns, rows, words=True)])


def gallery_section(report: AuditReport) -> list[Section]:
    """What was reconstructed, as pictures, or as tables of values."""
    if not report.galleries:
        return []
    protected = bool(report.protections)
    figures = [_pictures(gallery, protected) for gallery in report.galleries if _has_pictures(gallery)]
    tables = [_values(gallery, protected) for gallery in report.galleries if not _has_pictures(gallery)]
    how = ", without and with the chain's protections" if protected else ""
    lead = f"Training records beside what an attacker made of what was seen{how}."
    return [Section("reconstructions", "What was reconstructed", lead, figures, tables)]


def membership_section(report: AuditReport) -> list[Section]:
    """The curve of the attack on membership."""
    if not report.curves:
        return []
    caption = (
        "How many training examples an attacker finds at each rate of false alarms. What counts is the left: few false "
        "alarms, so that the attacker can be sure of those found."
    )
    shown = (0.001, 0.01, 0.05, 0.1, 0.5)
    rows = [[f"{low:.1%}", *(f"{_at(curve, low):.1%}" for curve in report.curves)] for low in shown]
    table = PageTable(["false alarms", *(curve.name for curve in report.curves)], rows)
    figure = Figure("Who was trained on", caption, roc_chart("membership inference", report.curves), table)
    lead = "Examples that a model was trained on tend to have a lower loss. A threshold on the loss guesses who was."
    return [Section("membership", "Membership inference", lead, [figure])]


def _at(curve: Curve, low: float) -> float:
    """The share found at a rate of false alarms."""
    known = zip(curve.false_positive, curve.true_positive, strict=True)
    return max((true for false, true in known if false <= low + 1e-9), default=0.0)


def _has_pictures(gallery: Gallery) -> bool:
    return all(is_picture(tuple(item.original.shape)) for item in gallery.items)


def _pictures(gallery: Gallery, protected: bool) -> Figure:
    items = gallery.items
    rows: list[tuple[str, list[Tensor | None]]]
    rows = [("record", [item.original for item in items]), ("without\nprotections", [item.before for item in items])]
    rows.append(("with\nprotections" if protected else "as attacked", [item.after for item in items]))
    captions = [[item.captions[k] for item in items] for k in range(3)]
    if not protected:
        del rows[1], captions[1]
    names = [item.name for item in items]
    picture = picture_grid(gallery.title, rows, names, captions, (gallery.low, gallery.high))
    return Figure(gallery.title, gallery.caption, picture, wide=True)


def _values(gallery: Gallery, protected: bool) -> PageTable:
    """The largest values of the first record, beside what was made of them."""
    item = gallery.items[0]
    original = item.original.flatten()
    names = gallery.features or tuple(f"input {k}" for k in range(len(original)))
    order = original.abs().argsort(descending=True, stable=True)[:MOST_FEATURES].sort().values.tolist()
    shown = [("without protections", item.before, item.captions[1])] if protected else []
    shown.append(("with protections" if protected else "as attacked", item.after, item.captions[2]))
    flat = [None if made is None else made.flatten() for _, made, _ in shown]
    rows = [
        [names[k], number_text(float(original[k])), *("-" if m is None else number_text(float(m[k])) for m in flat)]
        for k in order
    ]
    errors = ", ".join(f"{name}: {caption or 'nothing'}" for name, _, caption in shown)
    columns = [", ".join(item.name.splitlines()), "record", *(name for name, _, _ in shown)]
    return PageTable(columns, rows, f"{gallery.title}; {errors}. {gallery.caption}")


def about_section(report: AuditReport) -> Section:
    """What was attacked, and what the result does not show."""
    observers = (
        "attacks by the server are shown and do not count: it is trusted" if report.trusted_server else "all count"
    )
    rows = [
        ["chain", report.chain],
        ["observers", observers],
        ["seed", str(report.seed)],
        ["effort", "thorough" if report.thorough else "quick"],
        ["limits", CAUTION],
    ]
    return Section("about", "What was audited", tables=[PageTable(["", ""], rows, words=True)])
