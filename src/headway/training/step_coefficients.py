"""The combination of a client's steps: the coefficients that the chain's combining stage gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from headway.core.chain import Chain, at
from headway.core.context import ClientContext, CombineContext, StepContext
from headway.core.flow import Flow
from headway.numerics.gram import quadratic
from headway.training.step_storage import add_steps, gram_of
from headway.training.trainer import Trained


class StepCombination:
    """The combining stage of a chain, applied to the steps of one client, or of many.

    flows: the facts after each stage.  measure: whether the lengths of the steps are recorded.
    """

    def __init__(self, chain: Chain, flows: Sequence[Flow], measure: bool = False) -> None:
        self.chain, self.flows, self.measure = chain, flows, measure

    def coefficients(
        self, gram: Tensor, ctx: StepContext | ClientContext, steps: Tensor, movement: Tensor | None = None
    ) -> Tensor:
        """The coefficients `[..., K]` that the chain's combining stage gives steps with this Gram matrix `[..., K, K]`.

        steps: their number.  movement: their sum, whose length suffers no cancellation, where it is at hand.
        """
        assert self.chain.combiner is not None
        label, stage = self.chain.combiner
        if movement is None:
            made = torch.arange(gram.shape[-1], device=gram.device) < steps.to(gram.device).unsqueeze(-1)
            squared = quadratic(gram, made.to(gram.dtype)).clamp_min(0.0)
        else:
            squared = torch.linalg.vector_norm(movement, dim=-1, dtype=gram.dtype) ** 2
        here = CombineContext(
            round=ctx.round,
            key=ctx.key,
            layout=ctx.layout,
            flow=ctx.flow,
            global_params=ctx.global_params,
            examples=ctx.examples,
            steps=steps,
            squared_movement=squared,
        )
        return stage.combine(gram, at(here, label, {}, self.flows, self.chain.labels.index(label)))

    def combined(self, trained: Trained, ctx: ClientContext) -> tuple[Trained, Tensor]:
        """The delta, the steps with the coefficients that the chain gives them; and how long they were."""
        steps = trained.steps
        if steps is None or not torch.as_tensor(trained.count).any():
            return trained, trained.movement
        gram = gram_of(steps)
        coefficients = self.coefficients(gram, ctx, ctx.steps, ctx.movement)
        if self.measure:
            trained = replace(trained, squares=gram.diagonal(dim1=-2, dim2=-1).cpu())
        if bool((coefficients == 1).all()):
            return trained, trained.movement
        return trained, add_steps(trained.movement, steps, coefficients)
