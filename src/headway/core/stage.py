"""A stage: one idea, as a frozen dataclass of plain values with a few optional pure hooks.

Leading axes are clients: a vector is `[..., P]`, and the same hook serves one client (`[P]`) and many
lanes (`[C, P]`).  What a client keeps (memory), what the server keeps (state) and what it sends to clients (broadcast)
are named tensors whose last axis is P, or 1 for a scalar.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from headway.core.context import (
    NOTHING,
    ClientContext,
    CombineContext,
    Context,
    ExchangeContext,
    ServerContext,
    StepContext,
)
from headway.core.flow import Flow, StepRule
from headway.core.registry import Plain, Registry
from headway.core.update import LeftOut, Rows, Tensors, Update

if TYPE_CHECKING:
    from headway.protocol.messages import Answer, Ask, Exchange, Train
    from headway.protocol.sums import ExactTotal


class Place(IntEnum):
    """The place of a stage on the way of an update; a chain lists them in this order.

    RESCALE is for what scales or moves the delta and keeps its weight, WEIGH for what sets the weight: as neither
    changes what the other does, they may stand in either order.
    """

    STEP = 1
    COMBINE = 2
    RESCALE = 3
    WEIGH = 4
    SPARSIFY = 5
    CLIP = 6
    QUANTISE = 7
    NOISE = 8
    MASK = 9
    AGGREGATE = 10
    RELEASE = 11
    SERVER = 12
    AVERAGE = 13

    @property
    def rank(self) -> int:
        """The position in a chain: a stage may not stand before one of a lower rank."""
        return int(Place.RESCALE if self is Place.WEIGH else self)

    @property
    def summary(self) -> str:
        """The place as a noun."""
        return {
            Place.STEP: "a rule for local steps",
            Place.COMBINE: "a combination of local steps",
            Place.RESCALE: "a scaling of the delta",
            Place.WEIGH: "a weight",
            Place.SPARSIFY: "a sparsifier",
            Place.CLIP: "a clip",
            Place.QUANTISE: "a quantiser",
            Place.NOISE: "local noise",
            Place.MASK: "a mask",
            Place.AGGREGATE: "the aggregator",
            Place.RELEASE: "noise on the aggregate",
            Place.SERVER: "a server optimizer",
            Place.AVERAGE: "an average of models",
        }[self]


@dataclass(frozen=True)
class Stage(Plain):
    """One idea in a chain.  Override the hooks that the idea needs; all are pure."""

    place: ClassVar[Place]
    registry: ClassVar[Registry[Stage]] = Registry("stage", "headway.stages")
    by_columns: ClassVar[bool] = False  # whether `finish` and `receive` compute each column from that column alone

    def connect(self, flow: Flow) -> Flow:
        """Reads and changes the static facts; refuses what cannot mean anything."""
        return flow

    def init(self, w: Tensor) -> Tensors:
        """The server's state before the first round, from the initial model `[P]`."""
        return NOTHING

    def remember(self, w: Tensor) -> Tensors:
        """A client's memory before it first trains, from the model `[..., P]`."""
        return NOTHING

    def broadcast(self, state: Tensors) -> Tensors:
        """The part of the server's state that clients receive when a round starts."""
        return NOTHING

    def step(self, grad: Tensor, w: Tensor, memory: Tensors, ctx: StepContext) -> Tensor:
        """The direction of one local step; elementwise in the parameter axis."""
        return grad

    @property
    def after_momentum(self) -> bool:
        """Whether `step` maps the direction that clipping, weight decay and momentum make, and not the gradient."""
        return False

    @property
    def step_rule(self) -> StepRule:
        """The kind of step that `step` is a rule for, in the words of the trainer's facts."""
        return "step" if self.after_momentum else "gradient"

    @property
    def is_proximal(self) -> bool:
        """Whether `step` only adds `mu (w - w_t)`, mu being what the stage adds to the flow's `proximal`."""
        return False

    def combine(self, gram: Tensor, ctx: CombineContext) -> Tensor:
        """Coefficients `[..., K]` of the local steps in the delta, from their Gram matrix `[..., K, K]`."""
        return torch.ones_like(gram[..., 0])

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """The update as it leaves the client, and the client's next memory."""
        return update, memory

    def decode(self, update: Update, ctx: ServerContext) -> Update:
        """Undoes `send` at the server."""
        return update

    def release(self, update: Update, ctx: ServerContext) -> Update:
        """Adds noise to the aggregate, before anything else reads it.

        A vector that is named after the stage, `"Stage/name"`, is no part of the release: it is kept with it, and
        becomes part of the stage's state, `name` (`ctx.states` holds the states here).
        """
        return update

    def receive(self, update: Update, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The server's release from the aggregated update, and its next state."""
        return update, state

    @classmethod
    def has(cls, hook: str) -> bool:
        """Whether this class overrides a hook."""
        return getattr(cls, hook) is not getattr(Stage, hook)


@dataclass(frozen=True)
class Aggregator(Stage):
    """Many updates to one: the border between clients and server, exactly one in a chain.

    A sum-shaped rule writes `lift` and `finish`; its totals merge exactly, in any order.  A rule that
    needs every update at once (a median, Krum) sets `whole_cohort` and writes `reduce`.  One that needs several updates
    sets how many in `connect`: `flow.set(self, min_updates=3)`.  One that asks for more before it aggregates sets
    `examines` and writes `examine`.
    """

    place: ClassVar[Place] = Place.AGGREGATE
    whole_cohort: ClassVar[bool] = False
    judges: ClassVar[bool] = False  # whether it leaves clients out by name, and writes `left_out`
    examines: ClassVar[bool] = False
    by_name: ClassVar[bool] = False  # whether it knows clients by name, so that no rule may mix updates before it

    def connect(self, flow: Flow) -> Flow:
        """A whole-cohort rule must see each update, of a known number; behind a sum, no weight may reveal one client's
        data, and no update may be late."""
        if not self.whole_cohort:
            flow.require(self, one_sum=True)
        else:
            flow.require(self, known_count=True, fix="use Mean()").require(self, each_update=True, fix="use Mean()")
            flow = flow.set(self, reduced=True)
            if any(event.at == "client" for event in flow.events):
                flow = flow.warn(
                    f"{type(self).__name__} compares updates that clients have added noise to: their privacy holds, "
                    "but the more parameters there are, the less it tells an attacker's update from the others."
                )
        flow.require(self, sum_of_one_round=True, fix="leave the secure sum out")
        return flow.require(self, private_weights=True, fix="weigh by examples")

    def largest_weight(self, flow: Flow) -> float | None:
        """The largest number with which `lift` multiplies a vector; `None` without a limit."""
        return 1.0 if self.whole_cohort else flow.weight_bound

    def lift(self, update: Update, ctx: Context) -> Update:
        """One client's term of the sum, `weight * vector` in float64; the weight becomes what is summed below."""
        return update.scaled_exactly(update.weight)

    def finish(self, total: ExactTotal, ctx: ServerContext) -> Update:
        """The aggregate of the sum of all lifted updates."""
        raise NotImplementedError

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The aggregate of all updates, and the rule's next state (as it is, for most)."""
        raise NotImplementedError

    def judged(self, total: ExactTotal, ctx: ServerContext) -> Mapping[str, LeftOut]:
        """The clients in a total that are left out."""
        return self.left_out(Rows.of(total.rows), ctx) if self.judges and total.rows else {}

    def left_out(self, rows: Rows, ctx: ServerContext) -> Mapping[str, LeftOut]:
        """The clients whose updates are not to count, before `reduce` has those of the others."""
        return {}

    def examine(self, train: Ask, answer: Answer) -> Generator[Ask, Answer, Answer]:
        """Asks for more once the updates of a round are there; the answer that the round goes on with."""
        raise NotImplementedError

    def aggregate(self, total: ExactTotal, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The aggregate of a round, by `finish` or by `reduce`, and the next state.  A whole-cohort rule's weight and
        sums are taken over all updates, with the sum `clients`, the number of clients that the aggregate is of."""
        if not self.whole_cohort:
            return self.finish(total, ctx), state
        update, state = self.reduce(Rows.of(total.rows), state, ctx)
        numbers = total.value()
        clients = torch.tensor(float(total.count), dtype=torch.float64)
        sums = {**numbers.sums, **update.sums, "clients": clients}
        return Update(update.vectors, numbers.weight, sums), state


@dataclass(frozen=True)
class Protocol(Stage):
    """A stage that needs more than one exchange in a round.

    Its server half is a generator of asks with no I/O inside; its client half answers one of them, and the
    engine keeps the returned secret durably, before the answer leaves, until the round is over.
    """

    @property
    def exchanges(self) -> bool:
        """Whether clients are asked for more than updates, and keep secrets."""
        return True

    def exchange(self, train: Ask, ctx: ServerContext) -> Generator[Ask, Answer, Answer]:
        """Asks what it must before and after `train`, and returns the answer that the round goes on with."""
        raise NotImplementedError

    def answer(self, request: Exchange, secret: Tensors, ctx: ExchangeContext) -> tuple[Tensors, Tensors]:
        """At the client: the reply to one of the protocol's own asks, and the next secret."""
        raise NotImplementedError

    def spent(self, secret: Tensors, request: Train, ctx: ExchangeContext) -> Tensors:
        """At the client: the secret after `send` has used it, to be kept durably before the update leaves."""
        return secret

    def sends(
        self, label: str, update: Update, memory: Tensors, here: ClientContext, ctx: ClientContext
    ) -> tuple[Update, Tensors]:
        """What `send` makes of an update with the client's part in the exchanges; of those of a batch, one by one.

        here: the context of this stage, of this label in the chain, but for the exchanges, which are in `ctx`.
        """
        if not ctx.lanes:
            exchange = None if ctx.exchange is None else ctx.exchange.at(label)
            return self.send(update, memory, replace(here, secret=ctx.secret, exchange=exchange))
        sent, kept = list[Update](), list[Tensors]()
        for lane, own in enumerate(ctx.lanes):
            alone = replace(here.lane(lane), secret=own.secret, exchange=own.context.at(label))
            one, after = self.send(update.lane(lane), {name: held[lane] for name, held in memory.items()}, alone)
            sent.append(one)
            kept.append(after)
        return Update.stacked(sent), {name: torch.stack([each[name] for each in kept]) for name in kept[0]}


stages = Stage.registry
