"""Stages that exist only in tests: they prove that the core carries its harder hooks."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from headway.core.context import ClientContext, ExchangeContext, ServerContext
from headway.core.flow import Flow, PrivacyEvent
from headway.core.stage import Aggregator, Place, Protocol, Stage, Tensors
from headway.core.update import Rows, Update
from headway.numerics.keys import Key
from headway.protocol.messages import Answer, Ask, Exchange, Message
from headway.protocol.sums import ExactTotal

WEIGHT_BITS = 40  # of a weight behind the mask, below the point


@dataclass(frozen=True)
class FixedPoint(Stage):
    """Reals as int64 multiples of 2^-bits: integers add exactly, whatever the order."""

    place: ClassVar[Place] = Place.QUANTISE
    bits: int = 40

    def connect(self, flow: Flow) -> Flow:
        return flow.set(self, number="ring").keep(self, "additive", "dense", "bound")

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        coded = {k: torch.round(v.double() * 2.0**self.bits).to(torch.int64) for k, v in update.vectors.items()}
        return update.with_vectors(**coded), memory

    def decode(self, update: Update, ctx: ServerContext) -> Update:
        return update.with_vectors(**{k: v.double() / 2.0**self.bits for k, v in update.vectors.items()})


@dataclass(frozen=True)
class PairwiseMasks(Protocol):
    """Every pair of clients shares a mask that one adds and the other subtracts, so that the sum is clear.

    The clients advertise a public number, train, and those that remain name the masks that they share with
    clients lost in between.  (The "agreement" of a pair is the sum of public numbers: no secrecy here.)
    """

    place: ClassVar[Place] = Place.MASK

    def connect(self, flow: Flow) -> Flow:
        if flow.number != "ring":
            flow.refuse(self, "number", needed="integers", found="reals", do_this="put FixedPoint before it")
        if not (flow.additive and flow.dense):
            fact = "dense" if flow.additive else "additive"
            flow.refuse(self, fact, needed="vectors that add", found="others", do_this="leave the encoder out")
        flow = flow.carry(self, "weight", scalar=True).set(self, server_sees="sum", exposed=())
        return flow.keep(self, "additive", "dense", "bound")

    def answer(self, request: Exchange, secret: Tensors, ctx: ExchangeContext) -> tuple[Tensors, Tensors]:
        if request.name == "advertise":
            own = ctx.key.derive("public").bits(1)
            return {"public": own}, {"public": own}
        told = request.message.stages["PairwiseMasks"]
        lost = {name: _masks(secret["public"], told["lost"], told[name]) for name in told if name != "lost"}
        return lost, secret

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        weight = torch.round(update.weight.double().reshape(1) * 2.0**WEIGHT_BITS).to(torch.int64)
        clear = {**update.vectors, "weight": weight}
        mine, others = ctx.secret["public"], ctx.received["publics"]
        masked = {name: v + _masks(mine, others, torch.tensor([v.numel()])) for name, v in clear.items()}
        return replace(update, vectors=masked, weight=torch.zeros_like(update.weight)), memory

    def exchange(self, train: Ask, ctx: ServerContext) -> Generator[Ask, Answer, Answer]:
        nothing = Message(torch.empty(0))
        advertised = yield train.exchange("advertise", nothing)
        publics = {client: reply["public"] for client, reply in sorted(advertised.replies.items())}
        if not publics:
            return Answer()
        told = {**train.message.stages, "PairwiseMasks": {"publics": torch.cat(list(publics.values()))}}
        answer = yield train.with_message(replace(train.message, stages=told), tuple(publics))
        masked, counted = answer.total.integers, answer.counted
        if not counted:
            return answer
        lost = [publics[client] for client in publics if client not in counted]
        sizes = {name: torch.tensor([v.numel()]) for name, v in masked.items()}
        ask = {"lost": torch.cat(lost) if lost else torch.empty(0, dtype=torch.int64), **sizes}
        message = replace(nothing, stages={"PairwiseMasks": ask})
        unmasked = yield train.exchange("unmask", message, counted)
        clear = dict(masked)
        for reply in unmasked.replies.values():
            clear = {name: clear[name] - reply[name] for name in clear}
        total = ExactTotal()
        total.weight.add(float(clear.pop("weight")) / 2.0**WEIGHT_BITS)
        total.integers, total.count = clear, answer.total.count
        return replace(answer, total=total)


@dataclass(frozen=True)
class OnlyTheSum(Stage):
    """What a secure sum is to the other stages, without any protocol: integers that are added before they are read."""

    place: ClassVar[Place] = Place.MASK

    def connect(self, flow: Flow) -> Flow:
        flow = flow.require(self, ring=True, additive=True, dense=True)
        return flow.set(self, server_sees="sum", exposed=()).keep(self, "additive", "dense", "bound")


def _masks(mine: Tensor, others: Tensor, size: Tensor) -> Tensor:
    """The sum of the masks that one client shares with others, with the signs that make pairs cancel."""
    total = torch.zeros(int(size), dtype=torch.int64)
    for other in others.tolist():
        if other != int(mine):
            shared = Key.root(0).derive(*sorted((other, int(mine)))).bits(int(size)) * 2 + 1
            total = total + (shared if int(mine) < other else -shared)
    return total


@dataclass(frozen=True)
class Median(Aggregator):
    """The coordinate-wise median of all updates."""

    whole_cohort: ClassVar[bool] = True

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        return rows.update(rows.joined().double().quantile(0.5, dim=0)), state


@dataclass(frozen=True)
class NoisyRelease(Stage):
    """Gaussian noise of `multiplier` times the bound that the flow knows."""

    place: ClassVar[Place] = Place.RELEASE
    multiplier: float = 1.0

    def connect(self, flow: Flow) -> Flow:
        if flow.bound is None:
            flow.refuse(self, "bound", needed="a bound", found="none", do_this='use Clip and Mean(over="expected")')
        event = PrivacyEvent("gaussian", self.multiplier, flow.bound, flow.vectors)
        return flow.set(self, events=(*flow.events, event))

    def release(self, update: Update, ctx: ServerContext) -> Update:
        assert ctx.flow.bound is not None
        u = ctx.uniform(2 * update.delta.shape[-1]).reshape(2, -1)
        noise = torch.sqrt(-2 * torch.log1p(-u[0])) * torch.cos(2 * torch.pi * u[1])
        return update.with_delta(update.delta + self.multiplier * ctx.flow.bound * noise)
