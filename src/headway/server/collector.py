"""The server's side of a group: updates of its clients are decoded, lifted and summed, and each gets a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from headway.client.client_training import Outcome
from headway.core.algorithm import Algorithm
from headway.core.context import ServerContext
from headway.core.flow import Flow
from headway.core.layout import Layout
from headway.core.update import Update
from headway.model.device import Device
from headway.numerics.keys import Key
from headway.observe.drift import DriftMeter
from headway.protocol.messages import STRAGGLER, Answer, Ask
from headway.protocol.reports import OneOrEach, Reports, columns_of
from headway.protocol.sums import ExactTotal, GroupSum
from headway.server.guard import Promise
from headway.training.trainer import Trained
from headway.vectorized.client_batch import ClientBatch

AT_A_TIME = 1 << 23  # numbers of all lanes that are decoded at a time


@dataclass(slots=True)
class GroupResult:
    """The result of a group: the sum of its counted updates, reports in parts, and the meter with its drift."""

    group: GroupSum = field(default_factory=GroupSum)
    parts: list[Reports] = field(default_factory=list)
    meter: DriftMeter | None = None


class UpdateCollector:
    """Lifts updates, and adds them to the result of a group.

    key: of the run.  layout: of the model's vector.  device: where the clients train.  guard: what updates must be.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        key: Key,
        flows: tuple[Flow, ...],
        layout: Layout,
        device: Device,
        guard: Promise,
        population: int,
    ) -> None:
        self.chain, self.protected, self.key = algorithm.chain, algorithm.protected, key
        self.population = population
        self.flows, self.layout, self.device, self.guard = flows, layout, device, guard
        self.lifts = self.chain.lifts_at_server(flows)
        self._contexts: _Contexts | None = None  # of the clients that were asked last

    def lifted(self, update: Update, ask: Ask, clients: tuple[str, ...]) -> Update:
        """The contribution of many updates `[C, ...]` to the sum."""
        return self.chain.lift(update, self._at_server(ask, clients), self.flows)

    def count(self, ask: Ask, client: str, outcome: Outcome, result: GroupResult) -> None:
        """Adds a client's update.

        Raises:
            UpdateRejected: if it is longer than was promised, which may show only when it is decoded.
        """
        update, trained, here = outcome.update, outcome.trained, self._kept_contexts(ask, client)
        decoded = self.chain.decode(update, here.server, self.flows) if here.decodes else update
        if self.guard.decoded:
            self.guard.check_bound(decoded, client)
        term = self.chain.aggregator.lift(decoded, here.aggregator) if self.lifts else decoded
        if self.chain.aggregator.whole_cohort:
            result.group.total.add_row(client, term)
        else:
            result.group.add(term)
        if result.meter is not None:
            measured = decoded if self.guard.decoded else update
            result.meter.add(client, measured.delta, float(term.weight))
            if trained.squares is not None:
                result.meter.add_path(client, trained.squares, trained.movement)

    def count_received(self, ask: Ask, client: str, update: Update, result: GroupResult) -> None:
        """Adds an update that came over a wire, without what training measured at the client.

        Raises:
            UpdateRejected: as `count`.
        """
        self.count(ask, client, Outcome(update, {}, Trained(update.delta, 0, 0.0, 0.0, 0.0)), result)

    def needs_whole_vectors(self, ask: Ask) -> str | None:
        """Why updates cannot be summed a block of columns at a time, as a phrase; `None` if they can."""
        if self.chain.aggregator.whole_cohort:
            return f"{type(self.chain.aggregator).__name__} needs all updates at once"
        if self._contexts_of(ask, ask.cohort[0]).decodes if ask.cohort else False:
            return "updates are decoded at the server"
        if self.guard.integers:
            return "updates hold integers"
        return "clients are asked with models of different rounds" if ask.earlier else None

    def lifted_columns(self, ask: Ask, client: str, update: Update, columns: slice) -> Update:
        """Some columns of a client's update as they enter the sum, where that does not need whole vectors."""
        here = self._kept_contexts(ask, client)
        part = replace(update, vectors={name: vector[columns] for name, vector in update.vectors.items()})
        if not self.lifts:
            return part
        return self.chain.aggregator.lift(part, here.aggregator.sliced(columns.start, columns.stop))

    def check_received(self, ask: Ask, client: str, update: Update, examples: int | None = None) -> float:
        """The norm of the delta of an update that came over a wire, after all checks, as `count` would make them.

        Raises:
            UpdateRejected: if it is not what was promised.
        """
        norm = self.guard.check(update, client, examples)
        if self.guard.decoded and self.guard.bound is not None:
            here = self._contexts_of(ask, client)
            decoded = self.chain.decode(update, here.server, self.flows) if here.decodes else update
            self.guard.check_bound(decoded, client)
        return norm

    def count_batch(self, ask: Ask, batch: ClientBatch, outcome: Outcome, result: GroupResult) -> bool:
        """Adds all updates of a batch; False, and nothing is added, if one is longer than its promised bound."""
        update, trained, ctx = outcome.update, outcome.trained, self._at_server(ask, batch.clients)
        decoded = self._decoded_batch(update, ctx)
        if self.guard.decoded and not self.guard.holds(decoded):
            return False
        if self.chain.aggregator.whole_cohort:
            term = self.chain.lift_decoded(decoded, ctx, self.flows).cpu()
            for index, client in enumerate(batch.clients):
                result.group.total.add_row(client, term.lane(index))
            weights = term.weight
        else:

            def lift(part: Update, columns: slice) -> Update:
                return self.chain.lift_decoded(part, ctx.sliced(columns.start, columns.stop), self.flows)

            weights = result.group.add_lanes(decoded, lift)
        if result.meter is not None:
            measured = decoded if self.guard.decoded else update
            result.meter.add_lanes(batch.clients, measured.delta, weights)
            if trained.squares is not None:
                counts = torch.as_tensor(trained.count)
                result.meter.add_paths(batch.clients, trained.squares, counts, trained.movement)
        return True

    def _decoded(self, update: Update, ctx: ServerContext) -> Update:
        """One update, or many `[C, ...]`, decoded where updates are seen."""
        return update if self.flows[-1].server_sees != "each" else self.chain.decode(update, ctx, self.flows)

    def _decoded_batch(self, update: Update, ctx: ServerContext) -> Update:
        """The decoded updates of a batch, whole vectors of a few clients at a time, which bounds the memory."""
        lanes = len(update.weight)
        width = max(1, AT_A_TIME // max(self.layout.size, 1))
        if width >= lanes or not any(stage.has("decode") for stage in self.chain):
            return self._decoded(update, ctx)
        parts = []
        for start in range(0, lanes, width):
            rows = slice(start, start + width)
            parts.append(self._decoded(update.lanes(rows), ctx.of_lanes(rows)))
        return Update.joined(parts)

    def reports_of(
        self, clients: Sequence[str], costs: tuple[OneOrEach[float], OneOrEach[int], int], *numbers: OneOrEach[Any]
    ) -> Reports:
        """Reports on clients that count.

        costs: seconds, and bytes up and down, of each.  numbers: examples, steps, norms, losses and weights.
        """
        if self.protected:
            return Reports(clients, "counted", 0, 0, None, *costs)
        sizes, steps, norms, losses, weights = numbers
        metrics = {"train_loss": losses}
        if "weight_bound" in self.flows[-1].set_by:  # a stage sets the weights
            metrics["weight"] = weights
        return Reports(clients, "counted", sizes, steps, norms, *costs, metrics)

    def _kept_contexts(self, ask: Ask, client: str) -> _Contexts:
        """The contexts of a client's update, made anew only where those of the last one are others."""
        here = self._contexts
        if here is None or here.ask is not ask or ask.earlier:
            here = self._contexts = self._contexts_of(ask, client)
        return here

    def _contexts_of(self, ask: Ask, client: str) -> _Contexts:
        """The contexts of a client's update; the same for all that were asked in the present round."""
        ctx = self._at_server(ask, client)
        changes = self.chain.has_decoders or ctx.buffers is not None
        decodes = changes and self.flows[-1].server_sees == "each"
        return _Contexts(ask, ctx, self.chain.at_aggregator(ctx, self.flows), decodes)

    def _at_server(self, ask: Ask, clients: str | tuple[str, ...]) -> ServerContext:
        """The server's context when it takes the update of a client, or of many `[C, ...]`."""
        if isinstance(clients, str):
            age, received = torch.tensor(ask.ages([clients])[0]), ask.broadcast_for(clients)
        else:
            age = torch.tensor(ask.ages(clients)) if ask.earlier else torch.zeros(len(clients), dtype=torch.int64)
            received = ask.stacked_broadcast(clients)
        return ServerContext(
            round=ask.round,
            key=self.key.derive("server", ask.round),
            layout=self.layout,
            flow=self.flows[-1],
            global_params=ask.message.params,
            population=self.population,
            age=self.device.put(age),
            asked_params=received.params,
            buffers=ask.message.buffers,
            asked_buffers=received.buffers,
        )


@dataclass(frozen=True, slots=True)
class _Contexts:
    """The facts of an update in one ask, as the server's stages and the aggregator see them; decodes: whether a stage
    changes it at the server."""

    ask: Ask
    server: ServerContext
    aggregator: ServerContext
    decodes: bool


def stragglers(clients: Sequence[str], down: int) -> Reports:
    """Reports on clients whose work is dropped, and that received so many bytes."""
    return Reports(clients, "dropped", bytes_down=down, reasons=STRAGGLER)


def answered(total: ExactTotal, parts: Iterable[Reports], meter: DriftMeter | None) -> Answer:
    """The answer to a round: reports by client, each with its part of the drift, where that was measured."""
    reports = Reports.joined(parts).by_client()
    if meter is None:
        return Answer(total=total, reports=reports)
    cohort, clients = meter.figures()
    drift = columns_of([clients.get(client, {}) for client in reports.clients])
    deltas = dict(meter.rows) if meter.kept else {}
    return Answer(total=total, reports=reports.adding(drift), figures=cohort, deltas=deltas)
