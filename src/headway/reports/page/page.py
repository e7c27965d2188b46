"""The page: one HTML file that loads nothing, with every text from files escaped."""

from __future__ import annotations

from headway.reports.page import per_client
from headway.reports.page import provenance as ran
from headway.reports.page import round_sections as sections
from headway.reports.page.charts import look
from headway.reports.page.content import Evidence
from headway.reports.page.page_parts import document, environment, page_file
from headway.reports.page.privacy_section import privacy_of
from headway.reports.page.standings_section import standings_section
from headway.reports.page.timeline import clock_section

GENERATOR = "headway report"


def render(evidence: Evidence) -> str:
    """The whole page as HTML; the same evidence gives the same text."""
    parts = [
        sections.summary(evidence),
        sections.learning(evidence),
        sections.drift(evidence),
        per_client.pulls(evidence),
        *([] if (standing := standings_section(evidence)) is None else [standing]),
        per_client.distribution(evidence),
        per_client.holdings(evidence),
        *([] if (timed := clock_section(evidence)) is None else [timed]),
        *([privacy_of(evidence.methods)] if _is_private(evidence) else []),
        sections.costs(evidence),
        ran.troubles(evidence),
        ran.made_of(evidence),
    ]
    pages = environment({"page.html": page_file("page.html")})
    return document(
        pages.get_template("page.html"),
        page_file("style.css"),
        page_file("page.js"),
        title=f"{evidence.title} - Headway report",
        evidence=evidence,
        sections=parts,
        looks=[look(index) for index in range(len(evidence.methods))],
        generator=GENERATOR,
    )


def _is_private(evidence: Evidence) -> bool:
    """Whether a run has a privacy ledger."""
    return any(run.privacy is not None for method in evidence.methods for run in method.runs)
