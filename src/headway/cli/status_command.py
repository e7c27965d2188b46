"""`headway status`."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from headway.core.errors import ConfigError
from headway.federation.operations.status_reader import StatusAddress, StatusReader, StatusUnavailable
from headway.federation.operations.status_snapshot import ClientStatus, StatusSnapshot
from headway.federation.operations.status_text import (
    done_text,
    metric_pairs,
    now_text,
    refused_calls_text,
    state_sentence,
    whole_time,
)
from headway.observe.text import bytes_text, console, emit, name_text, number_text, plain_table, show_table
from headway.privacy.ledger import spent_text

EVERY_S, PATIENCE_S = 2.0, 60.0  # between two looks, and how long a server may be away while it is watched
SHOWN, SHOWN_EVENTS = 40, 8
COLOURS = {"running": "green", "finished": "green", "failed": "red", "stopped": "yellow", "paused": "yellow"}
TOKEN = "HEADWAY_TOKEN"


def show_status(
    address: str,
    watch: bool,
    token: str | None,
    token_file: Path | None,
    trusted: tuple[Path | None, Path | None],
    as_json: bool,
) -> None:
    """Prints the status of a server, once or until its run has ended.

    trusted: an identity folder, and a file with the certificate of an authority.

    Raises:
        ConfigError: if the address or the token cannot be used.
        StatusUnavailable: if the status cannot be read.
    """
    given = StatusAddress.of(address, token or _token_of(token_file)).trusting(*trusted)
    try:
        asyncio.run(_watch(given, as_json) if watch else _once(given, as_json))
    except KeyboardInterrupt:
        return


def _token_of(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN)
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token cannot be read from {file}: {error}.") from error


async def _once(address: StatusAddress, as_json: bool) -> None:
    async with StatusReader(address) as reader:
        status = await reader.read()
    if as_json:
        emit({"event": "status", **status.model_dump(mode="json")})
        return
    screen = console()
    for part in status_parts(status):
        if isinstance(part, (Text, str)):
            screen.print(part, soft_wrap=True)
        else:
            show_table(screen, part)  # type: ignore[arg-type]


async def _watch(address: StatusAddress, as_json: bool) -> None:
    """Shows the status until the run has ended: redrawn on a terminal, otherwise a line where something is new."""
    screen, last, kind = console(), "", ""
    live = screen.is_terminal and not as_json
    async with StatusReader(address) as reader:
        with Live(console=screen, auto_refresh=False, screen=False) if live else _Nothing() as drawn:
            reached = time.monotonic()
            while True:
                try:
                    status = await reader.read()
                except StatusUnavailable as away:
                    if not away.passing or time.monotonic() - reached > PATIENCE_S:
                        raise
                    if kind == "simulation":
                        raise StatusUnavailable("the run has ended, and its page with it: see its folder.") from away
                    last = _line(screen, f"{away} Tried again for {PATIENCE_S:g} s.", last, not live and not as_json)
                    await asyncio.sleep(EVERY_S)
                    continue
                reached, kind = time.monotonic(), status.kind
                if as_json:
                    emit({"event": "status", **status.model_dump(mode="json")})
                elif isinstance(drawn, Live):
                    drawn.update(Group(*status_parts(status, _rows(screen))), refresh=True)
                else:
                    last = _line(screen, _one_line(state_sentence(status)), last, True)
                if status.over:
                    return
                await asyncio.sleep(EVERY_S)


class _Nothing:
    """A context in which nothing is drawn."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *raised: object) -> None:
        return None


def _line(screen: Console, line: str, last: str, wanted: bool) -> str:
    """Prints a line that is not the last one again; the line."""
    if wanted and line != last:
        screen.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False, soft_wrap=True)
    return line


def _rows(screen: Console) -> int:
    """The clients that fit on a terminal beside the rest."""
    return max(4, screen.height - 14 - SHOWN_EVENTS)


