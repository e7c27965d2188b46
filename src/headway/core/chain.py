"""An ordered list of stages, read left to right the way an update travels."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from headway.core.context import NOTHING, ClientContext, Context, ServerContext
from headway.core.errors import ChainRefused
from headway.core.flow import Flow, StepRule
from headway.core.stage import Aggregator, Place, Protocol, Stage, stages
from headway.core.update import Tensors, Update
from headway.numerics.keys import Key, Keys
from headway.protocol.sums import ExactTotal

Labelled = Mapping[str, Tensors]
Known = TypeVar("Known", bound=Context)


def chain(*parts: Stage) -> Chain:
    """Composes stages into a chain, or refuses with a sentence.

    >>> from headway.stages import ECGR, Mean
    >>> chain(ECGR(beta=0.2), Mean())
    chain(ECGR(select=0.5, beta=0.2, rule='greedy'), Mean(over='examples'))
    """
    return Chain(parts)


@dataclass(frozen=True, repr=False)
class Chain:
    """The stages, checked when built; every hook of the whole is a fold over the stages' hooks."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        _check_order(self.stages)
        self.trace(Flow())

    def __repr__(self) -> str:
        return f"chain({', '.join(map(repr, self.stages))})"

    def __iter__(self) -> Any:
        return iter(self.stages)

    @classmethod
    def from_config(cls, tables: Iterable[Mapping[str, Any]]) -> Chain:
        """The chain of a list of `{"stage": name, field: value, ...}`.

        Raises:
            ConfigError: for an unknown stage or option, or a wrong type.
            ChainRefused: if the stages do not compose.
        """
        return cls(tuple(stages.build(table) for table in tables))

    def to_config(self) -> list[dict[str, Any]]:
        """Names and numbers from which `from_config` makes an equal chain."""
        return [stages.describe(stage) for stage in self.stages]

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 digest of the names and numbers of all stages, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_config(), sort_keys=True).encode()).hexdigest()

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The name of each stage, its class: no class is in a chain twice."""
        return tuple(type(stage).__name__ for stage in self.stages)

    @cached_property
    def labelled(self) -> tuple[tuple[str, Stage], ...]:
        """The stages with their labels."""
        return tuple(zip(self.labels, self.stages, strict=True))

    @cached_property
    def aggregator(self) -> Aggregator:
        """The aggregator."""
        return next(stage for stage in self.stages if isinstance(stage, Aggregator))

    @cached_property
    def protocol(self) -> tuple[str, Protocol] | None:
        """The protocol and its label, where the chain has one."""
        return next(((label, s) for label, s in self.labelled if isinstance(s, Protocol)), None)

    @cached_property
    def combiner(self) -> tuple[str, Stage] | None:
        """The stage that combines steps, and its label."""
        return next(((label, stage) for label, stage in self.labelled if stage.has("combine")), None)

    @cached_property
    def step_rules(self) -> tuple[tuple[str, Stage], ...]:
        """The stages with a rule for local steps."""
        return tuple((label, stage) for label, stage in self.labelled if stage.has("step"))

    @cached_property
    def gradient_rules(self) -> tuple[tuple[str, Stage], ...]:
        """The stages whose rule for local steps maps the gradient."""
        return tuple((label, stage) for label, stage in self.step_rules if not stage.after_momentum)

    @cached_property
    def direction_rules(self) -> tuple[tuple[str, Stage], ...]:
        """The stages whose rule for local steps maps the direction that momentum makes."""
        return tuple((label, stage) for label, stage in self.step_rules if stage.after_momentum)

    @cached_property
    def rule_kinds(self) -> frozenset[StepRule]:
        """The kinds of rules for local steps that a trainer must apply."""
        return frozenset(stage.step_rule for _, stage in self.step_rules)

    @cached_property
    def masked(self) -> bool:
        """Whether a stage hides single updates, so that the server sees only their sum."""
        return any(stage.place is Place.MASK for stage in self.stages)

    @cached_property
    def has_codecs(self) -> bool:
        """Whether a stage undoes at the server what it did at the client."""
        return any(stage.has("send") and stage.has("decode") for stage in self.stages)

    def summed_lengths(self, flows: Sequence[Flow], size: int) -> dict[str, int]:
        """How many numbers each vector has that is summed at the server, P being `size`: decoded, where updates are
        seen; as it travels, where only sums are."""
        if flows[-1].server_sees != "each":
            return flows[-1].lengths(size)
        lengths, known = {"delta": size}, {"delta"}
        for stage, flow in zip(self.stages, flows, strict=True):
            added = set(flow.vectors) - known
            known |= added
            if not (stage.has("send") and stage.has("decode")):
                lengths |= {name: count for name, count in flow.lengths(size).items() if name in added}
        return lengths

    def trace(self, flow: Flow) -> tuple[Flow, ...]:
        """The facts after each stage; raises `ChainRefused` where a stage cannot stand."""
        flows: list[Flow] = []
        for index, stage in enumerate(self.stages):
            if self.masked and index == self._first_codec:
                flow = flow.set(self.aggregator, weighted=True, lifted=self.aggregator.largest_weight(flow))
                if flows:
                    flows[-1] = flow
            flow = stage.connect(replace(flow, restated=frozenset()))
            if stage.has("step"):
                flow.check_rule(stage, stage.step_rule)
            if stage.has("combine"):
                flow = flow.need(stage, "steps")
            if stage.has("combine") or stage.has("send") or isinstance(stage, Aggregator):
                flow = flow.without_guarantees(stage)
            flows.append(flow)
        return tuple(flows)

    # the folds ------------------------------------------------------------------------------------------

    def init(self, w: Tensor) -> dict[str, Tensors]:
        """The server's state of every stage that keeps one."""
        return _kept((label, stage.init(w)) for label, stage in self.labelled)

    def remember(self, w: Tensor) -> dict[str, Tensors]:
        """A client's first memory of every stage that keeps one."""
        return _kept((label, stage.remember(w)) for label, stage in self.labelled)

    def broadcast(self, state: Labelled) -> dict[str, Tensors]:
        """The broadcast of every stage that has one."""
        return _kept((label, stage.broadcast(state.get(label, {}))) for label, stage in self.labelled)

    def send(
        self,
        update: Update,
        memory: Labelled,
        ctx: ClientContext,
        broadcasts: Labelled,
        flows: Sequence[Flow],
        keys: Mapping[str, Key] | None = None,
        masked: bool = True,
    ) -> tuple[Update, dict[str, Tensors]]:
        """The update on its way out of the client, and the client's next memory; keys: each stage's, where they are
        derived already.  masked: False in a trial without the exchanges of the chain's protocol, which then does not
        see the update.

        Where the server sees only sums, the aggregator's `lift` is applied here, before the first codec; for a rule
        over the whole cohort every client counts 1 in them.
        """
        border = None if flows[-1].server_sees == "each" else self._first_codec
        after: dict[str, Tensors] = {}
        for index, (label, stage) in enumerate(self.labelled):
            if index == border:
                if self.aggregator.whole_cohort:
                    update = update.with_weight(torch.ones_like(update.weight))
                update = self.aggregator.lift(update, self.at_aggregator(ctx, flows))
            if index not in self._senders:
                after |= {label: memory[label]} if label in memory else {}
                continue
            here = at(ctx, label, broadcasts, flows, index, None if keys is None else keys[label])
            if not isinstance(stage, Protocol):
                update, kept = stage.send(update, memory.get(label, {}), here)
            elif masked or not stage.exchanges:
                update, kept = stage.sends(label, update, memory.get(label, {}), here, ctx)
            else:
                kept = memory.get(label, {})
            if kept:
                after[label] = kept
        return update, after

    def decode(self, update: Update, ctx: ServerContext, flows: Sequence[Flow]) -> Update:
        """Undoes the codecs, right to left; then shortens and moves late updates, by the stages for these.

        Statistics count from the present ones in any case: what is averaged in is then what a client has, and not a
        change of what it had been asked with.
        """
        rebased = False
        for index in self._decoders:
            stage = self.stages[index]
            if not (index in self._senders or rebased):
                update, rebased = _statistics_from_now(update, ctx), True
            update = stage.decode(update, at(ctx, self.labels[index], {}, flows, index))
        return update if rebased else _statistics_from_now(update, ctx)

    @cached_property
    def has_decoders(self) -> bool:
        """Whether a stage changes single updates at the server."""
        return bool(self._decoders)

    def lift(self, update: Update, ctx: ServerContext, flows: Sequence[Flow]) -> Update:
        """At the server, one received update as a term of the sum (decoded first, where updates are seen)."""
        if flows[-1].server_sees != "each":
            return update
        return self.lift_decoded(self.decode(update, ctx, flows), ctx, flows)

    def lift_decoded(self, update: Update, ctx: ServerContext, flows: Sequence[Flow]) -> Update:
        """`lift` of an update that is decoded."""
        if not self.lifts_at_server(flows):
            return update
        return self.aggregator.lift(update, self.at_aggregator(ctx, flows))

    def lifts_at_server(self, flows: Sequence[Flow]) -> bool:
        """Whether the server multiplies each update with its weight."""
        return flows[-1].server_sees == "each" and not self.aggregator.whole_cohort

    def aggregate(
        self, total: ExactTotal, state: Labelled, ctx: ServerContext, flows: Sequence[Flow]
    ) -> tuple[Update, Labelled]:
        """The aggregate of the total, before any noise, and the next state, of which only the aggregator's moves."""
        here = self.at_aggregator(ctx, flows)
        if flows[-1].server_sees == "sum":
            decoded = self.decode(total.value(), ctx, flows)
            exact = ExactTotal()
            exact.add(decoded)
            exact.count = total.count
            total = exact
        elif flows[-1].server_sees == "bucket sums":
            total = total.means(lambda summed: self.decode(summed, ctx, flows), ctx.global_params.dtype)
        label = self.labels[self._border]
        update, kept = self.aggregator.aggregate(total, state.get(label, {}), here)
        return update, {**state, label: kept} if kept else state

    def whole_step(self, flows: Sequence[Flow]) -> str | None:
        """Why the server's step takes whole vectors, as a phrase; `None` if it may be made a few columns at a time."""
        acting = (s for s in self.stages if isinstance(s, Aggregator) or s.has("release") or s.has("receive"))
        whole = [f"{type(stage).__name__} needs them whole" for stage in acting if not stage.by_columns]
        return "a release is kept whole" if flows[-1].events else next(iter(whole), None)

    def release(self, update: Update, ctx: ServerContext, flows: Sequence[Flow]) -> Update:
        """The aggregate with its noise, drawn here, before anything else reads it."""
        for index, (label, stage) in enumerate(self.labelled):
            if stage.has("release"):
                update = stage.release(update, at(ctx, label, {}, flows, index))
        return update

    def receive(
        self, update: Update, state: Labelled, ctx: ServerContext, flows: Sequence[Flow]
    ) -> tuple[Update, dict[str, Tensors]]:
        """The server's release from the aggregate, and its next state."""
        after = dict(state)
        for index, (label, stage) in enumerate(self.labelled):
            if stage.has("receive"):
                here = at(ctx, label, {}, flows, index)
                update, kept = stage.receive(update, state.get(label, {}), here)
                if kept:
                    after[label] = kept
        return update, after

    def at_aggregator(self, ctx: Known, flows: Sequence[Flow]) -> Known:
        """The context as the aggregator sees it."""
        index = self._border
        return at(ctx, self.labels[index], {}, flows, index)

    @cached_property
    def _border(self) -> int:
        """The place of the aggregator."""
        return next(index for index, stage in enumerate(self.stages) if isinstance(stage, Aggregator))

    @cached_property
    def _senders(self) -> frozenset[int]:
        """The places of the stages that change the update on its way out of the client."""
        return frozenset(index for index, stage in enumerate(self.stages) if stage.has("send"))

    @cached_property
    def _decoders(self) -> tuple[int, ...]:
        """The places of the stages that change the update at the server, right to left."""
        return tuple(index for index in reversed(range(len(self.stages))) if self.stages[index].has("decode"))

    @cached_property
    def _first_codec(self) -> int:
        """The first stage that codes or masks what is summed; the aggregator where there is none.  A sparsifier is no
        such stage: one whose coded updates add is linear, so that weights may be multiplied in after it."""
        return next(
            index
            for index, stage in enumerate(self.stages)
            if (stage.has("decode") and stage.place >= Place.QUANTISE) or isinstance(stage, (Aggregator, Protocol))
        )


