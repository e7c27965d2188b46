"""Rules that make the client's delta out of its local steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from headway.core.context import CombineContext
from headway.core.fields import between
from headway.core.flow import Flow
from headway.core.stage import Place, Stage, stages
from headway.numerics.gram import quadratic

Rule = Literal["greedy", "smallest", "random", "centred"]


@final
@stages.register
@dataclass(frozen=True)
class ECGR(Stage):
    """Exploratory-Convergent Gradient Re-aggregation: keeps the steps that cancel out, damps the rest.

    With g_l the client's tau steps, `m = max(1, int(tau * select))` of them are selected:

        S = 0; m times: take the remaining l that minimises ||S + g_l||, S += g_l     (greedy)
        c = sum_selected g + beta * sum_unselected g
        delta = c * ||sum g|| / ||c||

    Ties go to the lowest index.  All is computed from the Gram matrix of the steps: `||S + g_l||^2 =
    ||S||^2 + 2 (K a)_l + K_ll`.  Shapes: gram `[..., K, K]`, coefficients `[..., K]`.
    The delta keeps the movement's norm; beta = 1 or tau = 1 is FedAvg exactly.  A client that ends where it
    began sends zero; where c is zero but the movement is not, the movement itself is sent.

    rule: which steps are selected: "greedy" (the paper's); "smallest", the steps of least norm; "random";
        "centred", greedy on the steps minus their mean.

    Raises:
        ConfigError: unless 0 < select <= 1 and 0 <= beta <= 1.
        ChainRefused: if the trainer offers no steps.

    Reference: arXiv 2601.03584.

    >>> ECGR(select=0.5, beta=0.2)
    ECGR(select=0.5, beta=0.2, rule='greedy')
    """

    place: ClassVar[Place] = Place.COMBINE
    select: float = between(0, 1, 0.5, without=0)
    beta: float = between(0, 1, 0.2)
    rule: Rule = "greedy"

    def connect(self, flow: Flow) -> Flow:
        """Needs the client's single steps; the delta stays a dense real vector."""
        return flow.need(self, "steps").keep(self, "additive", "dense")

    def combine(self, gram: Tensor, ctx: CombineContext) -> Tensor:
        """The coefficient of every step in the delta; 0 for padded steps."""
        active = _active(gram, ctx)
        selected = self._selected(gram, active, ctx)
        weights = torch.full_like(gram[..., 0], self.beta).masked_fill(selected, 1.0) * active
        total = ctx.squared_movement
        kept = quadratic(gram, weights)
        # below this, `kept` is the rounding error of a sum that is really zero
        noise = 4 * gram.shape[-1] * torch.finfo(gram.dtype).eps * quadratic(gram.abs(), weights)
        scale = torch.sqrt(total / kept)
        plain = (kept <= noise) | (weights == active).all(-1)
        coefficients = torch.where(plain.unsqueeze(-1), active.to(gram.dtype), weights * scale.unsqueeze(-1))
        return torch.where((total == 0).unsqueeze(-1), torch.zeros_like(coefficients), coefficients)

    def _selected(self, gram: Tensor, active: Tensor, ctx: CombineContext) -> Tensor:
        """Which steps are selected, bool `[..., K]`."""
        counts = active.sum(-1)
        wanted = (counts * self.select).to(torch.int64).clamp_min(1)
        if self.rule == "centred":
            return _greedy(_centred(gram, active), active, wanted)
        if self.rule == "greedy":
            return _greedy(gram, active, wanted)
        norms = torch.diagonal(gram, dim1=-2, dim2=-1)
        scores = norms if self.rule == "smallest" else ctx.uniform(gram.shape[-1]).to(gram.dtype).expand_as(norms)
        order = torch.argsort(torch.where(active, scores, torch.inf), dim=-1, stable=True)
        ranks = torch.argsort(order, dim=-1, stable=True)
        return (ranks < wanted.unsqueeze(-1)) & active


def _active(gram: Tensor, ctx: CombineContext) -> Tensor:
    """Which steps were really made: the first `ctx.steps` of K, bool `[..., K]`."""
    positions = torch.arange(gram.shape[-1], device=gram.device)
    return positions < ctx.steps.to(gram.device).unsqueeze(-1)


def _greedy(gram: Tensor, active: Tensor, wanted: Tensor) -> Tensor:
    """The steps whose running sum stays nearest to zero."""
    norms = torch.diagonal(gram, dim1=-2, dim2=-1)
    selected = torch.zeros_like(active)
    along = torch.zeros_like(norms)  # K a: each step's inner product with the running sum
    for taken in range(int(wanted.max()) if wanted.numel() else 0):
        score = torch.where(active & ~selected, 2 * along + norms, torch.inf)
        best = torch.argmin(score, dim=-1, keepdim=True)  # the first of equals
        more = (wanted > taken).unsqueeze(-1)
        selected = selected | (torch.zeros_like(selected).scatter(-1, best, True) & more)
        row = torch.gather(gram, -2, best.unsqueeze(-1).expand(*best.shape, gram.shape[-1])).squeeze(-2)
        along = along + row * more
    return selected & active


def _centred(gram: Tensor, active: Tensor) -> Tensor:
    """The Gram matrix of the steps minus their mean."""
    mask = active.to(gram.dtype)
    count = mask.sum(-1).clamp_min(1)[..., None, None]
    inner = gram * mask.unsqueeze(-1) * mask.unsqueeze(-2)
    rows, columns = inner.sum(-1, keepdim=True) / count, inner.sum(-2, keepdim=True) / count
    return inner - rows - columns + inner.sum((-1, -2), keepdim=True) / count**2
