"""The live page: one HTML document that loads nothing from elsewhere, and the fragments that change on it."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from headway.federation.operations import live_sections as sections
from headway.federation.operations.status_snapshot import ClientStatus, StatusSnapshot
from headway.federation.operations.status_text import (
    done_text,
    now_text,
    refused_calls_text,
    state_sentence,
    whole_time,
)
from headway.observe.text import bytes_text, name_text, number_text
from headway.reports.page.charts import look
from headway.reports.page.page_parts import document, environment, page_file

PACKAGE = "headway.federation.operations"
SHOWN_CLIENTS = 200
SECTIONS = {
    "clients": "Clients",
    "learning": "Learning",
    "events": "Late, refused, lost",
    "rounds": "Bytes and time",
    "drift": "Drift",
    "privacy": "Privacy",
    "algorithm": "Algorithm",
}
MAKERS = {
    "learning": sections.learning,
    "events": sections.troubles,
    "rounds": sections.costs,
    "drift": sections.drift,
    "privacy": sections.privacy,
    "algorithm": sections.algorithm,
}


def sections_of(status: StatusSnapshot) -> dict[str, str]:
    """The headings of the sections, by anchor; a relay measures no drift, and has no privacy budget."""
    absent = ("drift", "privacy") if status.kind == "relay" else ()
    return {name: heading for name, heading in SECTIONS.items() if name not in absent}


def fragments(status: StatusSnapshot) -> dict[str, str]:
    """The parts of the page that change, by name: HTML, and the texts "title" and "spoken".

    The same status gives the same texts at any time: the page counts the seconds by itself.
    """
    pages, values = _pages(), _values(status)
    found = {name: pages.get_template(name).render(values) for name in ("state", "clients")}
    for name in [each for each in sections_of(status) if each in MAKERS]:
        found[name] = pages.get_template("section").render(section=MAKERS[name](status), looks=[look(0)])
    found["title"] = _title(status)
    found["spoken"] = state_sentence(status)
    return found


def render_page(status: StatusSnapshot, parts: Mapping[str, str]) -> str:
    """The whole page; parts: its fragments."""
    made = {name: text if name in ("title", "spoken") else Markup(text) for name, text in parts.items()}
    return document(
        _pages().get_template("live.html"),
        *_assets(),
        "connect-src 'self'",
        status=status,
        fragments=made,
        title=_title(status),
        sections=list(sections_of(status).items()),
        generator="headway",
    )


@functools.cache
def _assets() -> tuple[str, str]:
    """The style sheet and the script: the report's, and the live page's own."""
    style = page_file("style.css") + page_file("live.css", PACKAGE)
    return style, page_file("page.js") + page_file("live.js", PACKAGE)


@functools.cache
def _pages() -> Environment:
    """The templates: of the page, and of each fragment by its name."""
    own = {name: page_file(name, PACKAGE) for name in ("live.html", "live_parts.html")}
    lead = "{% if section.lead %}<p>{{ section.lead }}</p>{% endif %}"
    return environment(
        {
            **own,
            "state": '{% from "live_parts.html" import state with context %}{{ state() }}',
            "clients": '{% from "live_parts.html" import clients with context %}{{ clients() }}',
            "section": '{% from "parts.html" import contents with context %}' + lead + "{{ contents(section) }}",
        }
    )


def _title(status: StatusSnapshot) -> str:
    return f"{status.round}/{status.rounds} {status.state}: {status.name} - Headway"


def _values(status: StatusSnapshot) -> dict[str, Any]:
    """The values and functions that the template uses."""
    return {
        "status": status,
        "sentence": state_sentence(status),
        "tiles": _tiles(status),
        "shown": _first(status.clients),
        "refused_calls": refused_calls_text(status),
        "listed": sum(status.presences.values()),
        "server": status.has_agents,
        "name": name_text,
        "bytes": bytes_text,
        "doing": lambda client: now_text(client, status.at),
        "moment": lambda at: time.strftime("%H:%M:%S UTC", time.gmtime(at)),  # until the script counts from it
    }


def _tiles(status: StatusSnapshot) -> list[tuple[str, str]]:
    """The figures at the top: a label and a value each."""
    last, totals = status.history[-1] if status.history else None, status.totals
    tiles = [("rounds done", done_text(status))]
    if status.has_agents:
        tiles.append(("clients connected", f"{status.connected} of {status.population}"))
    if status.metric:
        value = status.central.get(status.metric, status.metrics.get(status.metric))
        of = "" if status.evaluated in (None, status.round) else f" (round {status.evaluated})"
        tiles.append((status.metric.replace("_", " ") + of, number_text(value)))
    tiles += [
        ("training loss", number_text(None if last is None else last.train_loss)),
        ("time per round", whole_time(status.round_seconds)),
        ("time to the end", "-" if status.eta_s is None else f"about {whole_time(status.eta_s)}"),
        ("bytes up", bytes_text(totals.bytes_up)),
        ("bytes down", bytes_text(totals.bytes_down)),
        ("updates counted", str(totals.counted)),
        ("refused, lost", f"{totals.rejected}, {totals.dropped}"),
    ]
    return tiles


def _first(clients: Sequence[ClientStatus]) -> list[ClientStatus]:
    """At most so many clients by name, those that matter first."""
    urgent = sorted(clients, key=lambda each: (not each.awaited, each.presence in ("connected", "simulated")))
    return sorted(urgent[:SHOWN_CLIENTS], key=lambda each: each.name)
