"""Executors with the plan by which they are chosen: the one asked for, one measured when it opens, or that of a run
that is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from headway.core.errors import ConfigError, RunFolderError
from headway.core.flow import Flow
from headway.engines.autotune.execution_plan import ExecutionPlan, PlanConstraints
from headway.engines.autotune.gpu_memory import max_batch_clients
from headway.engines.autotune.planner import MOST, MeasuredPlan, default_store, make_plan, threads_at
from headway.engines.client_execution import ClientExecution
from headway.engines.engine import Job
from headway.engines.group_runner import GroupRunner
from headway.engines.grouping import GROUP, expected_cohort
from headway.model.device import Device
from headway.model.module_checks import untouched
from headway.training.single_example import check_single


@dataclass(frozen=True, slots=True)
class ExecutionOptions:
    """The options of how clients are trained.

    lanes: how many clients make a batch; "auto" measures that and what `constraints` leaves open.
    drift: whether drift is measured, of chains that are not protected.
    workers: among how many processes of one thread each the clients are divided; `None` for this process, which uses
        the threads that it has.
    group: the least number of clients that are summed in float64 before the exact sum is paid.

    Raises:
        ConfigError: if lanes is not a whole number from 1 or "auto", or group no whole number from 1.
    """

    lanes: int | Literal["auto"] = 1
    drift: bool = True
    constraints: PlanConstraints = field(default_factory=PlanConstraints)
    device: Device = field(default_factory=Device)
    workers: int | None = None
    group: int = GROUP

    def __post_init__(self) -> None:
        lanes = self.lanes
        if lanes != "auto" and (isinstance(lanes, bool) or not isinstance(lanes, int) or lanes < 1):
            raise ConfigError(f'lanes must be a whole number from 1, or "auto", found {lanes!r}.')
        if isinstance(self.group, bool) or not isinstance(self.group, int) or self.group < 1:
            raise ConfigError(f"group must be a whole number of clients from 1, found {self.group!r}.")


class PlannedExecution:
    """The execution part of an engine.

    measured: the plan, where it was measured or restored.  not_compiled: why gradients are not compiled where the plan
    wanted that, as a phrase.
    """

    execution: ClientExecution
    groups: GroupRunner

    def __init__(self, options: ExecutionOptions) -> None:
        self.options, self.constraints = options, options.constraints
        self.measured: MeasuredPlan | None = None
        self.not_compiled: str | None = None
        self.was_compiled = False  # in the run that is resumed
        self._threads_before: int | None = None

    @property
    def plan(self) -> ExecutionPlan:
        """The plan of how clients train, as far as it is known."""
        if self.measured is not None:
            return self.measured.plan
        wanted, lanes = self.constraints, self.options.lanes
        width = 1 if lanes == "auto" else lanes
        return ExecutionPlan(width, wanted.low_rank, bool(wanted.channels_last), bool(wanted.compiled))

    @property
    def summary(self) -> str:
        """The plan, and why it is not what was asked for; which GPU.  "" for one client at a time on a processor."""
        if not self.options.device.on_gpu:
            plain = self.plan == ExecutionPlan() and self.measured is None and self.not_compiled is None
            return "" if plain else self._plan_summary
        resident = ", the examples there too" if self.execution.is_resident else ""
        return f"on {self.options.device.name}{resident}: {self._plan_summary}"

    @property
    def _plan_summary(self) -> str:
        """The plan, and why there are not as many clients in a batch as were asked for."""
        execution, plan = self.execution, self.plan
        if execution.batching_refused is not None:
            compiled = "; compiled" * execution.plan.compiled
            text = f"clients one at a time, since {execution.batching_refused}{compiled}"
        else:
            text = plan.summary if self.measured is None else self.measured.summary
            if plan.low_rank and plan.lanes > 1 and execution.low_rank.reason is not None:
                text = f"{plan.lanes} clients side by side, not in low-rank form, since {execution.low_rank.reason}"
            if self.options.lanes not in ("auto", plan.lanes):
                text = f"{text} (of {self.options.lanes} that were asked for, those that fit in its memory)"
        return text if self.not_compiled is None else f"{text}; not compiled, since {self.not_compiled}"

    @property
    def pinned_settings(self) -> dict[str, Any]:
        """The plan, where it is not one client at a time; the size of groups, where it is not the usual one; the device
        and the precision, where it is a GPU."""
        device, group = self.options.device, self.options.group
        pinned = self.plan.pinned_settings | ({} if group == GROUP else {"group": group})
        return pinned | ({"device": device.device.type, "precision": device.precision} if device.on_gpu else {})

    def restore_settings(self, settings: Mapping[str, Any]) -> None:
        """Takes the plan of a run that is resumed, on the same kind of device and in its precision.

        Raises:
            RunFolderError: if the device or the precision is another.
        """
        device = self.options.device
        before = settings.get("device", "cpu"), settings.get("precision", "float32")
        now = device.device.type, device.precision
        if before != now:
            raise RunFolderError(
                f'the run was trained with device = "{before[0]}" and precision = "{before[1]}", and would go on with '
                f'"{now[0]}" and "{now[1]}", which gives other bits: resume it as it was, or start a new run.'
            )
        if self.constraints.compiled is not False:
            self.was_compiled = bool(settings.get("compiled", False))
            self.constraints = replace(self.constraints, compiled=self.was_compiled)
        if self.options.lanes == "auto" or (device.on_gpu and self.options.lanes != 1):
            threads = int(settings.get("threads", torch.get_num_threads()))
            self.measured = MeasuredPlan(ExecutionPlan.of(settings), threads)

    def open(self, job: Job, flows: tuple[Flow, ...]) -> None:
        """Builds the executors and decides the plan."""
        options, cohort = self.options, expected_cohort(job.algorithm, len(job.data.clients))
        measuring = options.lanes == "auto" and self.measured is None
        plan = replace(self.plan, compiled=False)  # until the threads are known
        plan = replace(plan, lanes=MOST) if measuring else plan
        measure_drift = options.drift and not job.algorithm.protected
        self.execution = ClientExecution(job, flows, measure_drift, plan, options.device)
        self.groups, setup = GroupRunner(self.execution, options.group), self.execution.setup
        sampled = getattr(job.algorithm.sampler, "clients", None)
        check_single(setup.client_algorithm.trainer, setup.flat_module, setup.job.data, sampled)
        with untouched(setup.flat_module), options.device.training():
            width = min(cohort, self.groups.width)
            fitting = max_batch_clients(self.groups, width) if self.measured is None else cohort
            if measuring:
                self.measured = self._measure(min(cohort, fitting), job.rounds * cohort)
            elif fitting < min(cohort, self.plan.lanes):
                self.measured = MeasuredPlan(replace(self.plan, lanes=fitting), torch.get_num_threads())
            if options.workers is not None:  # what is compiled here is for one thread, as forked workers have it
                with threads_at(1):
                    self._use(self.plan)
                return
            if self.measured is not None:
                self._threads_before = torch.get_num_threads()
                torch.set_num_threads(self.measured.threads)
            self._use(self.plan)

    def close(self) -> None:
        """Puts torch's number of threads back."""
        if self._threads_before is not None:
            torch.set_num_threads(self._threads_before)
            self._threads_before = None

    def _measure(self, cohort: int, clients: int) -> MeasuredPlan:
        """The fastest plan for a process's part of cohorts of this size, and of so many clients in all rounds."""
        workers, threads = self.options.workers or 1, torch.get_num_threads()
        part, all_rounds = -(-cohort // workers), -(-clients // workers)
        most_threads = threads if self.options.workers is None else 1
        return make_plan(self.groups, part, most_threads, self.constraints, default_store(), all_rounds)

    def _use(self, plan: ExecutionPlan) -> None:
        """Makes ready for this plan; what cannot be compiled is not.

        Raises:
            RunFolderError: if it was, in a run that is resumed.
        """
        self.execution.use(plan)
        self.not_compiled = self.execution.not_compiled
        if self.not_compiled is not None:
            if self.was_compiled:
                raise RunFolderError(
                    f"the run was trained with compiled steps, and would go on without, since {self.not_compiled}, "
                    "which gives other bits: resume it where it was compiled, or start a new run."
                )
            self.constraints = replace(self.constraints, compiled=False)
            self.measured = self.measured and replace(self.measured, plan=replace(plan, compiled=False))

    @property
    def repeat(self) -> str:
        """The command-line options with which nothing is measured again; "" if nothing was."""
        if self.options.lanes != "auto" or self.measured is None:
            return ""
        plan = self.plan
        low_rank = plan.low_rank if plan.lanes > 1 else None
        chosen = {"low_rank": low_rank, "channels_last": plan.channels_last or None, "compiled": plan.compiled or None}
        keys = [f"engine.{name}={str(value).lower()}" for name, value in chosen.items() if value is not None]
        if self.options.workers is None:  # a worker always has one thread
            keys.append(f"run.threads={self.measured.threads}")
        return " ".join([f"--lanes {plan.lanes}", *(f"--set {key}" for key in keys)])
