"""A chain stage by stage, as a table that shows only what differs from the defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headway.core.flow import Flow
from headway.core.registry import brief
from headway.core.stage import Aggregator, Place, Protocol, Stage

if TYPE_CHECKING:
    from headway.core.chain import Chain

COLUMNS = ("stage", "runs at", "server sees", "bound", "privacy event")
NOTHING_SPECIAL = {"bound": {"none", "-"}, "privacy event": {"-"}}  # a column that holds nothing else is left out
_CLIENT_HOOKS = ("step", "combine", "send", "remember")
_SERVER_HOOKS = ("decode", "release", "receive", "init")


@dataclass(frozen=True)
class Explanation:
    """The table, and the notes and warnings of the whole chain.  Printing it shows all.

    columns: the heads of the table; a bound or privacy events have a column only where a stage sets some.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        table = [self.columns, *self.rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(self.columns))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
        lines.insert(1, "  ".join("-" * w for w in widths))
        lines += self.notes
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def explain(chain: Chain, flows: Sequence[Flow]) -> Explanation:
    """The explanation of a chain whose facts after each stage are `flows`; of a stage, the numbers that differ from its
    defaults are shown."""
    rows = []
    for index, (stage, flow) in enumerate(zip(chain.stages, flows, strict=True)):
        before = flows[index - 1].events if index else ()
        events = flow.events[len(before) :]
        noise = ", ".join(f"{e.mechanism} (noise x{e.noise_multiplier:g})" for e in events)
        rows.append((brief(stage), _where(stage), _seen(stage, flow, flows[-1]), _bound(stage, flow), noise or "-"))
    last = flows[-1]
    travels = [*last.vectors, *(["weight"] if "weight" not in last.vectors else [])]
    notes = [f"travels: {', '.join(travels)}"]
    if last.server_sees == "each" and not last.events:
        notes.append(f"the server sees each client's update, and in the clear: {', '.join(last.exposed)}.")
    if last.needs:
        notes.append(f"asked of the trainer: {', '.join(sorted(n.replace('_', ' ') for n in last.needs))}")
    if last.trainer is not None and last.trainer.adds:
        notes.append(f"added to the task's loss in each local step: {last.trainer.adds}")
    if "steps" in last.needs and last.trainer is not None and last.trainer.steps:
        notes.append(f"the steps are {last.trainer.steps}")
    shown = [i for i, name in enumerate(COLUMNS) if any(row[i] not in NOTHING_SPECIAL.get(name, ()) for row in rows)]
    return Explanation(
        tuple(COLUMNS[i] for i in shown),
        tuple(tuple(row[i] for i in shown) for row in rows),
        tuple(notes),
        last.warnings,
    )


def _where(stage: Stage) -> str:
    if isinstance(stage, Protocol) or (isinstance(stage, Aggregator) and stage.has("send")):
        return "client and server"
    if isinstance(stage, Aggregator):
        return "server"
    places = []
    if stage.has("step"):
        places.append("client, each step")
    elif any(stage.has(hook) for hook in _CLIENT_HOOKS):
        places.append("client")
    if any(stage.has(hook) for hook in _SERVER_HOOKS):
        places.append("server")
    return " and ".join(places) or "-"


def _seen(stage: Stage, flow: Flow, last: Flow) -> str:
    if stage.place < Place.AGGREGATE:
        return "-"
    if isinstance(stage, Aggregator):
        return "only the sum" if last.server_sees == "sum" else "each update"
    return "the aggregate, with noise" if flow.events else "the aggregate"


def _bound(stage: Stage, flow: Flow) -> str:
    if stage.place > Place.AGGREGATE:
        return "-"
    return "none" if flow.bound is None else f"{flow.bound:g}"
