"""A chain stage by stage, as a table that shows only what differs from the defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from headway.core.flow import Flow, PrivacyEvent
from headway.core.registry import brief
from headway.core.stage import Aggregator, Place, Protocol, Stage

if TYPE_CHECKING:
    from headway.core.chain import Chain

COLUMNS = ("stage", "runs at", "server sees", "bound", "privacy event")
NOTHING_SPECIAL = {"bound": {"none", "-"}, "privacy event": {"-"}}  # a column that holds nothing else is left out
RELATIONS = {"add_remove": "added or removed", "zero_out": "replaced by zeros"}
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

    def noting(self, note: str) -> Explanation:
        """The same with one more note."""
        return replace(self, notes=(*self.notes, note))

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
        before = flows[index - 1].events if index else () if flow.trainer is None else flow.trainer.events
        noise = "; ".join(map(_event, flow.events[len(before) :]))
        rows.append((brief(stage), _where(stage), _seen(stage, flow, flows[-1]), _bound(stage, flow), noise or "-"))
    last = flows[-1]
    travels = [*last.vectors, *(["weight"] if "weight" not in last.vectors else [])]
    notes = [f"travels: {', '.join(travels)}"]
    if last.server_sees == "each" and not any(event.at != "server" for event in last.events):
        trusted = " The noise is added after that: the server is trusted." if last.events else ""
        seen = [
            name for name in last.exposed if not (last.events and name == "training loss")
        ]  # which is not sent then
        notes.append(f"the server sees each client's update, and in the clear: {', '.join(seen)}.{trusted}")
    if last.trainer is not None and last.trainer.events:
        notes.append(f"privacy events of {last.trainer.name}: {'; '.join(map(_event, last.trainer.events))}")
    if last.events:
        notes.append(_sample(last))
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


def _event(event: PrivacyEvent) -> str:
    """A privacy event: the noise, of what, whom it hides, and where it is drawn."""
    where = {"server": "at the server", "client": "at each client", "distributed": "in shares of the clients"}[event.at]
    noise = f"{event.mechanism.replace('_', ' ')} noise x{event.noise_multiplier:.4g} on {', '.join(event.covers)}"
    return f"{noise}, {where}, hides one {event.unit} ({RELATIONS[event.relation]})"


def _sample(last: Flow) -> str:
    """What the sampling of clients is worth to the privacy of one client."""
    sampler = last.sampler
    if not any(event.draws_amplify for event in last.events):
        return "draws of clients amplify nothing here: each round counts in full"
    if sampler is None or sampler.rate is None or sampler.rate == 1:
        kind = "unknown" if sampler is None else sampler.kind
        return f"the cohort hides nobody (sampling: {kind}): each round counts in full; Poisson sampling amplifies"
    cut = "" if sampler.most is None else f", at most {sampler.most}"
    return (
        f"each client is drawn with probability {sampler.rate:g}{cut}, which amplifies privacy while nobody sees whom"
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
        seen = {"each": "each update", "sum": "only the sum", "bucket sums": f"the sums of {last.buckets} buckets"}
        return seen[last.server_sees]
    return "the aggregate, with noise" if any(event.at == "server" for event in flow.events) else "the aggregate"


def _bound(stage: Stage, flow: Flow) -> str:
    if stage.place > Place.AGGREGATE:
        return "-"
    return "none" if flow.bound is None else f"{flow.bound:g}"
