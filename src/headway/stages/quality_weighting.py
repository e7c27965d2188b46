"""The weight of each client's update by the quality of its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from headway.core.context import ClientContext, ServerContext
from headway.core.fields import at_least, between, positive
from headway.core.flow import Flow
from headway.core.stage import Place, Stage, stages
from headway.core.update import Tensors, Update

By = Literal["alignment", "validation", "entropy"]
REVEALED: dict[By, str | None] = {"alignment": None, "validation": "validation loss", "entropy": "label entropy"}


@final
@stages.register
@dataclass(frozen=True)
class WeighByQuality(Stage):
    """Clients with more, and better, data count more.

    Formula: `w_i = min(n_i^power, cap) q_i` with `q_i = 1 - (1 - floor) (1 - s_i)`, so floor <= q_i <= 1, and

        alignment:   s_i = (1 + cos(delta_i, Delta)) / 2    Delta: the aggregate of the round before
        validation:  s_i = exp(-L_i / temperature)          L_i: mean loss of w_t on examples that i held out
        entropy:     s_i = H(labels of i) / log K           over the client's training examples and K classes

    alignment: a client that pulls against where the others went counts least.  Where there is no direction to
        compare (the first round, a delta of zero) s_i = 1.  It is all that a server which sees only sums
        allows: the other two are numbers about one client's data.
    validation: at temperature 1 and with cross-entropy, s_i is the geometric mean of the probability that the
        model of all gives to the client's labels; wrong labels make it small, and so does a client that the
        model serves badly.  The examples are the client's own, held out by LocalSGD(validation=...); n_i
        counts them too.  Units: temperature is that of the loss.
    entropy: a client with one label only counts least.  K is the number of the model's outputs.

    s_i is 0 where it is no number (a delta with NaN), so the weight is always finite.  A client states its
    weight itself, as it does n_i: a client that lies can only raise it up to the cap.  floor = 1 with power = 1
    is FedAvg exactly, and so is the first round by alignment.  Shapes: `[..., P]`, weights `[...]`.

    Raises:
        ConfigError: unless power >= 0, 0 < floor <= 1, temperature > 0 and cap > 0.
        ChainRefused: after another stage that sets weights; by validation or entropy with a trainer that does
            not offer it, or behind a secure sum; under a mean that needs clients to count the same.

    Reference: there is no one paper.  By size alone it is McMahan et al., arXiv 1602.05629.

    >>> WeighByQuality(by="alignment", floor=0.2)
    WeighByQuality(by='alignment', power=1.0, floor=0.2, temperature=1.0, cap=None)
    """

    place: ClassVar[Place] = Place.WEIGH
    by_columns: ClassVar[bool] = True
    by: By = "alignment"
    power: float = at_least(0, 1.0)
    floor: float = between(0, 1, 0.1, without=0)
    temperature: float = positive(1.0)
    cap: float | None = positive(None)

    def connect(self, flow: Flow) -> Flow:
        """Sets the largest weight, and what the weight reveals; the vectors are left alone."""
        flow.require(self, own_weights=True)
        if self.by == "validation":
            flow = flow.measure(self, "validation_loss")
        elif self.by == "entropy":
            flow = flow.measure(self, "label_entropy")
        revealed = REVEALED[self.by]
        if revealed is not None:
            flow = flow.set(self, exposed=(*flow.exposed, revealed))
        largest = self.cap if self.power else min(1.0, self.cap or 1.0)
        within = self.power <= 1  # n^power q is at most n then
        return flow.set(self, weight_bound=largest, by_examples=within, weight_leaks=revealed).keep(
            self, "bound", "additive", "dense"
        )

    def init(self, w: Tensor) -> Tensors:
        """The aggregate of the last round, zero before the first."""
        return {"aggregate": torch.zeros_like(w)} if self.by == "alignment" else {}

    def broadcast(self, state: Tensors) -> Tensors:
        """Clients receive the last aggregate."""
        return state

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """The update with its weight."""
        size = ctx.examples.to(update.weight.dtype) ** self.power
        size = size if self.cap is None else size.clamp_max(self.cap)
        score = torch.nan_to_num(self._score(update, ctx).to(size.dtype), nan=0.0).clamp(0.0, 1.0)
        return update.with_weight(size * (1 - (1 - self.floor) * (1 - score))), memory

    def receive(self, update: Update, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """Remembers the aggregate that clients will be compared with."""
        return update, {"aggregate": update.delta.to(state["aggregate"].dtype)} if state else state

    def _score(self, update: Update, ctx: ClientContext) -> Tensor:
        """s_i, `[...]`, NaN where it is not defined for want of finite numbers."""
        if self.by == "alignment":
            return (1 + cosine(update.delta, ctx.received["aggregate"])) / 2
        if self.by == "validation":
            return torch.exp(-ctx.measurements["validation_loss"].double() / self.temperature)
        return ctx.measurements["label_entropy"]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of the angle between two vectors `[..., P]`, float64 `[...]`; 1 where one of them is zero.

    Scaled by the largest number first, so that no finite vector overflows.

    >>> cosine(torch.tensor([1e30, 0.0]), torch.tensor([1e-30, 1e-30]))
    tensor(0.7071, dtype=torch.float64)
    """
    a, b = _scaled(a), _scaled(b)
    lengths = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return torch.where(lengths == 0, 1.0, (a * b).sum(-1) / lengths)


def _scaled(v: Tensor) -> Tensor:
    """The vector over its largest number, float64; zero stays zero."""
    largest = v.double().abs().amax(-1, keepdim=True)
    return v.double() / torch.where(largest == 0, 1.0, largest)
