"""The abstract engine that has an execution part: what engines with clients in this process or in workers have in
common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from headway.core.algorithm import State
from headway.core.flow import EngineFacts
from headway.engines.autotune.planner import MeasuredPlan
from headway.engines.client_execution import ClientExecution
from headway.engines.engine import Engine, Job
from headway.engines.group_runner import GroupRunner
from headway.engines.local_clients import LocalClients
from headway.engines.planned_execution import ExecutionOptions, PlannedExecution
from headway.engines.preflight import try_client
from headway.model.module_checks import habit_notes
from headway.protocol.messages import Answer, Ask


class PlannedEngine(Engine):
    """An engine whose clients train by an execution plan.

    titles: of the engine, and of the engine with batches of several clients, as run folders record it.
    local: the clients in this process.
    """

    titles: ClassVar[tuple[str, str]]
    local: LocalClients

    def __init__(self, options: ExecutionOptions) -> None:
        self.options, self.planned = options, PlannedExecution(options)
        self.site = options.device

    @property
    def facts(self) -> EngineFacts:
        """Keeps memory; every client answers at once.  The plan and the number of workers are no part of it."""
        return EngineFacts(self.titles[0])

    @property
    def recorded_name(self) -> str:
        """The title, with the number of clients in a batch."""
        width = self.planned.plan.lanes
        return self.titles[0] if width == 1 else self.titles[1].format(width)

    @property
    def execution(self) -> ClientExecution:
        """The executors, once the engine is open."""
        return self.planned.execution

    @property
    def groups(self) -> GroupRunner:
        """The executors' group runner, once the engine is open."""
        return self.planned.groups

    @property
    def measured_plan(self) -> MeasuredPlan | None:
        """The plan, where it was measured or restored."""
        return self.planned.measured

    @property
    def summary(self) -> str:
        """The plan, and why it is not what was asked for."""
        return self.planned.summary

    @property
    def pinned_settings(self) -> dict[str, Any]:
        """The plan, where it is not one client at a time; the device and the precision, where it is a GPU."""
        return self.planned.pinned_settings

    def restore_settings(self, decided: Mapping[str, Any]) -> None:
        """Measures nothing: takes the plan of the run that is resumed."""
        self.planned.restore_settings(decided)

    @property
    def repeat(self) -> str:
        """The command-line options with which nothing is measured again."""
        return self.planned.repeat

    @property
    def keeps_memory(self) -> bool:
        """Whether clients keep something between rounds."""
        return bool(self.execution.setup.client_algorithm.first_memory())

    @property
    def sequential_reason(self) -> str | None:
        """Why clients train one at a time, as a phrase; `None` if they do not."""
        return self.execution.sequential_reason

    def change_options(self, **changes: Any) -> None:
        """Changes fields of the options, before the engine opens."""
        self.options = self.planned.options = replace(self.options, **changes)
        self.site = self.options.device

    def open(self, job: Job) -> None:
        """Builds the executors and decides the plan."""
        self.job = job
        self.planned.open(job, job.algorithm.flows(self.facts, population=len(job.data.clients)))
        self.local = LocalClients(self.groups)

    def try_once(self, state: State, evaluated: bool) -> Sequence[str]:
        """Tries the work of one client, in this process."""
        notes = try_client(self.execution.setup, state, evaluated)
        return [*notes, *habit_notes(self.execution.setup.flat_module)]

    def clients(self) -> Sequence[str]:
        """The population."""
        return self.job.data.clients

    @abstractmethod
    def ask(self, ask: Ask) -> Answer:
        """Runs one ask on its cohort."""

    def close(self) -> None:
        """Puts process-wide settings back."""
        self.planned.close()
