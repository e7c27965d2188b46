"""An engine some of whose clients attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

from headway.attacks.attack_plan import AttackPlan
from headway.attacks.crafting import Crafting
from headway.attacks.kept_rows import check_chain, with_rows
from headway.attacks.poisoned_data import poisoned
from headway.client_state.store import Memories
from headway.core.algorithm import State
from headway.core.errors import UpdateRejected
from headway.core.flow import EngineFacts
from headway.engines.engine import Engine, Job
from headway.engines.planned_engine import PlannedEngine
from headway.protocol.messages import Answer, Ask, Train
from headway.protocol.reports import Reports
from headway.protocol.sums import ExactTotal
from headway.server.collector import GroupResult, UpdateCollector, answered
from headway.server.guard import Promise


@final
class AttackedEngine(Engine):
    """Clients train in another engine, as honest ones would; then the attackers replace their updates.

    inner: a `LocalEngine` or `ProcessEngine`.  plan: who attacks, and how.
    Each crafted update passes the server's guard like any other; one that is refused is reported by its client's name.
    The attackers train on poisoned examples where the attack has some, from the round on in which it begins: the inner
    engine is then opened anew, with the same plan and the clients' memory.  Drift is measured of what the server
    receives, where clients have a reputation.

    Raises:
        ConfigError: when it opens, for a chain whose server sees only sums, or that encodes updates.
    """

    def __init__(self, inner: PlannedEngine, plan: AttackPlan) -> None:
        self.inner, self.plan, self.site = inner, plan, inner.site
        inner.change_options(drift=False)

    @property
    def facts(self) -> EngineFacts:
        """The abilities of the inner engine."""
        return self.inner.facts

    @property
    def recorded_name(self) -> str:
        """The inner engine's name, with the attack."""
        return f"{self.inner.recorded_name}, {len(self.attackers)} attackers: {self.plan.attack!r}"

    @property
    def summary(self) -> str:
        """Who attacks, and how the inner engine trains."""
        names = ", ".join(self.attackers[:3]) + (" ..." if len(self.attackers) > 3 else "")
        start = "" if self.plan.from_round == 1 else f" from round {self.plan.from_round}"
        whom = "all updates" if self.plan.knows == "everyone" else "their own updates"
        attack = f"{len(self.attackers)} attackers ({names}) know {whom}: {self.plan.attack!r}{start}"
        return "; ".join(filter(None, (attack, self.inner.summary)))

    @property
    def keeps_memory(self) -> bool:
        """Whether clients keep something between rounds."""
        return self.inner.keeps_memory

    @property
    def pinned_settings(self) -> dict[str, Any]:
        """Those of the inner engine."""
        return self.inner.pinned_settings

    def restore_settings(self, decided: Mapping[str, Any]) -> None:
        """Takes over the settings of a run that is resumed."""
        self.inner.restore_settings(decided)

    def memory(self, clients: Sequence[str], folder: Path | None) -> Memories:
        """The store of the clients' memory."""
        return self.inner.memory(clients, folder)

    def open(self, job: Job) -> None:
        """Poisons the attackers' data and opens the inner engine with a chain that keeps the updates."""
        trusted = getattr(job.algorithm.chain.aggregator, "root", None)
        self.job, self.attackers = job, self.plan.among(job.data.clients, trusted)
        check_chain(job.algorithm.chain)
        kept = replace(job.algorithm, chain=with_rows(job.algorithm.chain), reputation=None)
        honest, data = replace(job, algorithm=kept), job.data
        bad = poisoned(data, self.attackers, self.plan.attack, job.key)
        self.attacked = honest if bad is data else replace(honest, known=bad)
        self._open_inner(self.attacked if self.plan.from_round == 1 else honest)
        setup = self.inner.execution.setup
        flows = job.algorithm.flows(self.facts, population=len(data.clients))
        averaged = setup.flat_module.statistics_layout.size if "buffers" in setup.summed else 0
        self.flows = job.algorithm.sized(flows, setup.flat_module.layout.size, averaged)
        layout, population = setup.flat_module.layout, len(data.clients)
        self.guard = Promise.of(job.algorithm.chain, self.flows, layout.size, averaged)
        self.collector = UpdateCollector(
            job.algorithm, job.key, self.flows, layout, setup.device, self.guard, population
        )
        self.crafting = Crafting(self.plan, self.attackers, job, self.flows[-1], layout)

    def _open_inner(self, job: Job) -> None:
        self.opened = job
        self.inner.open(job)

    def try_once(self, state: State, evaluated: bool) -> Sequence[str]:
        """Tries the work of one client."""
        return self.inner.try_once(state, evaluated)

    def clients(self) -> Sequence[str]:
        """The population."""
        return self.inner.clients()

    def ask(self, ask: Ask) -> Answer:
        """Runs one ask; of a request to train, the attackers' updates are replaced before they are summed."""
        if self.opened is not self.attacked and ask.round + 1 >= self.plan.from_round:
            self.inner.close()
            self._open_inner(self.attacked)
        answer = self.inner.ask(ask)
        if not isinstance(ask.request, Train):
            return answer
        received, parts = self.crafting.received(ask, answer.total.rows), [answer.reports]
        total, result = ExactTotal(), GroupResult(meter=self.crafting.meter(ask))
        refused: dict[str, str] = {}
        for client in sorted(received):
            try:
                self.guard.check(received[client], client, len(self.job.data.train[client]))
                self.collector.count_received(ask, client, received[client], result)
            except UpdateRejected as refusal:
                refused[client] = refusal.reason
        total.add_group(result.group)
        if refused:
            kept = [report for report in answer.reports if report.client not in refused]
            parts = [Reports.of(kept), Reports(list(refused), "rejected", reasons=list(refused.values()))]
        seen = answered(total, parts, result.meter)
        return replace(answer, total=total, reports=seen.reports, figures=seen.figures, deltas=seen.deltas)

    def close(self) -> None:
        """Closes the inner engine."""
        self.inner.close()
