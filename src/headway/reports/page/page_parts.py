"""What every page is made from: templates that escape all texts, and a policy under which nothing is loaded."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources

from jinja2 import DictLoader, Environment, StrictUndefined


def page_file(name: str, package: str = "headway.reports.page") -> str:
    """A template, style sheet or script."""
    return (resources.files(package) / name).read_text(encoding="utf-8")


def environment(templates: Mapping[str, str]) -> Environment:
    """The environment of some templates by name, which may use the parts of `parts.html`."""
    return Environment(
        loader=DictLoader({"parts.html": page_file("parts.html"), **templates}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


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
