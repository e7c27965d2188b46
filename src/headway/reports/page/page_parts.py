"""What every page is made from: templates that escape all texts, and a policy under which nothing is loaded."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from jinja2 import DictLoader, Environment, StrictUndefined, Template
from markupsafe import Markup


def page_file(name: str, package: str = "headway.reports.page") -> str:
    """A template, style sheet or script."""
    return (resources.files(package) / name).read_text(encoding="utf-8")


def environment(templates: Mapping[str, str]) -> Environment:
    """The environment of some templates by name, which may use the parts of `parts.html` and extend `document.html`."""
    shared = {name: page_file(name) for name in ("document.html", "parts.html")}
    return Environment(
        loader=DictLoader({**shared, **templates}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def document(template: Template, style: str, script: str, *directives: str, **values: object) -> str:
    """A whole page, by a template that extends `document.html`.

    style, script: Headway's own, without the two letters that would end their element.  directives: further ones of
    the policy.  values: "generator", "title", "sections", and what the template itself needs.
    """
    return template.render(
        values, policy=content_policy(style, script, *directives), style=Markup(style), script=Markup(script)
    )


def may_write(path: Path, generator: str) -> bool:
    """Whether nothing is lost by writing there: nothing is there, or an earlier page of this generator."""
    if not path.exists():
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f'content="{generator}"'.encode() in file.read(1000)


def content_policy(style: str, script: str, *more: str) -> str:
    """Nothing is loaded from anywhere, and no style or script runs but the page's own, known by their hashes.

    more: further directives.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            *more,
        ]
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
