"""A program: what a federation computes, at the server and at its participants."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from torch import Tensor

from headway.core.layout import Layout
from headway.core.update import Tensors
from headway.numerics.keys import Key

if TYPE_CHECKING:
    from headway.core.context import ExchangeContext
    from headway.core.flow import Flow
    from headway.protocol.effects import Effect
    from headway.protocol.messages import Answer, Exchange

S = TypeVar("S")


class Program(Protocol[S]):
    """The computation of a federation: rounds at the server, and a participant half.

    `Algorithm` (chain, trainer, sampler, quorum) is one program, of which `client.Participant` answers Train, Evaluate
    and Measure.  Statistics, vertical, split or tree learning are others, whose participants answer exchanges alone.
    """

    def initial_state(self, w: Tensor, buffers: Tensor | None = None) -> S:
        """The state before the first round, from the initial model `[P]` and averaged buffers `[B]`."""
        ...

    def round(
        self,
        state: S,
        cohort: tuple[str, ...],
        *,
        key: Key,
        layout: Layout,
        flows: Sequence[Flow],
        population: int,
        system: Key | None = None,
    ) -> Generator[Effect, Answer, S]:
        """One round as a generator of effects, deterministic in the state at its start and the answers.

        system: in deployment, a fresh key of the operating system's randomness for the noise of this call.
        """
        ...

    def answer(self, request: Exchange, secret: Tensors, ctx: ExchangeContext) -> tuple[Tensors, Tensors]:
        """The participant half: the reply to an exchange, and the client's next secret of this round."""
        ...
