"""An engine some of whose clients attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from headway.attacks.attack import View
from headway.attacks.attack_plan import AttackPlan
from headway.client_state.store import Memories
from headway.core.algorithm import State
from headway.core.chain import Chain
from headway.core.context import ServerContext
from headway.core.errors import ConfigError, UpdateRejected
from headway.core.flow import EngineFacts, Flow
from headway.core.stage import Aggregator, Place
from headway.core.update import Rows, Tensors, Update
from headway.data import FederatedData
from headway.engines.engine import Engine, Job
from headway.engines.planned_engine import PlannedEngine
from headway.numerics.keys import Key
from headway.protocol.messages import Answer, Ask, Train
from headway.protocol.reports import Reports
from headway.protocol.sums import ExactTotal
from headway.server.collector import GroupResult, UpdateCollector
from headway.server.guard import Promise


@dataclass(frozen=True)
class KeptRows(Aggregator):
    """The updates themselves, in the place of the chain's aggregator, which sees them after the attack."""

    place: ClassVar[Place] = Place.AGGREGATE
    whole_cohort: ClassVar[bool] = True

    def connect(self, flow: Flow) -> Flow:
        """Needs nothing: the chain's own aggregator has its requirements checked apart."""
        return flow

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The plain mean, which nobody asks for."""
        return rows.update(rows.joined().double().mean(0)), state


@final
class AttackedEngine(Engine):
    """Clients train in another engine, as honest ones would; then the attackers replace their updates.

    inner: a `LocalEngine` or `ProcessEngine`.  plan: who attacks, and how.
    Each crafted update passes the server's guard like any other; one that is refused is reported by its client's name.
    The attackers train on poisoned examples where the attack has some.  Drift is not measured.

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
        self.job, self.attackers = job, self.plan.among(job.data.clients)
        _check_chain(job.algorithm.chain)
        data = poisoned(job.data, self.attackers, self.plan, job.key)
        kept = replace(job.algorithm, chain=_with_rows(job.algorithm.chain))
        self.inner.open(replace(job, algorithm=kept, known=data))
        setup = self.inner.execution.setup
        flows = job.algorithm.flows(self.facts, population=len(data.clients))
        averaged = setup.flat_module.statistics_layout.size if "buffers" in setup.summed else 0
        self.flows = job.algorithm.sized(flows, setup.flat_module.layout.size, averaged)
        layout, population = setup.flat_module.layout, len(data.clients)
        self.guard = Promise.of(job.algorithm.chain, self.flows, layout.size, averaged)
        self.collector = UpdateCollector(
            job.algorithm, job.key, self.flows, layout, setup.device, self.guard, population
        )

    def try_once(self, state: State, evaluated: bool) -> Sequence[str]:
        """Tries the work of one client."""
        return self.inner.try_once(state, evaluated)

    def clients(self) -> Sequence[str]:
        """The population."""
        return self.inner.clients()

    def ask(self, ask: Ask) -> Answer:
        """Runs one ask; of a request to train, the attackers' updates are replaced before they are summed."""
        answer = self.inner.ask(ask)
        if not isinstance(ask.request, Train):
            return answer
        received, parts = self._attacked(ask, answer), [answer.reports]
        total, result = ExactTotal(), GroupResult()
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
        return replace(answer, total=total, reports=Reports.joined(parts).by_client())

    def close(self) -> None:
        """Closes the inner engine."""
        self.inner.close()

    def _attacked(self, ask: Ask, answer: Answer) -> dict[str, Update]:
        """The updates that the server receives, by client."""
        honest = answer.total.rows
        active = [name for name in self.attackers if name in honest and ask.round + 1 >= self.plan.from_round]
        if not active:
            return dict(honest)
        rows = Rows.of(honest)
        everyone, place = rows.joined().double(), {name: index for index, name in enumerate(rows.names)}
        mine = torch.tensor([place[name] for name in active])
        others = torch.tensor([index for name, index in place.items() if name not in active], dtype=torch.int64)
        view = View(
            ask.round,
            self.job.key.derive("attack", ask.round),
            everyone[mine],
            everyone[others] if self.plan.knows == "everyone" and len(others) else None,
            rows.weights[mine].double(),
            self._rule(rows, ask),
            len(rows.names),
        )
        crafted, weights = self.plan.attack.craft(view), self.plan.attack.weights(view)
        lengths = [vector.shape[-1] for vector in rows.vectors.values()]
        sent = dict(honest)
        for index, name in enumerate(active):
            pieces = torch.split(crafted[index], lengths)
            vectors = {
                key: piece.to(honest[name].vectors[key].dtype) for key, piece in zip(rows.vectors, pieces, strict=True)
            }
            sent[name] = replace(honest[name].with_vectors(**vectors), weight=weights[index].to(rows.weights.dtype))
        return sent

    def _rule(self, rows: Rows, ask: Ask) -> Any:
        """The chain's aggregate of updates, all vectors side by side, from the state that a rule starts with."""
        aggregator, ctx = self.job.algorithm.chain.aggregator, self._context(ask)
        start = aggregator.init(ask.message.params)

        def rule(updates: Tensor) -> Tensor:
            if not aggregator.whole_cohort:
                return updates.mean(0)
            names = tuple(f"{index:06d}" for index in range(len(updates)))
            whole = Rows(names, {"delta": updates}, torch.ones(len(updates), dtype=torch.float64))
            return aggregator.reduce(whole, start, ctx)[0].delta

        return rule

    def _context(self, ask: Ask) -> ServerContext:
        params = ask.message.params
        key = self.job.key.derive("attackers' rehearsal", ask.round)
        layout, population = self.inner.execution.setup.flat_module.layout, len(self.clients())
        return ServerContext(ask.round, key, layout, self.flows[-1], params, population=population, asked_params=params)


def poisoned(data: FederatedData, attackers: Sequence[str], plan: AttackPlan, key: Key) -> FederatedData:
    """The data with the attackers' training examples as the attack changes them; the others' are as they were."""
    inputs, targets = data.store.inputs, data.store.targets
    changed = False
    for client in attackers:
        own = data.train_of(client)
        bad = plan.attack.poison(own, data.classes, key.derive("poison").owned(client))
        if bad is own:
            continue
        if not changed:
            inputs, targets, changed = inputs.clone(), targets.clone(), True
        place = data.train[client]
        inputs[place], targets[place] = bad.inputs, bad.targets
    if not changed:
        return data
    return data.with_store(replace(data.store, inputs=inputs, targets=targets))


def _with_rows(chain: Chain) -> Chain:
    before = [stage for stage in chain.stages if stage.place < Place.AGGREGATE]
    return Chain((*before, KeptRows()))


def _check_chain(chain: Chain) -> None:
    """Refuses a chain whose updates an attack could not be put into.

    Raises:
        ConfigError: naming the stage.
    """
    unseen = [label for label, stage in chain.labelled if stage.place in (Place.MASK, Place.QUANTISE)]
    if chain.protocol is not None or chain.has_codecs:
        name = unseen[0] if unseen else "a stage that encodes updates"
        raise ConfigError(
            f"an attack is put into updates that are neither encoded nor masked, found {name} in the chain: leave it "
            "out to compare rules under attack."
        )
    if chain.aggregator.has("send"):
        raise ConfigError(
            f"{chain.labels[chain.stages.index(chain.aggregator)]} changes updates at the client: attacks have no form "
            "for it yet; use another rule."
        )
