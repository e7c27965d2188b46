"""Redundancy: the same work is asked of several clients, and an update counts if the majority of them agree on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from headway.core.context import ServerContext
from headway.core.fields import at_least, between
from headway.core.flow import Flow
from headway.core.replicas import grouped
from headway.core.stage import Aggregator, Place, stages
from headway.core.update import LeftOut, Rows, Tensors, Update
from headway.stages.robust.coordinate_rules import TrimmedMean
from headway.stages.robust.rule_facts import check_rule, robust_facts


@final
@stages.register
@dataclass(frozen=True)
class MajorityVote(Aggregator):
    """The same work asked of several clients: of each group of replicas one update counts, that of its majority, and
    those that disagree are named; then another rule aggregates the groups.

    Formula: the clients of a group hold the same data and train with the group's key, so that honest ones send the same
    update.  x_i and x_j agree if `||x_i - x_j||_2 <= tolerance max(||x_i||_2, ||x_j||_2)` (bit for bit with tolerance
    0); the group's update is the x_i with which the most agree, the first by name of several, if these are more than
    half of its replicas, x_i among them.  A group without such an update is left out.  Then `then` of the groups'
    updates.
    Shapes: rows `[C, P]`, aggregate `[P]`; all vectors that travel are taken as one.  Weights are not used.

    replicas: r, how many clients hold the same data: the clients of one name up to the last dot, such as `north.1`,
        `north.2` and `north.3`.  A partition makes such clients by its parameter `replicas`.
    tolerance: for what rounding leaves between replicas on unlike processors, or between clients that are trained in
        batches of unlike widths and one by one.  0 asks for the same bits, which one processor gives to clients that
        are trained one by one.  A liar that stays within it moves the group's update by no more.
    then: the rule over the groups, by default the mean.  Up to (r - 1) / 2 liars in every group change nothing; a
        group is lost to more of them than r / 2, and `then` withstands as many such groups as its f.

    A client that disagrees is reported as rejected, with the reason, and is not counted; the clients of a group without
    a majority are reported as dropped, since nobody can say which of them lie.  Where all groups agree the aggregate is
    that of one client of each, bit for bit.

    Raises:
        ConfigError: if replicas is below 2, or `then` is no rule for a whole cohort; when a run starts, for clients
            that are not in groups of r.
        ChainRefused: behind a secure sum, where clients round or add noise by themselves, with stages that keep memory,
            unless every client takes part in every round, with weights, or with too few updates in a round.

    Reference: Chen et al., arXiv 1803.09877 (DRACO), section 3, the repetition code with majority votes; Rajput et al.,
        arXiv 1907.12205 (DETOX), Algorithm 1, for another rule over the votes.
    Differs from the paper: r is set by the user, and not from the number of attackers; agreement may have a tolerance;
        DETOX draws the groups anew in each round, which data that stay with their owners do not allow.

    >>> MajorityVote(replicas=3)
    MajorityVote(replicas=3, tolerance=0.0001, then=TrimmedMean(f=0))
    """

    place: ClassVar[Place] = Place.AGGREGATE
    whole_cohort: ClassVar[bool] = True
    judges: ClassVar[bool] = True
    by_name: ClassVar[bool] = True
    replicas: int = at_least(2, 3)
    tolerance: float = between(0, 1, 1e-4, without=1)
    then: Aggregator = TrimmedMean(0)

    def __post_init__(self) -> None:
        check_rule(self, self.then)

    @property
    def majority(self) -> int:
        """How many clients of a group must agree."""
        return self.replicas // 2 + 1

    def connect(self, flow: Flow) -> Flow:
        """Needs all replicas of a group in a round, the same update from honest ones, and what `then` needs."""
        together = "the replicas of a group take part in the same rounds"
        flow.require(self, single_updates=True, whole_population=together, never_excluded=together, repeatable=True)
        flow.require(self, synchronous=together)
        inner = self.then.connect(flow)
        attackers = self.majority * (inner.attackers + 1) - 1
        flow = super().connect(inner).set(self, replicas=self.replicas)
        return robust_facts(flow, self, attackers, self.majority * inner.min_updates)

    def init(self, w: Tensor) -> Tensors:
        """The state of the rule behind it."""
        return self.then.init(w)

    def left_out(self, rows: Rows, ctx: ServerContext) -> Mapping[str, LeftOut]:
        """The clients that disagree with the majority of their group, and those of groups without one."""
        found, voted = dict[str, LeftOut](), 0
        for group, places in self._groups(rows).items():
            names, agree = [rows.names[place] for place in places], self._agreement(rows, places)
            most = int(agree.sum(1).max())
            if most < self.majority or len(places) > self.replicas:
                reason = f"{most} of the {self.replicas} replicas of {group!r} agree, and {self.majority} must"
                if len(places) > self.replicas:
                    reason = f"{group!r} has {len(places)} replicas, and {self.replicas} are declared"
                found |= dict.fromkeys(names, LeftOut("dropped", f"{reason}: the group was left out"))
                continue
            voted += 1
            with_it = agree[int(agree.sum(1).argmax())].tolist()
            reason = f"its update is not that of the {most} of {self.replicas} replicas of {group!r} that agree"
            liars = [name for name, agrees in zip(names, with_it, strict=True) if not agrees]
            found |= dict.fromkeys(liars, LeftOut("rejected", reason))
        needed = self.then.connect(Flow()).min_updates
        if voted < needed:
            reason = f"{voted} groups have a majority, and {type(self.then).__name__} needs {needed}"
            found |= {name: LeftOut("dropped", reason) for name in rows.names if name not in found}
        return found

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The other rule's aggregate of the groups' updates."""
        chosen = []
        for places in self._groups(rows).values():
            counts = self._agreement(rows, places).sum(1)
            if int(counts.max()) >= self.majority:
                chosen.append(places[int(counts.argmax())])
        if not chosen:  # which the algorithm has left out before
            return rows.update(torch.zeros_like(rows.joined()[0])), state
        vectors = {name: part[chosen] for name, part in rows.vectors.items()}
        sums = {name: numbers[chosen] for name, numbers in rows.sums.items()}
        names = tuple(rows.names[place] for place in chosen)
        return self.then.reduce(Rows(names, vectors, rows.weights[chosen], sums), state, ctx)

    def _groups(self, rows: Rows) -> dict[str, list[int]]:
        """The places of each group's clients."""
        places = {name: place for place, name in enumerate(rows.names)}
        return {group: [places[name] for name in members] for group, members in grouped(rows.names).items()}

    def _agreement(self, rows: Rows, places: list[int]) -> Tensor:
        """Which pairs of some clients agree, `[c, c]`."""
        parts = [part[places] for part in rows.vectors.values()]
        if not self.tolerance:
            return torch.stack([(part.unsqueeze(0) == part.unsqueeze(1)).all(-1) for part in parts]).all(0)
        return agreement(torch.cat([part.double() for part in parts], dim=-1), self.tolerance)


def agreement(vectors: Tensor, tolerance: float) -> Tensor:
    """Which pairs of rows `[c, P]` differ by at most a share of the longer one, `[c, c]`.

    >>> agreement(torch.tensor([[1.0, 0.0], [1.001, 0.0], [-1.0, 0.0]]), 0.01).tolist()
    [[True, True, False], [True, True, False], [False, False, True]]
    """
    norms = torch.linalg.vector_norm(vectors, dim=-1)
    apart = torch.stack([torch.linalg.vector_norm(vectors - row, dim=-1) for row in vectors])
    return apart <= tolerance * torch.maximum(norms.unsqueeze(0), norms.unsqueeze(1))