def at(
    ctx: Known, label: str, broadcasts: Labelled, flows: Sequence[Flow], index: int, key: Key | Keys | None = None
) -> Known:
    """The context as one stage sees it: its own key, its own broadcast, the facts that reach it, and no secret.

    key: the stage's, where it is derived already.
    """
    changes: dict[str, Any] = {}
    if isinstance(ctx, ClientContext):
        changes |= {"secret": NOTHING, "exchange": None, "lanes": ()}
    if ctx.system is not None:
        changes["system"] = ctx.system.derive(label)
    flow = flows[index - 1] if index else flows[0]
    key = ctx.key.derive(label) if key is None else key
    return replace(ctx, key=key, received=broadcasts.get(label, {}), flow=flow, **changes)


def _statistics_from_now(update: Update, ctx: ServerContext) -> Update:
    """A late update whose statistics lead away from the server's statistics of now."""
    now, asked = ctx.buffers, ctx.asked_buffers
    if now is None or asked is None or "buffers" not in update.vectors or not bool(ctx.age.any()):
        return update
    moved = update.vectors["buffers"]
    return update.with_vectors(buffers=moved + (asked - now).to(moved.dtype))


def _kept(pairs: Iterable[tuple[str, Tensors]]) -> dict[str, Tensors]:
    return {label: tensors for label, tensors in pairs if tensors}


