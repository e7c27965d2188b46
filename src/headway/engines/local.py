"""The Local engine: clients in this process, one at a time or in lanes side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from headway.client.evaluation import evaluate_clients, training_losses
from headway.core.algorithm import State
from headway.core.errors import ConfigError, RunFolderError
from headway.core.flow import EngineFacts
from headway.core.update import Tensors
from headway.engines.autotune.execution_plan import ExecutionPlan, PlanConstraints
from headway.engines.autotune.gpu_memory import max_batch_clients
from headway.engines.autotune.planner import MOST, MeasuredPlan, default_store, make_plan
from headway.engines.client_execution import ClientExecution
from headway.engines.engine import Engine, Job
from headway.engines.group_runner import GroupRunner
from headway.engines.grouping import expected_cohort, groups_of
from headway.engines.preflight import try_client
from headway.model.device import Device
from headway.model.module_checks import habit_notes, untouched
from headway.model.random_state import outside, rewind_outside
from headway.protocol import wire as frame
from headway.protocol.messages import Answer, Ask, Evaluate, Exchange, Measure, Settle, Train
from headway.protocol.reports import Reports, columns_of
from headway.protocol.sums import ExactTotal
from headway.server.collector import answered
from headway.training.single_example import check_single

REPLY = {"loss": torch.zeros((), dtype=torch.float64)}  # what a client sends that is asked to measure its loss


class LocalEngine(Engine):
    """Simple and exact: what fails, fails here, under your debugger, with the client, the stage and its inputs.

    drift: whether to measure how far the clients, and the steps within each, pull apart in every round (never of
        a protected chain).
    lanes: how many clients train side by side as one batched program; where they cannot, `alone` says why, and they
        train one at a time.  The numbers agree to rounding.  "auto" measures, when the engine opens, how many lanes
        and threads are fastest here, and what is left open below; `plan` says what was found.
    low_rank: whether crews of clients never write their large linear layers (`headway.vectorized.low_rank`), without
        drift and where no stage looks at a client's vector; a crew whose model has other layers too then trains one
        client after another, by plain SGD only.  `None`: where the model has no other layers.
    channels_last: whether images lie in memory with their channels side by side; `None`: as they are.
    compiled: whether the gradients of full batches and crews come through `torch.compile`, which takes seconds to
        minutes when the engine opens; where that fails or comes to another result, `summary` says why, and they do
        not.  `None`: they do not; with lanes="auto" they do if the whole run ends sooner.
    device: "cpu", "cuda" or "cuda:N".  On a GPU all that clients work with lies there, the examples too if they fit in
        half of what is free; there are at most as many lanes as fit.
    precision: of the products in training on a GPU, "float32", "tf32" or "bfloat16" (see `Device`).

    Raises:
        ConfigError: if lanes is below 1, or there is no such device or precision here.
    """

    def __init__(
        self,
        drift: bool = True,
        lanes: int | Literal["auto"] = 1,
        *,
        low_rank: bool | None = None,
        channels_last: bool | None = None,
        compiled: bool | None = None,
        device: str = "cpu",
        precision: str = "float32",
    ) -> None:
        if lanes != "auto" and (isinstance(lanes, bool) or not isinstance(lanes, int) or lanes < 1):
            raise ConfigError(f'lanes must be a whole number from 1, or "auto", found {lanes!r}.')
        self.drift = drift
        self.lanes: int | Literal["auto"] = lanes
        self.wish = PlanConstraints(low_rank, channels_last, compiled)
        self.plan: MeasuredPlan | None = None
        self.not_compiled: str | None = None
        self.was_compiled = False  # in the run that is resumed
        self.site = Device.named(device, precision)

    @property
    def facts(self) -> EngineFacts:
        """Keeps memory; every client answers at once."""
        width = self._way.lanes
        return EngineFacts("Local" if width == 1 else f"Lanes of {width}")

    @property
    def _way(self) -> ExecutionPlan:
        """How clients train, as far as it is known."""
        if self.plan is not None:
            return self.plan.way
        wish, lanes = self.wish, 1 if self.lanes == "auto" else self.lanes
        return ExecutionPlan(lanes, wish.low_rank, bool(wish.channels_last), bool(wish.compiled))

    @property
    def summary(self) -> str:
        """The plan, and why clients train one at a time where they should not; which GPU."""
        if not self.site.on_gpu:
            plain = self._way == ExecutionPlan() and self.plan is None and self.not_compiled is None
            return "" if plain else self._beside
        there = ", the examples there too" if self.execution.is_resident else ""
        return f"on {self.site.name}{there}: {self._beside}"

    @property
    def _beside(self) -> str:
        """The way, and why not as many clients side by side as were asked for."""
        if self.execution.batching_refused is not None:
            said = (
                f"clients one at a time, since {self.execution.batching_refused}"
                + "; compiled" * self.execution.plan.compiled
            )
        else:
            said = self._way.summary if self.plan is None else self.plan.summary
            reason = self.execution.low_rank.reason
            if self._way.low_rank and self._way.lanes > 1 and reason is not None:
                said = f"{self._way.lanes} clients side by side, not in low-rank form, since {reason}"
            if self.lanes not in ("auto", self._way.lanes):
                said = f"{said} (of {self.lanes} that were asked for, those that fit in its memory)"
        return said if self.not_compiled is None else f"{said}; not compiled, since {self.not_compiled}"

    @property
    def pinned_settings(self) -> dict[str, Any]:
        """The way, where it is not one client at a time; the device and the precision, where it is a GPU."""
        if not self.site.on_gpu:
            return self._way.pinned_settings
        return {**self._way.pinned_settings, "device": self.site.device.type, "precision": self.site.precision}

    def restore_settings(self, decided: Mapping[str, Any]) -> None:
        """Measures nothing: does as a run did that is resumed, on the same kind of device and in its precision."""
        there = decided.get("device", "cpu"), decided.get("precision", "float32")
        here = self.site.device.type, self.site.precision
        if there != here:
            raise RunFolderError(
                f'the run was trained with device = "{there[0]}" and precision = "{there[1]}", and would go on with '
                f'"{here[0]}" and "{here[1]}", which gives other bits: resume it as it was, or start a new run.'
            )
        if self.wish.compiled is not False:
            self.wish = replace(self.wish, compiled=bool(decided.get("compiled", False)))
            self.was_compiled = bool(self.wish.compiled)
        if self.lanes == "auto" or (self.site.on_gpu and self.lanes != 1):
            self.plan = MeasuredPlan(ExecutionPlan.of(decided), int(decided.get("threads", torch.get_num_threads())))

    def open(self, job: Job) -> None:
        """Builds the one flat module that all clients use."""
        self.job = job
        self.population = job.data.clients
        flows = job.algorithm.flows(self.facts, population=len(self.population))
        measure = self.drift and not job.algorithm.protected
        measuring = self.lanes == "auto" and self.plan is None
        way = replace(self._way, compiled=False)  # until the threads are known
        way = replace(way, lanes=MOST) if measuring else way
        self.execution = ClientExecution(job, flows, measure, way, self.site)
        self.groups = GroupRunner(self.execution)
        setup = self.execution.setup
        drawn = getattr(job.algorithm.sampler, "clients", None)
        check_single(setup.participant.trainer, setup.flat_module, setup.job.data, drawn)
        cohort = expected_cohort(job.algorithm, len(self.population))
        with untouched(setup.flat_module), self.site.training():
            fitting = max_batch_clients(self.groups, min(cohort, self.groups.width)) if self.plan is None else cohort
            if measuring:
                self.plan = self._measured(min(cohort, fitting), job.rounds * cohort)
            elif fitting < min(cohort, self._way.lanes):
                self.plan = MeasuredPlan(replace(self._way, lanes=fitting), torch.get_num_threads())
            if self.plan is not None:
                self._set_threads(self.plan.threads)
            self._use(self._way)
        self.secrets: dict[str, Tensors] = {}

    def _measured(self, cohort: int, clients: int) -> MeasuredPlan:
        """The fastest plan for cohorts of this size, and so many clients in all rounds."""
        return make_plan(self.groups, cohort, torch.get_num_threads(), self.wish, default_store(), clients)

    def _use(self, way: ExecutionPlan) -> None:
        """Makes ready for this way; what cannot be compiled is not.

        Raises:
            RunFolderError: if it was, in a run that is resumed.
        """
        self.execution.use(way)
        self.not_compiled = self.execution.not_compiled
        if self.not_compiled is not None:
            if self.was_compiled:
                raise RunFolderError(
                    f"the run was trained with compiled steps, and would go on without, since {self.not_compiled}, "
                    "which gives other bits: resume it where it was compiled, or start a new run."
                )
            self.wish = replace(self.wish, compiled=False)
            self.plan = self.plan and replace(self.plan, way=replace(way, compiled=False))

    def _set_threads(self, threads: int) -> None:
        torch.set_num_threads(threads)

    @property
    def repeat(self) -> str:
        """The options that say what was measured, so that nothing is measured again."""
        if self.lanes != "auto" or self.plan is None:
            return ""
        way = self._way
        low_rank = way.low_rank if way.lanes > 1 else None
        chosen = {"low_rank": low_rank, "channels_last": way.channels_last or None, "compiled": way.compiled or None}
        said = [f"engine.{name}={str(value).lower()}" for name, value in chosen.items() if value is not None]
        return " ".join([f"--lanes {way.lanes}", *(f"--set {each}" for each in [*said, *self._threads_said])])

    @property
    def _threads_said(self) -> list[str]:
        """How many threads the plan has, as a change of the run file."""
        return [] if self.plan is None else [f"run.threads={self.plan.threads}"]

    @property
    def keeps_memory(self) -> bool:
        """Whether clients keep something between rounds."""
        return bool(self.execution.setup.participant.first_memory())

    @property
    def sequential_reason(self) -> str | None:
        """Why clients train one at a time, as a phrase; `None` if they do not."""
        return self.execution.sequential_reason

    def try_once(self, state: State, evaluated: bool) -> Sequence[str]:
        """Tries the work of one client, in this process."""
        try_client(self.execution.setup, state, evaluated)
        return habit_notes(self.execution.setup.flat_module)

    def clients(self) -> Sequence[str]:
        """The population."""
        return self.population

    def ask(self, ask: Ask) -> Answer:
        """Runs one ask on its cohort, in an order that the names and sizes of its clients decide.

        The generators and settings of torch, NumPy and Python are left as they were found.
        """
        before, others = self.site.rng_state(), outside() if self.execution.setup.flat_module.seeds_outside else None
        try:
            match ask.request:
                case Train():
                    with self.site.training():
                        return self._train(ask)
                case Evaluate():
                    return self._evaluate(ask)
                case Measure():
                    return self._measure(ask)
                case Settle():
                    return self._settle(ask)
                case Exchange() as request:
                    return self._exchange(ask, request)
            raise ConfigError(f"the {self.facts.name} engine has no answer to a {type(ask.request).__name__} request.")
        finally:
            self.site.set_rng_state(before)
            self.execution.setup.flat_module.attributes.restore()
            if others is not None:
                rewind_outside(others)

    def close(self) -> None:
        """Nothing is held open."""

    def _train(self, ask: Ask) -> Answer:
        total, meter = ExactTotal(), self.execution.setup.meter(ask)
        parts: list[Reports] = []
        for members in groups_of(ask.cohort, self.job.data.train, self.groups.width):
            done = self.groups.run(ask, members, self.secrets, meter)
            total.add_group(done.group)
            parts += done.parts
        return replace(answered(total, parts, meter), notes=self.execution.fallbacks.take())

    def _evaluate(self, ask: Ask) -> Answer:
        self.execution.setup.flat_module.seed(self.job.key.derive("evaluation", ask.round).seed())
        data = self.execution.setup.job.data
        scores, pooled = evaluate_clients(
            self.execution.setup.flat_module, ask.message, data, ask.cohort, self.job.memory
        )
        self.execution.unwritten.check()
        sizes = [len(self.job.data.test[client]) for client in scores]
        reports = Reports(scores, "counted", sizes, metrics=columns_of(list(scores.values())))
        return Answer(reports=reports, figures=pooled)

    def _measure(self, ask: Ask) -> Answer:
        """The loss of the model on each client's training examples: here, whatever trains the clients."""
        losses = training_losses(
            self.execution.setup.flat_module, ask.message, self.execution.setup.job.data, ask.cohort, self.job.memory
        )
        self.execution.unwritten.check()
        up, down = frame.size(REPLY), frame.size(ask.message.tensors())
        told = {"train_loss": list(losses.values())}
        return Answer(reports=Reports(losses, bytes_up=up, bytes_down=down, metrics=told))

    def _settle(self, ask: Ask) -> Answer:
        """The round is over: those of the cohort were counted, and nobody's secret is needed any more."""
        self.job.memory.settle((ask.round, ask.attempt), ask.cohort)
        self.secrets.clear()
        return Answer()

    def _exchange(self, ask: Ask, request: Exchange) -> Answer:
        """A request of the protocol's own: each client answers and keeps its secret until the round is over."""
        replies: dict[str, Tensors] = {}
        for client in sorted(ask.cohort):
            key = self.execution.setup.participant.client_key(client, ask.round)
            secret = self.secrets.get(client, {})
            replies[client], self.secrets[client] = self.job.algorithm.answer(request, secret, client, key)
        return Answer(replies=replies)
