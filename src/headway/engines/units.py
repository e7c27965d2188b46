"""Units: the clients of a cohort that are trained one after another, or side by side, and summed together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from headway.client.crew import Crew
from headway.client.lanes import Lanes, why_not
from headway.client.lowrank import LowRank, Summed, suits
from headway.client.runner import ClientRunner, Outcome
from headway.client.sgd import LocalSGD
from headway.client.trainer import Trained
from headway.client.workbench import Workbench
from headway.core import frame
from headway.core.ask import Ask, ClientReport
from headway.core.errors import UpdateRejected
from headway.core.flow import Flow
from headway.core.stage import Context
from headway.core.total import Group, guard, guard_lanes
from headway.core.update import Tensors, Update
from headway.data.parts import Parts
from headway.engines.engine import Job
from headway.observe.drift import DriftMeter

GROUP = 64  # clients summed in float64 before the exact accumulator is paid; part of what fixes a run's bits


def units(
    cohort: Sequence[str], train: Mapping[str, Tensor], lanes: int = 1, group: int = GROUP
) -> Iterator[list[str]]:
    """The cohort in units: a pure function of its sorted names, the clients' sizes and the plan.

    train: who holds what.

    lanes: clients side by side; if there are several, a unit has a whole number of crews, each of clients of like
        size, so that little is padded.  group: the least number of clients in a unit, as far as they go.

    >>> train = {"a": torch.arange(5), "b": torch.arange(9), "c": torch.arange(5)}
    >>> list(units(["c", "a", "b"], train, lanes=2, group=2))
    [['b', 'a'], ['c']]
    """
    ordered = sorted(cohort)
    if lanes > 1:
        held = Parts.of(train).rows(ordered)[1].tolist()
        ordered = [client for _, client in sorted(zip((-size for size in held), ordered, strict=True))]
    size = -(-group // lanes) * lanes
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


@dataclass(slots=True)
class Done:
    """What came of a unit: the sum of its counted updates, a report per client; the meter has been told the drift."""

    group: Group = field(default_factory=Group)
    reports: list[ClientReport] = field(default_factory=list)
    meter: DriftMeter | None = None


class UnitRunner:
    """Runs the clients of one unit after another, on one workbench.

    measure: whether to collect what tells of drift.  width: how many clients train side by side; where they cannot,
        `alone` says why, and they train one at a time.
    """

    def __init__(self, job: Job, flows: tuple[Flow, ...], measure: bool, width: int) -> None:
        self.job, self.flows, self.measure, self.width = job, flows, measure, width
        self.bench = Workbench(job.task, job.key)
        self.runner = ClientRunner(job.algorithm, self.bench, flows, job.key, measure)
        self.runner.check(job.data.train_sizes.tolist())
        self.lanes: Lanes | None = None
        self.lowrank: LowRank | None = None
        chain = job.algorithm.chain
        self.why_not = why_not(self.runner.trainer, self.bench, chain) if width > 1 else None
        if width > 1 and self.why_not is None:
            assert isinstance(self.runner.trainer, LocalSGD)
            lanes = Lanes(self.runner.trainer, self.bench)
            self.why_not = lanes.probe(job.data.store.rows(0, 2))
            self.lanes = lanes if self.why_not is None else None
            if self.lanes is not None and not measure and suits(self.runner.trainer, self.bench, chain, flows[-1]):
                lowrank = LowRank(self.bench)
                self.lowrank = lowrank if lowrank.probe(job.data.store) else None
        if self.lanes is None:
            self.width = 1
        self.expected = flows[-1].lengths(self.bench.layout.size)
        if job.task.buffers == "average" and self.bench.has_statistics:
            self.expected["buffers"] = self.bench.statistics_layout.size

    @property
    def alone(self) -> str | None:
        """Why clients train one at a time; `None` if they do not."""
        return self.why_not if self.lanes is not None or self.why_not else "one at a time was asked for"

    def use(self, width: int) -> None:
        """Trains so many clients side by side from now on."""
        if self.lanes is not None:
            self.width, self.lanes = width, self.lanes if width > 1 else None

    def meter(self, ask: Ask, cohort: int | None = None) -> DriftMeter | None:
        """What collects the drift of a round, if that is measured; cohort: of so many clients, if not the ask's."""
        if not self.measure:
            return None
        return DriftMeter(cohort or len(ask.cohort), self.bench.layout.size, self.job.key.derive("drift", ask.round))

    def run(self, ask: Ask, members: Sequence[str], secrets: Mapping[str, Tensors], meter: DriftMeter | None) -> Done:
        """Trains the clients of a unit and sums their updates, in this order."""
        done, down = Done(meter=meter), frame.size(ask.message.tensors())
        for start in range(0, len(members), self.width):
            clients = members[start : start + self.width]
            if self.lanes is not None and self._side_by_side(ask, clients, down, done):
                continue
            for client in clients:
                done.reports.append(self._one(ask, client, down, secrets.get(client), done))
        return done

    # side by side ---------------------------------------------------------------------------------------

    def _side_by_side(self, ask: Ask, clients: Sequence[str], down: int, done: Done) -> bool:
        """Trains a crew in lanes; False, and nothing has happened, if these clients must train one at a time."""
        begun = time.perf_counter()
        dropped = self.runner.dropped(clients, ask.round)
        gone = set(dropped)
        present = [client for client in clients if client not in gone] if gone else clients
        if present and not self._lowered(ask, present, down, done):
            together = self._together(ask, present)
            if together is None:
                return False
            crew, outcome = together
            norms = guard_lanes(outcome.update, self.expected, integers=self.flows[-1].number == "ring")
            if norms is None:
                return False
            self._count_crew(ask, crew, outcome, done)
            seconds = (time.perf_counter() - begun) / len(crew)
            up = frame.size(frame.of_update(outcome.update.lane(0)))
            done.reports += self._reports(crew, outcome.trained, outcome.update.weight, norms, (seconds, up, down))
        done.reports += [_straggler(client, down) for client in dropped]
        return True

    def _together(self, ask: Ask, clients: Sequence[str]) -> tuple[Crew, Outcome] | None:
        """What clients side by side send; `None` if they must train one at a time."""
        lanes, job = self.lanes, self.job
        assert lanes is not None
        try:
            crew, plan = lanes.plan(self._crew(clients, ask), ask.round)
            if not lanes.fits(plan, "steps" in self.flows[-1].needs):
                return None
            memory = job.memory.gather(crew.clients, self.runner.remembered(ask))
            work = self.runner.prepare_crew(crew, ask, memory)
            trained = lanes.train(work, plan)
            if not bool(torch.isfinite(torch.linalg.vector_norm(trained.movement, dim=-1)).all()):
                return None
            return crew, self.runner.send(ask, work, trained)
        except Exception:  # whatever a model or a stage may raise: alone, client and stage are named
            return None

    def _lowered(self, ask: Ask, clients: Sequence[str], down: int, done: Done) -> bool:
        """Trains a crew without a vector for each client, where nobody looks at one; False, and nothing has happened,
        if that cannot be."""
        begun, lanes, lowrank = time.perf_counter(), self.lanes, self.lowrank
        if lanes is None or lowrank is None:
            return False
        try:
            crew, plan = lanes.plan(self._crew(clients, ask), ask.round)
            if not lowrank.pays(plan):
                return False
            summed = lowrank.train(self.runner.prepare_crew(crew, ask, {}), plan)
        except Exception:  # whatever a model may raise: the client alone raises it with names
            return False
        update = Update.of(torch.ones(len(crew), 1, dtype=torch.float64), crew.sizes.double())
        term = self.job.algorithm.chain.lift(update, self._at_server(ask), self.flows)
        total = summed.total(term.delta.squeeze(1))
        if not bool(torch.isfinite(summed.norms).all()) or not bool(torch.isfinite(total).all()):
            return False
        done.group.add_sum({"delta": total}, term)
        up = frame.size(frame.of_update(Update.of(ask.message.params)))
        seconds = (time.perf_counter() - begun) / len(crew)
        done.reports += self._reports(crew, summed, update.weight, summed.norms, (seconds, up, down))
        return True

    def rehearse(self, ask: Ask, clients: Sequence[str]) -> None:
        """Does all of the clients' work of a round, side by side if there are several, and forgets it."""
        if len(clients) > 1 and self.lanes is not None and self._lowered(ask, clients, 0, Done()):
            return
        if len(clients) > 1 and self.lanes is not None and self._together(ask, clients) is not None:
            return
        for client in clients:
            self.runner.train(client, ask, self.job.data.train_of(client), self.job.memory.get(client))

    def _crew(self, clients: Sequence[str], ask: Ask) -> Crew:
        rows, sizes = Parts.of(self.job.data.train).rows(clients)
        keys = self.runner.client_keys(clients, ask.round)
        return Crew(tuple(clients), keys, self.job.data.store, rows, sizes)

    def _count_crew(self, ask: Ask, crew: Crew, outcome: Outcome, done: Done) -> None:
        """Adds all updates of a crew to the unit's sum, and keeps their memory as pending."""
        chain, ctx, update, trained = self.job.algorithm.chain, self._at_server(ask), outcome.update, outcome.trained
        if chain.aggregator.whole_cohort:
            term = chain.lift(update, ctx, self.flows)
            for index, client in enumerate(crew.clients):
                done.group.total.add_row(client, term.lane(index))
            weights = term.weight
        else:
            weights = done.group.add_lanes(update, lambda part: chain.lift(part, ctx, self.flows))
        if done.meter is not None:
            done.meter.add_lanes(crew.clients, update.delta, weights)
            if trained.squares is not None:
                counts = torch.as_tensor(trained.count)
                done.meter.add_paths(crew.clients, trained.squares, counts, trained.movement)
        self.job.memory.propose_stacked(crew.clients, (ask.round, ask.attempt), outcome.memory)

    def _reports(
        self, crew: Crew, trained: Trained | Summed, weights: Tensor, norms: Tensor, costs: tuple[float, int, int]
    ) -> list[ClientReport]:
        """A report for each of a crew; costs: seconds, and bytes up and down, of each."""
        if self.job.algorithm.protected:
            return [ClientReport(client, "counted", 0, 0, None, *costs) for client in crew.clients]
        columns = {"train_loss": torch.as_tensor(trained.loss).tolist()}
        if "weight_bound" in self.flows[-1].set_by:  # a stage sets the weights
            columns["weight"] = weights.tolist()
        rows = zip(*columns.values(), strict=True)
        counts = torch.as_tensor(trained.count).tolist()
        numbers = zip(crew.clients, crew.sizes.tolist(), counts, norms.tolist(), rows, strict=True)
        return [
            ClientReport(client, "counted", size, count, norm, *costs, dict(zip(columns, row, strict=True)))
            for client, size, count, norm, row in numbers
        ]

    # one at a time --------------------------------------------------------------------------------------

    def _one(self, ask: Ask, client: str, down: int, secret: Tensors | None, done: Done) -> ClientReport:
        """Trains one client and adds its update to the unit's sum, if the guard lets it pass."""
        begun = time.perf_counter()
        if self.runner.dropped((client,), ask.round):
            return _straggler(client, down)
        examples = self.job.data.train_of(client)
        try:
            outcome = self.runner.train(client, ask, examples, self.job.memory.get(client), secret)
            norm = guard(outcome.update, self.expected, client, integers=self.flows[-1].number == "ring")
        except UpdateRejected as refusal:
            seconds = time.perf_counter() - begun
            return ClientReport(client, "rejected", seconds=seconds, bytes_down=down, reason=refusal.reason)
        weight = self._count(ask, client, outcome.update, done.group)
        if done.meter is not None:
            done.meter.add(client, outcome.update.delta, weight)
            if outcome.trained.squares is not None:
                done.meter.add_path(client, outcome.trained.squares, outcome.trained.movement)
        self.job.memory.propose(client, (ask.round, ask.attempt), outcome.memory)
        up = frame.size(frame.of_update(outcome.update))
        seconds = time.perf_counter() - begun
        if self.job.algorithm.protected:
            return ClientReport(client, "counted", seconds=seconds, bytes_up=up, bytes_down=down)
        return self._report(client, len(examples), outcome, norm, seconds, up, down)

    def _report(
        self, client: str, examples: int, outcome: Outcome, norm: float, seconds: float, up: int, down: int
    ) -> ClientReport:
        trained: Trained = outcome.trained
        metrics = {"train_loss": float(trained.loss)}
        if "weight_bound" in self.flows[-1].set_by:  # a stage sets the weights
            metrics["weight"] = float(outcome.update.weight)
        return ClientReport(client, "counted", examples, int(trained.count), norm, seconds, up, down, metrics)

    def _count(self, ask: Ask, client: str, update: Update, group: Group) -> float:
        chain = self.job.algorithm.chain
        term = chain.lift(update, self._at_server(ask), self.flows)
        if chain.aggregator.whole_cohort:
            group.total.add_row(client, term)
        else:
            group.add(term)
        return float(term.weight)

    def _at_server(self, ask: Ask) -> Context:
        return Context(
            round=ask.round,
            key=self.job.key.derive("server", ask.round),
            layout=self.bench.layout,
            flow=self.flows[-1],
            global_params=ask.message.params,
        )


def with_drift(reports: Sequence[ClientReport], clients: Mapping[str, Mapping[str, float]]) -> list[ClientReport]:
    """The reports with each client's part of the round's drift."""
    return [replace(report, metrics={**report.metrics, **clients.get(report.client, {})}) for report in reports]


def _straggler(client: str, down: int) -> ClientReport:
    return ClientReport(client, "dropped", reason="a straggler, and the policy drops those", bytes_down=down)