def _check_order(parts: Sequence[Stage]) -> None:
    """Refuses what is no chain whatever the facts: no border or two, two combiners, a wrong order."""
    for part in parts:
        if not isinstance(part, Stage):
            raise ChainRefused(
                needed="stages only",
                found=f"{part!r}",
                caused_by=type(part).__name__,
                do_this="pass stages such as FedProx(mu=0.01) to chain(...)",
            )
    borders = [type(part).__name__ for part in parts if isinstance(part, Aggregator)]
    if len(borders) != 1:
        raise ChainRefused(
            needed="exactly one aggregator, the border between clients and server",
            found=" and ".join(borders) or "none",
            caused_by=borders[-1] if borders else "the chain",
            do_this="keep one of them" if borders else "add Mean() after the client's stages",
        )
    _check_single(parts, "combine", "combine the client's steps")
    for first, second in itertools.pairwise(parts):
        if first.place.rank > second.place.rank:
            one, two = type(first).__name__, type(second).__name__
            raise ChainRefused(
                needed="the order in which an update travels: rules for local steps, combination of steps, scaling and "
                "weight, sparsifier, clip, quantiser, noise, mask, aggregator, noise on the aggregate, server "
                "optimizer, average of models",
                found=f"{one} ({first.place.summary}) before {two} ({second.place.summary})",
                caused_by=two,
                do_this=f"put {two} before {one}",
            )
    for index, part in enumerate(parts):
        if parts.index(part) != index or sum(type(p) is type(part) for p in parts) > 1:
            raise ChainRefused(
                needed="each idea once",
                found=f"{type(part).__name__} more than once",
                caused_by=type(part).__name__,
                do_this="keep one of them",
            )


def _check_single(parts: Sequence[Stage], hook: str, doing: str) -> None:
    found = [type(part).__name__ for part in parts if part.has(hook)]
    if len(found) > 1:
        raise ChainRefused(
            needed=f"at most one stage that {doing.replace('combine', 'combines')}",
            found=" and ".join(found),
            caused_by=found[-1],
            do_this=f"keep {found[0]} or {found[-1]}",
        )
