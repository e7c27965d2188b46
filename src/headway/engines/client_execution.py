"""The execution part of an engine: the executors of a job in this process, and the plan by which they are chosen."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from headway.core.flow import Flow
from headway.core.update import Update
from headway.engines.autotune.execution_plan import ExecutionPlan
from headway.engines.engine import Job
from headway.engines.executors.batched import BatchedExecutor
from headway.engines.executors.client_setup import ClientSetup
from headway.engines.executors.low_rank_executor import LowRankExecutor
from headway.engines.executors.sequential import SequentialExecutor
from headway.engines.fallbacks import Fallbacks
from headway.engines.grouping import expected_cohort
from headway.model.device import Device
from headway.model.module_checks import Unwritten, untouched
from headway.protocol import wire as frame
from headway.protocol.messages import Ask
from headway.vectorized.compiled_gradients import Compiler


class ClientExecution:
    """Executors that share one model, and the plan in use.

    plan: how clients train; where they cannot be batched, `batched.reason` is the reason, and they train one at a time.
    fallbacks: sentences about clients that could not train as planned.
    not_compiled: why their gradients are not compiled, in a plan that has them compiled, as a phrase.

    Raises:
        ConfigError: if the loss or a metric would pair the model's outputs and the targets wrongly.
    """

    def __init__(
        self, job: Job, flows: tuple[Flow, ...], measure: bool, plan: ExecutionPlan, device: Device | None = None
    ) -> None:
        self.setup = setup = ClientSetup.of(job, flows, measure, device or Device(), plan.channels_last)
        job = setup.job
        self.fallbacks, self.unwritten = Fallbacks(), Unwritten(job.data.store)
        trainer, most = setup.client_algorithm.trainer, expected_cohort(job.algorithm, len(job.data.clients))
        self.compiler = Compiler(trainer, setup.flat_module, job.data, most)
        self.sequential = SequentialExecutor(setup, self.compiler)
        self.batched = BatchedExecutor(setup, self.compiler, wanted=plan.lanes > 1)
        self.low_rank = LowRankExecutor(setup, self.batched)
        self.use(plan)

    def use(self, plan: ExecutionPlan) -> None:
        """Trains by this plan from now on, as far as that is possible; what was made ready for others is kept."""
        self.plan = plan if self.batched.reason is None else replace(plan, lanes=1)
        self.setup.flat_module.channels_last = plan.channels_last
        wanted = self.plan.lanes if plan.compiled else None
        self.not_compiled = self.compiler.use(wanted, lowered=self.plan.lanes > 1 and self.uses_low_rank)
        self.plan = replace(self.plan, compiled=plan.compiled and self.not_compiled is None)

    @property
    def sequential_reason(self) -> str | None:
        """Why clients train one at a time, as a phrase; `None` if they do not."""
        if self.batched.reason is None and self.plan.lanes == 1:
            return "one at a time was asked for"
        return self.batched.reason

    @property
    def batching_refused(self) -> str | None:
        """Why clients cannot be batched though the plan wanted it, as a phrase."""
        return self.batched.reason if self.batched.wanted else None

    @property
    def is_resident(self) -> bool:
        """Whether the examples lie on the device."""
        return self.setup.device.holds(self.setup.job.data.store.inputs)

    @property
    def has_conv2d(self) -> bool:
        """Whether the model has convolutions of images."""
        return any(isinstance(part, nn.Conv2d) for part in self.setup.flat_module.module.modules())

    @property
    def uses_low_rank(self) -> bool:
        """Whether batches train in low-rank form where that pays."""
        return self.plan_uses_low_rank(self.plan)

    def plan_uses_low_rank(self, plan: ExecutionPlan) -> bool:
        """The same of another plan."""
        if self.low_rank.reason is not None:
            return False
        return not self.low_rank.has_non_linear_params if plan.low_rank is None else plan.low_rank

    def bytes_up(self, ask: Ask) -> int:
        """The bytes that a client sends, measured by training one on few examples, which is forgotten; behind the
        exchanges of a protocol, which it has not had, those of the promised form."""
        setup, client = self.setup, ask.cohort[0]
        protocol = setup.job.algorithm.chain.protocol
        if protocol is not None and protocol[1].exchanges:
            vectors = {name: torch.zeros(size, dtype=torch.int64) for name, size in setup.guard.lengths.items()}
            return frame.size(frame.of_update(Update(vectors, torch.zeros(())), setup.guard.bits))
        examples = setup.job.data.train_of(client).rows(0, 4)
        ask = ask.map_broadcasts(setup.device.message)
        with untouched(setup.flat_module), setup.device.training():
            outcome = setup.training.train(client, ask, examples, setup.job.memory.get(client))
        return frame.size(frame.of_update(outcome.update, setup.guard.bits))
