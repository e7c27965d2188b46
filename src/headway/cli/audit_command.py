"""`headway audit`: attacks on what a run shows to its server and its clients."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from headway.audit.audit_page import GENERATOR, render_audit, result_table
from headway.audit.audit_result import AuditReport
from headway.audit.auditing import Audit, AuditOptions
from headway.core.errors import ConfigError
from headway.experiment.runfile import load_runfile
from headway.observe.progress import Meter
from headway.observe.run_folder import write_atomically, writing
from headway.observe.text import bytes_text, console, emit, plain_table, show_table, strict
from headway.reports.page.page_parts import may_write

STYLES = {"failed": "green", "succeeded": "bold red", "not judged": "yellow"}


def audit_file(
    name: str, sets: Sequence[str], seed: int | None, options: AuditOptions, out: Path | None, as_json: bool
) -> int:
    """Attacks the run of a file, writes the page and the numbers, and returns the exit code: 0 if no attack succeeded,
    1 if one did, 2 if none could be judged.

    Raises:
        ConfigError: if the page's name does not end in .html, or the place is taken by another file.
        HeadwayError: if the run file or its data cannot be had as asked.
    """
    page = _place(name, out)
    runfile = load_runfile(name, sets, seed=seed)
    audit = Audit(runfile, options)
    screen = Console(quiet=True) if as_json else console()
    screen.print(f"[bold]{escape(runfile.name)}[/bold]: {len(audit.cohort)} clients of a round are attacked")
    steps = audit.steps()
    with Meter(screen, "attack", max(len(steps), 1)) as meter:
        report = audit.run(steps, meter.step)
    _write(page, report)
    if as_json:
        emit({"event": "audit", "file": str(page), **strict(report.to_json())})
    else:
        _show(screen, report, page)
    return report.exit_code


def _place(name: str, out: Path | None) -> Path:
    """The page's path.

    Raises:
        ConfigError: if it cannot be written there.
    """
    page = out or Path("audits") / f"{Path(name).stem}.html"
    if page.suffix.lower() != ".html" or page.is_dir():
        raise ConfigError(f"the page {page} needs a file name that ends in .html.")
    if not may_write(page, GENERATOR):
        raise ConfigError(f"{page} exists already and is no audit: choose another place with --out.")
    return page


def _write(page: Path, report: AuditReport) -> None:
    with writing(page):
        page.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(page, render_audit(report).encode())
        text = json.dumps(strict(report.to_json()), indent=2, allow_nan=False)
        write_atomically(page.with_suffix(".json"), f"{text}\n".encode())


def _show(screen: Console, report: AuditReport, page: Path) -> None:
    screen.print(f"chain: {report.chain}", markup=False, soft_wrap=True)
    protected = ", ".join(report.protections) or "none"
    screen.print(f"the server sees {report.sees}; protections: {protected}\n", markup=False, soft_wrap=True)
    show_table(screen, plain_table(*result_table(report), numbers=False))
    screen.print()
    for row in report.rows:
        style = STYLES[row.verdict]
        screen.print(
            f"[{style}]{escape(row.attack)}, {escape(row.observer)}:[/{style}] {escape(row.reason)}", soft_wrap=True
        )
    for note in report.notes:
        screen.print(f"[yellow]{escape(note)}[/yellow]", soft_wrap=True)
    screen.print(f"[bold]{escape(report.sentence)}[/bold]", soft_wrap=True)
    size = bytes_text(page.stat().st_size)
    screen.print(
        f"{page}: {size}; open it in a browser. Numbers: {page.with_suffix('.json')}", markup=False, soft_wrap=True
    )