def status_parts(status: StatusSnapshot, most: int = SHOWN) -> list[RenderableType]:
    """The status as lines and tables; most: of the clients that are listed."""
    colour = COLOURS.get(status.state, "bold")
    parts: list[RenderableType] = [
        Text.from_markup(
            f"[bold]{escape(name_text(status.name))}[/bold] [{colour}]{status.state}[/{colour}]: "
            f"{escape(_one_line(state_sentence(status)))}"
        )
    ]
    if not status.over:
        parts.append(Text(_times(status)))
    for label, text in _figures(status):
        parts.append(Text(f"  {label:<9} {text}"))
    if status.clients:
        parts += ["", _clients(status, most)]
        if (listed := sum(status.presences.values())) > (shown := min(len(status.clients), most)):
            parts.append(Text(f"  {shown} of {listed} clients; all that are kept with --json"))
    if refused := refused_calls_text(status):
        parts.append(Text(f"  {refused}"))
    if status.events:
        parts.append("")
        for event in status.events[:SHOWN_EVENTS]:
            who = f"{name_text(event.client)}: " if event.client else ""
            parts.append(Text(f"  round {event.round}, {event.sort}: {who}{_one_line(event.text)}"))
    return parts


def _times(status: StatusSnapshot) -> str:
    """Since when it does this, and until when."""
    phase = status.phase
    since = phase.since if phase.phase else status.started
    text = f"  since     {whole_time(max(0.0, status.at - since))}"
    if phase.deadline is not None:
        left = phase.deadline - status.at
        text += f"; the deadline is in {whole_time(left)}" if left > 0 else "; the deadline has passed"
    return text


def _figures(status: StatusSnapshot) -> list[tuple[str, str]]:
    """The figures of the run, each under its name."""
    totals, last = status.totals, status.history[-1] if status.history else None
    done = f"{done_text(status)} done"
    if status.round_seconds is not None:
        done += f", {whole_time(status.round_seconds)} each"
    if status.eta_s is not None:
        done += f", about {whole_time(status.eta_s)} to the end"
    figures = [("rounds", done)]
    if status.has_agents:
        figures.append(("clients", f"{status.connected} of {status.population} connected"))
    figures.append(
        (
            "updates",
            f"{totals.counted} counted, {totals.rejected} refused, {totals.dropped} lost; "
            f"{bytes_text(totals.bytes_up)} up, {bytes_text(totals.bytes_down)} down",
        )
    )
    results = [] if last is None or last.train_loss is None else [f"training loss {number_text(last.train_loss)}"]
    results += [f"{name} {value}" for name, value in metric_pairs(status)[:3]]
    if results:
        figures.append(("results", ", ".join(results)))
    if (held := status.privacy).delta is not None:
        spent = {} if last is None else last.epsilon
        figures.append(("privacy", f"{spent_text(spent, held.budgets)} at delta {held.delta:g}"))
    return figures


def _clients(status: StatusSnapshot, most: int) -> RenderableType:
    """A table of the clients: those that the round waits for and those with trouble first, where not all fit."""

    def urgent(each: ClientStatus) -> tuple[bool, bool]:
        return not each.awaited, each.presence in ("connected", "simulated")

    shown = sorted(sorted(status.clients, key=urgent)[:most], key=lambda each: each.name)
    columns = ["client", "counted", "late", "refused", "lost", "up", "down", "now"]
    rows = [
        [
            each.name,
            *map(str, (each.counted, each.late, each.refused, each.lost)),
            bytes_text(each.bytes_up),
            bytes_text(each.bytes_down),
            _one_line(now_text(each, status.at) + (f" ({each.reason})" if each.reason else "")),
        ]
        for each in shown
    ]
    table = plain_table(columns, rows)
    table.columns[-1].justify = "left"
    return table


def _one_line(text: str) -> str:
    """A text of a client without what would move the cursor."""
    return name_text(text, longest=400)
