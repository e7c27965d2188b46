"""The page: one HTML file that loads nothing, with every text from files escaped."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from headway.reports.page import per_client
from headway.reports.page import provenance as ran
from headway.reports.page import round_sections as sections
from headway.reports.page.charts import look
from headway.reports.page.content import Evidence
from headway.reports.page.timeline import clock_section

GENERATOR = "headway report"


def render(evidence: Evidence) -> str:
    """The whole page as HTML; the same evidence gives the same text."""
    style, script = _file("style.css"), _file("page.js")
    parts = [
        sections.summary(evidence),
        sections.learning(evidence),
        sections.drift(evidence),
        per_client.pulls(evidence),
        per_client.distribution(evidence),
        per_client.holdings(evidence),
        *([] if (timed := clock_section(evidence)) is None else [timed]),
        sections.costs(evidence),
        ran.troubles(evidence),
        ran.made_of(evidence),
    ]
    environment = Environment(
        loader=DictLoader({"page.html": _file("page.html")}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html").render(
        evidence=evidence,
        sections=parts,
        looks=[look(index) for index in range(len(evidence.methods))],
        generator=GENERATOR,
        policy=_policy(style, script),
        style=Markup(style),  # ours, and without the two letters that would end the element
        script=Markup(script),
    )


def _file(name: str) -> str:
    return (resources.files("headway.reports.page") / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing is loaded from anywhere, and no style or script runs but the page's own, known by their hashes."""
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
