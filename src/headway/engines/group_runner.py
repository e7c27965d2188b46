"""What is done with a unit: its clients are trained one after another, or side by side, and summed together."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from headway.client.participant import Outcome, Participant
from headway.core import stopping
from headway.core.errors import UpdateRejected
from headway.core.flow import Flow
from headway.core.update import Tensors, Update
from headway.data.dataset.client_index import ClientIndex
from headway.engines.autotune.batch_trial import crew_trouble
from headway.engines.autotune.execution_plan import ExecutionPlan
from headway.engines.engine import Job
from headway.engines.fallbacks import ALONE, WRITTEN, Fallbacks
from headway.engines.grouping import expected_cohort
from headway.model.device import Device
from headway.model.flat_module import FlatModule
from headway.model.module_checks import EXAMINED, Unwritten, examine, has_own_code, sequential_reason, untouched
from headway.model.shapes import check_shapes
from headway.observe.drift import DriftMeter
from headway.protocol import wire as frame
from headway.protocol.messages import Ask, Message, Train
from headway.protocol.reports import Reports
from headway.server.collector import GroupResult, UpdateCollector, stragglers
from headway.server.guard import Promise
from headway.training.local_sgd import LocalSGD
from headway.vectorized.batched_sgd import BatchedSGD, BatchPlan, why_not
from headway.vectorized.client_batch import ClientBatch
from headway.vectorized.compiled_gradients import Compiler
from headway.vectorized.low_rank import LowRank, Summed, not_suited, plain_steps

PROBED = 8  # examples on which it is found out whether a model can be batched


class NoRoom(Exception):
    """A crew does not fit in memory side by side; nothing of it has been counted."""


@dataclass(frozen=True, slots=True)
class _Counted:
    """What the reports on a crew need, `[C]` each; up: the bytes that each client sends."""

    steps: Tensor
    losses: Tensor
    weights: Tensor
    norms: Tensor
    up: int


class GroupRunner:
    """Runs the clients of one unit after another, in one flat module.

    measure: whether to collect what tells of drift.  way: how they train; where they cannot train side by side,
        `sequential_reason` says why, and they train one at a time.  site: where.  fallbacks: what happened that was not
        asked for.
    not_compiled, not_lowered: why their gradients are not compiled, or their layers not in low-rank form, in a way that
        says so, as a phrase.

    Raises:
        ConfigError: if the loss or a metric would pair the model's outputs and the targets wrongly.
    """

    def __init__(
        self, job: Job, flows: tuple[Flow, ...], measure: bool, way: ExecutionPlan, site: Device | None = None
    ) -> None:
        self.site = site or Device()
        self.site.check(job.task.number)
        job = replace(job, data=job.data.with_store(self.site.place_dataset(job.data.store)))
        self.job, self.flows, self.measure = job, flows, measure
        self.flat_module = FlatModule(job.task, job.key, self.site)
        self.flat_module.channels_last = way.channels_last
        self.flat_module.own_code = has_own_code(job.algorithm, job.task)
        examine(self.flat_module, job.data.store.rows(0, EXAMINED))
        with untouched(self.flat_module):
            check_shapes(self.flat_module, [job.data.store, *([] if job.data.central is None else [job.data.central])])
        self.unwritten = Unwritten(job.data.store)
        self.fallbacks = Fallbacks()
        self.runner = Participant(job.algorithm, self.flat_module, flows, job.key, measure)
        self.runner.check(job.data.train_sizes.tolist())
        averaged = job.task.buffers == "average" and self.flat_module.has_statistics
        statistics, size = self.flat_module.statistics_layout.size if averaged else 0, self.flat_module.layout.size
        self.promise = Promise.of(job.algorithm.chain, flows, size, statistics)
        self.summed = job.algorithm.chain.summed_lengths(flows, size) | ({"buffers": statistics} if averaged else {})
        self.intake = UpdateCollector(job, flows, self.flat_module.layout, self.site, self.promise)
        self.lanes: BatchedSGD | None = None
        self.lowrank: LowRank | None = None
        self.not_lowered: str | None = None
        why = why_not(self.runner.trainer, self.flat_module, job.algorithm.chain) or sequential_reason(self.flat_module)
        self.why_not = why if way.lanes > 1 else None
        if way.lanes > 1 and self.why_not is None:
            with untouched(self.flat_module):
                self._prepare_crews(job, flows)
        most = expected_cohort(job.algorithm, len(job.data.clients))
        self.compiler = Compiler(
            self.runner.trainer, self.flat_module, self.lanes, job.data.store, job.data.train_sizes, most
        )
        self.use(way)

    def _prepare_crews(self, job: Job, flows: tuple[Flow, ...]) -> None:
        """Makes ready for clients side by side, if model and chain allow it."""
        trainer, chain = self.runner.trainer, job.algorithm.chain
        assert isinstance(trainer, LocalSGD)
        self.lanes = BatchedSGD(trainer, self.flat_module)
        self.why_not = self.lanes.probe(
            job.data.store.take(torch.arange(PROBED) % len(job.data.store))
        ) or crew_trouble(job, self.runner, self.lanes, self.intake, first_ask(self, job.data.clients[:2], steps=1))
        if self.why_not is not None:
            self.lanes = None
            return
        self.not_lowered = "figures of each client's steps are measured (drift)" if self.measure else None
        if self.site.precision == "bfloat16":
            self.not_lowered = "products are in bfloat16"
        self.not_lowered = self.not_lowered or not_suited(trainer, self.flat_module, chain, flows[-1])
        if self.not_lowered is None:
            lowrank = LowRank(trainer, self.flat_module, plain_steps(trainer, chain, flows[-1]))
            self.not_lowered = lowrank.probe(job.data.store)
            self.lowrank = lowrank if self.not_lowered is None else None

    @property
    def sequential_reason(self) -> str | None:
        """Why clients train one at a time; `None` if they do not."""
        return self.why_not if self.width > 1 or self.why_not else "one at a time was asked for"

    @property
    def resident(self) -> bool:
        """Whether the examples lie where the clients train."""
        return self.site.holds(self.job.data.store.inputs)

    def use(self, way: ExecutionPlan) -> None:
        """Trains in this way from now on, as far as that is possible; what was made ready for others is kept."""
        self.way = way if self.lanes is not None else replace(way, lanes=1)
        self.flat_module.channels_last = way.channels_last
        wanted = self.width if way.compiled else None
        self.not_compiled = self.compiler.use(wanted, lowered=self.width > 1 and self.uses_low_rank)
        self.way = replace(self.way, compiled=way.compiled and self.not_compiled is None)

    @property
    def width(self) -> int:
        """How many clients make a crew."""
        return self.way.lanes

    @property
    def has_conv2d(self) -> bool:
        """Whether the model has convolutions of images."""
        return any(isinstance(part, nn.Conv2d) for part in self.flat_module.module.modules())

    @property
    def has_non_linear_params(self) -> bool:
        """Whether clients could train in low-rank form, one after another, having some weights of their own."""
        return self.lowrank is not None and bool(self.lowrank.own)

    @property
    def uses_low_rank(self) -> bool:
        """Whether crews train in low-rank form where that pays."""
        return self.lowers_in(self.way)

    def lowers_in(self, way: ExecutionPlan) -> bool:
        """The same of this way."""
        if self.lowrank is None:
            return False
        return not self.lowrank.own if way.low_rank is None else way.low_rank

    def meter(self, ask: Ask, cohort: int | None = None) -> DriftMeter | None:
        """What collects the drift of a round, if that is measured; cohort: of so many clients, if not the ask's."""
        if not self.measure:
            return None
        return DriftMeter(
            cohort or len(ask.cohort), self.flat_module.layout.size, self.job.key.derive("drift", ask.round)
        )

    def run(
        self, ask: Ask, members: Sequence[str], secrets: Mapping[str, Tensors], meter: DriftMeter | None
    ) -> GroupResult:
        """Trains the clients of a unit and sums their updates, in this order."""
        ask = ask.map_broadcasts(self.site.message)
        done, down = GroupResult(meter=meter), frame.size(ask.message.tensors())
        for part in self._apart(ask, members):
            start = 0
            while start < len(part):
                stopping.check()
                clients = part[start : start + self.width]
                try:
                    beside = self.width > 1 and self._side_by_side(ask, clients, down, done)
                except NoRoom:
                    beside = None  # what the exception holds of memory is let go of first
                if beside is None:
                    self._narrow(len(clients))
                    continue
                start += len(clients)
                for client in () if beside else clients:
                    done.parts.append(self._one(ask, client, down, secrets.get(client), done))
        self.unwritten.check()
        if (note := self.compiler.trouble) is not None:
            self.fallbacks.add(note)
            self.use(replace(self.way, compiled=False))
        return done

    def _apart(self, ask: Ask, members: Sequence[str]) -> list[Sequence[str]]:
        """The clients who may be in one crew: all, or those who were asked with one model, where crews share that."""
        if not ask.earlier or not (self.uses_low_rank or self.has_client_state):
            return [members]
        rounds = sorted({ask.asked_in(client) for client in members})
        return [[client for client in members if ask.asked_in(client) == round_] for round_ in rounds]

    @property
    def has_client_state(self) -> bool:
        """Whether a stage keeps memory at clients."""
        return any(stage.has("remember") for stage in self.job.algorithm.chain)

    def _narrow(self, width: int) -> None:
        """Goes on with half as many clients side by side."""
        self.site.empty_cache()
        self.use(replace(self.way, lanes=max(width // 2, 1)))
        goes_on = "one at a time" if self.width == 1 else f"{self.width} side by side"
        self.fallbacks.add(
            f"{width} clients side by side do not fit in the memory of {self.site.name}: from here on they train "
            f"{goes_on}, which changes the last bits of what is learned."
        )

    # side by side ---------------------------------------------------------------------------------------

    def _side_by_side(self, ask: Ask, clients: Sequence[str], down: int, done: GroupResult) -> bool:
        """Trains a crew in lanes; False, and nothing has happened, if these clients must train one at a time."""
        begun = time.perf_counter()
        dropped = self.runner.dropped(clients, ask)
        gone = set(dropped)
        present = [client for client in clients if client not in gone] if gone else clients
        if present:
            if (planned := self._planned(ask, present)) is None:
                return False
            if (counted := self._lowered(ask, *planned, done)) is None and not (
                self.uses_low_rank and self.has_non_linear_params
            ):
                counted = self._counted(ask, *planned, done)
            if counted is None:
                return False
            done.parts.append(self._reports(planned[0], counted, begun, down))
        done.parts.append(stragglers(dropped, down))
        return True

    def _planned(self, ask: Ask, clients: Sequence[str]) -> tuple[ClientBatch, BatchPlan] | None:
        """The crew in the order of its lanes, and what each will do; `None` if they must train one at a time."""
        assert self.lanes is not None
        try:
            return self.lanes.plan(self._crew(clients, ask), ask)
        except Exception as error:  # whatever a trainer may raise: alone, the client is named
            self.fallbacks.failed(error, ALONE)
            return None

    def _lowered(self, ask: Ask, crew: ClientBatch, plan: BatchPlan, done: GroupResult) -> _Counted | None:
        """Trains a crew without a vector for each client, where nobody looks at one; `None`, and nothing has happened,
        if that cannot be."""
        if self.lowrank is None or not self.uses_low_rank:
            return None
        if not self.lowrank.pays(plan):
            if self.has_non_linear_params:
                self.fallbacks.add(
                    "some clients see more examples than the low-rank form is good for: their crews train one client "
                    "at a time."
                )
            return None
        update = Update.of(torch.ones(len(crew), 1, dtype=torch.float64), crew.sizes.double())
        term = self.intake.lifted(update, ask, crew.clients)
        try:
            summed = self._low_rank(ask, crew, plan)
            total, norms = summed.total(term.delta.squeeze(1)), summed.norms()
        except torch.OutOfMemoryError as error:
            raise NoRoom from error
        except Exception as error:  # whatever a model may raise: the client alone raises it with names
            self.fallbacks.failed(error, ALONE if self.has_non_linear_params else WRITTEN, " in low-rank form")
            return None
        if not bool(torch.isfinite(norms).all()) or not bool(torch.isfinite(total).all()):
            then = ALONE if self.has_non_linear_params else WRITTEN
            self.fallbacks.add(f"an update of a crew in low-rank form is not finite: {then}.")
            return None
        done.group.add_sum({"delta": total}, term)
        up = frame.size(frame.of_update(Update.of(ask.message.params)))
        return _Counted(summed.count, summed.loss, update.weight, norms, up)

    def _low_rank(self, ask: Ask, crew: ClientBatch, plan: BatchPlan) -> Summed:
        """What a crew does in low-rank form, its steps combined as the chain says."""
        assert self.lowrank is not None
        work = self.runner.prepare_crew(crew, ask, {})
        summed = self.lowrank.train(work, plan)
        if self.job.algorithm.chain.combiner is None:
            return summed
        gram, steps = self.site.put(summed.gram()), self.site.put(summed.count)
        return summed.combined(self.runner.coefficients(gram, work.ctx, steps).cpu())

    def _counted(self, ask: Ask, crew: ClientBatch, plan: BatchPlan, done: GroupResult) -> _Counted | None:
        """Trains a crew and counts its updates; `None`, and nothing has happened, if they must train one at a time."""
        if (outcome := self._together(ask, crew, plan)) is None:
            return None
        norms = self.promise.check_lanes(outcome.update, crew.sizes)
        if norms is None or not self.intake.count_crew(ask, crew, outcome, done):
            self.fallbacks.add(f"an update of a crew is not fit to count: {ALONE}, so that its client is named.")
            return None
        self.job.memory.propose_stacked(crew.clients, (ask.round, ask.attempt), outcome.memory)
        trained, up = outcome.trained, frame.size(frame.of_update(outcome.update.lane(0)))
        count, loss = torch.as_tensor(trained.count), torch.as_tensor(trained.loss)
        return _Counted(count, loss, outcome.update.weight, norms, up)

    def _together(self, ask: Ask, crew: ClientBatch, plan: BatchPlan) -> Outcome | None:
        """What clients side by side send; `None` if they must train one at a time."""
        lanes = self.lanes
        assert lanes is not None
        try:
            if not lanes.fits(plan, "steps" in self.flows[-1].needs):
                self.fallbacks.add(f"the steps of some crews do not fit in trainer.steps_memory: {ALONE}.")
                return None
            memory = self.job.memory.gather(crew.clients, self.runner.remembered(ask.broadcast_for(crew.clients[0])))
            work = self.runner.prepare_crew(crew, ask, memory)
            trained = lanes.train(work, plan)
            if not bool(torch.isfinite(torch.linalg.vector_norm(trained.movement, dim=-1)).all()):
                self.fallbacks.add(f"an update of a crew is not finite: {ALONE}, so that its client is named.")
                return None
            return self.runner.send(work, trained)
        except torch.OutOfMemoryError as error:
            raise NoRoom from error
        except Exception as error:  # whatever a model or a stage may raise: alone, client and stage are named
            self.fallbacks.failed(error, ALONE)
            return None

    def bytes_up(self, ask: Ask) -> int:
        """What a client sends, found out by training one on few examples, which is forgotten."""
        client = ask.cohort[0]
        examples = self.job.data.train_of(client).rows(0, 4)
        ask = ask.map_broadcasts(self.site.message)
        with untouched(self.flat_module), self.site.training():
            outcome = self.runner.train(client, ask, examples, self.job.memory.get(client))
        return frame.size(frame.of_update(outcome.update))

    def rehearse(self, ask: Ask, clients: Sequence[str]) -> None:
        """Does the clients' work of a round in the way that is used, and forgets it.

        Raises:
            NoRoom: if a crew does not fit in memory.
        """
        with self.fallbacks.silent():
            self._rehearse(ask.map_broadcasts(self.site.message), clients, GroupResult())

    def _rehearse(self, ask: Ask, clients: Sequence[str], done: GroupResult) -> None:
        if self.width > 1 and (planned := self._planned(ask, clients)) is not None:
            if self._lowered(ask, *planned, done) is not None:
                return
            if (
                not (self.uses_low_rank and self.has_non_linear_params)
                and (outcome := self._together(ask, *planned)) is not None
            ):
                self.intake.count_crew(ask, planned[0], outcome, done)
                return
        for client in clients:
            outcome = self.runner.train(client, ask, self.job.data.train_of(client), self.job.memory.get(client))
            self.intake.count(ask, client, outcome, done)

    def _crew(self, clients: Sequence[str], ask: Ask) -> ClientBatch:
        rows, sizes = ClientIndex.of(self.job.data.train).rows(clients)
        keys = self.runner.keys_of(clients, ask)
        return ClientBatch(tuple(clients), keys, self.job.data.store, rows, sizes)

    def _reports(self, crew: ClientBatch, counted: _Counted, begun: float, down: int) -> Reports:
        """What is told of a crew, which shares the seconds since it began."""
        costs = ((time.perf_counter() - begun) / len(crew), counted.up, down)
        numbers = (crew.sizes, counted.steps, counted.norms, counted.losses, counted.weights)
        return self.intake.reports_of(crew.clients, costs, *(column.tolist() for column in numbers))

    # one at a time --------------------------------------------------------------------------------------

    def _one(self, ask: Ask, client: str, down: int, secret: Tensors | None, done: GroupResult) -> Reports:
        """Trains one client and adds its update to the unit's sum, if the guard lets it pass."""
        begun = time.perf_counter()
        if self.runner.dropped((client,), ask):
            return stragglers([client], down)
        examples = self.job.data.train_of(client)
        try:
            outcome = self.runner.train(client, ask, examples, self.job.memory.get(client), secret)
            norm = self.promise.check(outcome.update, client, len(examples))
            self.intake.count(ask, client, outcome, done)
        except UpdateRejected as refusal:
            seconds = time.perf_counter() - begun
            return Reports([client], "rejected", seconds=seconds, bytes_down=down, reasons=refusal.reason)
        self.job.memory.propose(client, (ask.round, ask.attempt), outcome.memory)
        trained, up = outcome.trained, frame.size(frame.of_update(outcome.update))
        numbers = (len(examples), int(trained.count), norm, float(trained.loss), float(outcome.update.weight))
        return self.intake.reports_of([client], (time.perf_counter() - begun, up, down), *numbers)


def first_ask(runner: GroupRunner, clients: Sequence[str], steps: int | None = None) -> Ask:
    """What these clients would be asked in the run's first round; steps: how many each makes, if not all."""
    start, chain = runner.flat_module.shared.clone().cpu(), runner.job.algorithm.chain  # as the server has it
    averaged = runner.job.task.buffers == "average" and runner.flat_module.has_statistics
    message = Message(
        start, chain.broadcast(chain.init(start)), runner.flat_module.statistics().cpu() if averaged else None
    )
    return Ask(Train(message), tuple(clients), steps={} if steps is None else dict.fromkeys(clients, steps))
