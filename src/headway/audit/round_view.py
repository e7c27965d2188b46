"""What one round shows to those who may look at it, and the algorithm that keeps what its server computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from headway.core.algorithm import Algorithm, State
from headway.core.chain import Labelled
from headway.core.context import ServerContext
from headway.core.flow import Flow
from headway.core.update import Update
from headway.protocol.messages import Answer, Message


@dataclass(frozen=True, slots=True)
class RoundView:
    """What one round shows to those who may look at it.

    message: what each client receives.  updates: each client's update as the server reads it; empty where the server
    sees only the sum.  aggregate: the aggregate before any noise, which the server sees; released: after it.
    before, after: the server's state, whose models every client receives.  counted: the clients in the aggregate.
    declined: those without an update, and why.
    """

    message: Message
    updates: Mapping[str, Update]
    aggregate: Update | None
    released: Update | None
    before: State
    after: State
    counted: tuple[str, ...]
    declined: Mapping[str, str]


@final
@dataclass(frozen=True)
class TappedAlgorithm(Algorithm):
    """The same algorithm, with a list of what its server computes: the aggregate and the release of each round."""

    aggregates: list[Update] = field(default_factory=list, compare=False, repr=False)
    releases: list[Update] = field(default_factory=list, compare=False, repr=False)

    @classmethod
    def of(cls, algorithm: Algorithm) -> TappedAlgorithm:
        """The algorithm with empty lists."""
        return cls(algorithm.chain, algorithm.trainer, algorithm.sampler, algorithm.quorum)

    def aggregate(
        self, answer: Answer, state: Labelled, ctx: ServerContext, flows: Sequence[Flow]
    ) -> tuple[Update, Labelled]:
        """As the algorithm does it."""
        update, after = super().aggregate(answer, state, ctx, flows)
        self.aggregates.append(update)
        return update, after

    def release(self, update: Update, ctx: ServerContext, flows: Sequence[Flow]) -> Update:
        """As the algorithm does it."""
        released = super().release(update, ctx, flows)
        self.releases.append(released)
        return released
