"""The updates that the server receives in a round: the honest ones, and what the attackers make of theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from headway.attacks.attack import AttackView
from headway.attacks.attack_plan import AttackPlan
from headway.core.context import ServerContext
from headway.core.flow import Flow
from headway.core.layout import Layout
from headway.core.update import Rows, Update
from headway.engines.engine import Job
from headway.observe.drift import DriftMeter
from headway.protocol.messages import Ask


@dataclass(frozen=True)
class Crafting:
    """Replaces the attackers' updates.

    attackers: their names.  job: the run, with the chain's own aggregator.  flow: the facts after the chain.
    cohort: how many clients take part, where the updates are those of the attackers alone.
    """

    plan: AttackPlan
    attackers: tuple[str, ...]
    job: Job
    flow: Flow
    layout: Layout
    cohort: int | None = None

    def received(self, ask: Ask, honest: Mapping[str, Update]) -> dict[str, Update]:
        """The updates that the server receives, by client."""
        active = [name for name in self.attackers if name in honest and ask.round + 1 >= self.plan.from_round]
        if not active:
            return dict(honest)
        rows = Rows.of(honest)
        everyone, place = rows.joined().double(), {name: index for index, name in enumerate(rows.names)}
        mine = torch.tensor([place[name] for name in active])
        others = torch.tensor([index for name, index in place.items() if name not in active], dtype=torch.int64)
        view = AttackView(
            ask.round,
            self.job.key.derive("attack", ask.round),
            everyone[mine],
            everyone[others] if self.plan.knows == "everyone" and len(others) else None,
            rows.weights[mine].double(),
            self._rule([rows.names[index] for index in (*mine.tolist(), *others.tolist())], ask),
            self.cohort or len(rows.names),
        )
        crafted, weights = self.plan.attack.craft(view), self.plan.attack.weights(view)
        sent = dict(honest)
        for index, name in enumerate(active):
            pieces = rows.update(crafted[index]).vectors
            vectors = {key: piece.to(honest[name].vectors[key].dtype) for key, piece in pieces.items()}
            sent[name] = replace(honest[name].with_vectors(**vectors), weight=weights[index].to(rows.weights.dtype))
        return sent

    def meter(self, ask: Ask) -> DriftMeter | None:
        """The meter of what the server receives, where clients have a reputation."""
        if self.job.algorithm.reputation is None:
            return None
        return DriftMeter.of(ask, len(ask.cohort), self.layout.size, self.job.key, kept=True)

    def _rule(self, clients: Sequence[str], ask: Ask) -> Any:
        """The chain's aggregate of updates, all vectors side by side, from the state that a rule starts with.

        clients: whose updates these are, in their order, where all are known.  Where only the attackers' are, a rule
        that goes by clients' names cannot be rehearsed, and is taken for the mean.
        """
        aggregator, ctx = self.job.algorithm.chain.aggregator, self._context(ask)
        start, known = aggregator.init(ask.message.params), self.plan.knows == "everyone"

        def rule(updates: Tensor) -> Tensor:
            if not aggregator.whole_cohort or (aggregator.by_name and not known):
                return updates.mean(0)
            names = tuple(clients) if known else tuple(f"{index:06d}" for index in range(len(updates)))
            order = sorted(range(len(names)), key=names.__getitem__)
            ones = torch.ones(len(names), dtype=torch.float64)
            whole = Rows(tuple(names[place] for place in order), {"delta": updates[order]}, ones)
            return aggregator.reduce(whole, start, ctx)[0].delta

        return rule

    def _context(self, ask: Ask) -> ServerContext:
        params = ask.message.params
        key, population = self.job.key.derive("attackers' rehearsal", ask.round), self.cohort or self.job.population
        return ServerContext(ask.round, key, self.layout, self.flow, params, population=population, asked_params=params)
