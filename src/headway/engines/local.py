"""The Local engine: clients in this process, one at a time or in lanes side by side."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from headway.client.evaluate import evaluate_clients
from headway.client.lanes import Lanes, why_not
from headway.client.runner import ClientRunner
from headway.client.sgd import LocalSGD
from headway.client.trainer import Trained, Work
from headway.client.workbench import Workbench
from headway.core import frame
from headway.core.ask import Answer, Ask, ClientReport
from headway.core.errors import ConfigError, UpdateRejected
from headway.core.flow import EngineFacts
from headway.core.stage import Context
from headway.core.total import Group, Total, guard
from headway.core.update import Tensors, Update
from headway.engines.engine import Engine, Job
from headway.observe.drift import DriftMeter

GROUP = 64  # clients summed in float64 before the exact accumulator is paid; part of what fixes a run's bits


class LocalEngine(Engine):
    """Simple and exact: what fails, fails here, under your debugger, with the client, the stage and its inputs.

    drift: whether to measure how far the clients, and the steps within each, pull apart in every round (never of
        a protected chain).
    lanes: how many clients train side by side as one batched program; where they cannot, `alone` says why, and they
        train one at a time.  The numbers agree to rounding.

    Raises:
        ConfigError: if lanes is below 1.
    """

    def __init__(self, drift: bool = True, lanes: int = 1) -> None:
        if isinstance(lanes, bool) or not isinstance(lanes, int) or lanes < 1:
            raise ConfigError(f"lanes must be a whole number from 1, found {lanes!r}.")
        self.drift, self.width = drift, lanes
        self.meter: DriftMeter | None = None
        self.lanes: Lanes | None = None
        self.alone: str | None = None

    @property
    def facts(self) -> EngineFacts:
        """Keeps memory; every client answers at once."""
        return EngineFacts("Local" if self.width == 1 else f"Lanes of {self.width}")

    def open(self, job: Job) -> None:
        """Builds the one workbench that all clients use in turn."""
        self.job = job
        self.flows = job.algorithm.flows(self.facts, population=len(job.data.clients))
        self.bench = Workbench(job.task, job.key)
        self.measure = self.drift and not job.algorithm.protected
        self.runner = ClientRunner(job.algorithm, self.bench, self.flows, job.key, self.measure)
        self.runner.check(job.data.train_sizes.tolist())
        self.alone = why_not(self.runner.trainer, self.bench) if self.width > 1 else "one at a time was asked for"
        if self.alone is None:
            assert isinstance(self.runner.trainer, LocalSGD)
            self.lanes = Lanes(self.runner.trainer, self.bench)
        self.secrets: dict[str, Tensors] = {}
        self.expected = self.flows[-1].lengths(self.bench.layout.size)
        if job.task.buffers == "average" and self.bench.has_statistics:
            self.expected["buffers"] = self.bench.statistics_layout.size

    def clients(self) -> Sequence[str]:
        """The population."""
        return self.job.data.clients

    def ask(self, ask: Ask) -> Answer:
        """Runs one ask on its cohort, in the order of client names.

        torch's own generator is left as it was found.
        """
        before = torch.get_rng_state()
        try:
            if ask.kind == "train":
                return self._train(ask)
            if ask.kind == "evaluate":
                return self._evaluate(ask)
            if ask.kind == "settle":
                return self._settle(ask)
            return self._protocol(ask)
        finally:
            torch.set_rng_state(before)

    def close(self) -> None:
        """Nothing is held open."""

    def _train(self, ask: Ask) -> Answer:
        total = Total()
        reports: list[ClientReport] = []
        down = frame.size(ask.message.tensors())
        if self.measure:
            key = self.job.key.derive("drift", ask.round)
            self.meter = DriftMeter(len(ask.cohort), self.bench.layout.size, key)
        for members in groups(ask.cohort):
            group, side_by_side = Group(), self._side_by_side(ask, members)
            reports += [
                self._train_client(ask, client, down, group, total, side_by_side.get(client)) for client in members
            ]
            total.add_group(group)
        return self._with_drift(Answer(total=total, reports=tuple(reports)))

    def _with_drift(self, answer: Answer) -> Answer:
        """The answer with what the deltas say of each other, and the steps of each client."""
        if self.meter is None:
            return answer
        cohort, clients = self.meter.figures()
        self.meter = None
        reports = [
            replace(report, metrics={**report.metrics, **clients.get(report.client, {})}) for report in answer.reports
        ]
        return replace(answer, reports=tuple(reports), figures=cohort)

    def _side_by_side(self, ask: Ask, members: Sequence[str]) -> dict[str, tuple[Work, Trained, float]]:
        """What clients that train in lanes were given, what training did, and each one's share of the seconds."""
        found: dict[str, tuple[Work, Trained, float]] = {}
        if self.lanes is None:
            return found
        data, memory = self.job.data, self.job.memory
        present = [client for client in members if not self.runner.drops(client, ask.round)]
        for clients in lane_groups(present, {client: len(data.train[client]) for client in present}, self.width):
            begun = time.perf_counter()
            works = [self.runner.prepare(c, ask, data.train_of(c), memory.get(c), self.secrets.get(c)) for c in clients]
            try:
                trained = self.lanes.train(works)
            except Exception as error:  # whatever a model or a stage may raise: alone, client and stage are named
                self.lanes, self.alone = None, f"{type(error).__name__} in a batched program"
                break
            seconds = (time.perf_counter() - begun) / len(clients)
            found |= {c: (w, t, seconds) for c, w, t in zip(clients, works, trained, strict=True)}
        return found

    def _train_client(
        self,
        ask: Ask,
        client: str,
        down: int,
        group: Group,
        total: Total,
        done: tuple[Work, Trained, float] | None = None,
    ) -> ClientReport:
        """Trains one client, unless that is done, and adds its update to the group, if the guard lets it pass."""
        begun = time.perf_counter() - (0.0 if done is None else done[2])
        if self.runner.drops(client, ask.round):
            return ClientReport(client, "dropped", reason="a straggler, and the policy drops those", bytes_down=down)
        examples = self.job.data.train_of(client)
        try:
            if done is None:
                kept = self.job.memory.get(client)
                outcome = self.runner.train(client, ask, examples, kept, self.secrets.get(client))
            else:
                with done[0].trace.naming():
                    outcome = self.runner.finish(client, ask, done[0], done[1])
            norm = guard(outcome.update, self.expected, client, integers=self.flows[-1].number == "ring")
        except UpdateRejected as refusal:
            seconds = time.perf_counter() - begun
            return ClientReport(client, "rejected", seconds=seconds, bytes_down=down, reason=refusal.reason)
        self._count(ask, client, outcome.update, group, total)
        if self.meter is not None and outcome.trained.squares is not None:
            self.meter.add_path(client, outcome.trained.squares, outcome.trained.movement)
        self.job.memory.propose(client, (ask.round, ask.attempt), outcome.memory)
        up = frame.size(frame.of_update(outcome.update))
        seconds = time.perf_counter() - begun
        if self.job.algorithm.protected:
            return ClientReport(client, "counted", seconds=seconds, bytes_up=up, bytes_down=down)
        metrics = {"train_loss": outcome.trained.loss}
        if "weight_bound" in self.flows[-1].set_by:  # a stage sets the weights
            metrics["weight"] = float(outcome.update.weight)
        steps = outcome.trained.count
        return ClientReport(client, "counted", len(examples), steps, norm, seconds, up, down, metrics)

    def _count(self, ask: Ask, client: str, update: Update, group: Group, total: Total) -> None:
        chain = self.job.algorithm.chain
        ctx = Context(
            round=ask.round,
            key=self.job.key.derive("server", ask.round),
            layout=self.bench.layout,
            flow=self.flows[-1],
            global_params=ask.message.params,
        )
        term = chain.lift(update, ctx, self.flows)
        if chain.aggregator.whole_cohort:
            total.add_row(client, term)
        else:
            group.add(term)
        if self.meter is not None:
            self.meter.add(client, update.delta, float(term.weight))

    def _evaluate(self, ask: Ask) -> Answer:
        scores = evaluate_clients(self.bench, ask.message, self.job.data, ask.cohort, self.job.memory)
        reports = [
            ClientReport(client, "counted", len(self.job.data.test[client]), metrics=metrics)
            for client, metrics in scores.items()
        ]
        return Answer(reports=tuple(reports))

    def _settle(self, ask: Ask) -> Answer:
        """The round is over: those of the cohort were counted, and nobody's secret is needed any more."""
        self.job.memory.settle((ask.round, ask.attempt), ask.cohort)
        self.secrets.clear()
        return Answer()

    def _protocol(self, ask: Ask) -> Answer:
        """One of a protocol's own asks: each client answers and keeps its secret until the round is over."""
        found = self.job.algorithm.chain.protocol
        if found is None:
            raise ConfigError(f"nothing in the chain answers the ask {ask.kind!r}.")
        label, protocol = found
        replies: dict[str, Tensors] = {}
        for client in sorted(ask.cohort):
            key = self.runner.client_key(client, ask.round).derive(label, ask.attempt)
            reply, self.secrets[client] = protocol.answer(ask, self.secrets.get(client, {}), client, key)
            replies[client] = reply
        return Answer(replies=replies)


def groups(cohort: Sequence[str]) -> Iterator[Sequence[str]]:
    """The cohort in groups of clients that are summed together: a pure function of its sorted names."""
    ordered = sorted(cohort)
    for start in range(0, len(ordered), GROUP):
        yield ordered[start : start + GROUP]


def lane_groups(members: Sequence[str], sizes: Mapping[str, int], width: int) -> Iterator[Sequence[str]]:
    """The clients that train side by side: of like size, so that little is padded, and as many as there are lanes.

    >>> list(lane_groups(["a", "b", "c"], {"a": 5, "b": 9, "c": 5}, 2))
    [['b', 'a'], ['c']]
    """
    ordered = sorted(members, key=lambda client: (-sizes[client], client))
    for start in range(0, len(ordered), width):
        yield ordered[start : start + width]
