"""The direction of each local step: for one client, or for many at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headway.training.loop_plan import LoopPlan
from headway.training.step_rules import StepRules
from headway.training.training_inputs import TrainingInputs


class UpdateRule:
    """The direction of each step: gradients after the chain's rules, clipping and the optimizer, then the chain's rules
    for directions.

    parameters: the model's, shared ones first, each `[*shape]` or, with lanes, `[C, *shape]`; they are moved in place.
    flats: the shared ones again, each as `[..., numel]`.  lanes: whether the first axis is clients.
    """

    def __init__(
        self,
        plan: LoopPlan,
        work: TrainingInputs,
        parameters: Sequence[Tensor],
        flats: Sequence[Tensor],
        lanes: bool = False,
    ) -> None:
        self.optimizer, self.longest = plan.optimizer, plan.options.clip_gradient
        self.parameters, self.rules = parameters, StepRules(work, flats)
        self.axes = 1 if lanes else 0
        self.count = 0
        self.plain = plan.plain
        self.kept = [] if self.plain else [self.optimizer.begin(parameter.detach()) for parameter in parameters]

    def attend(self, work: TrainingInputs) -> None:
        """Takes the rules' memory and context from this work."""
        self.rules.attend(work)

    def keep_front(self, count: int) -> None:
        """Goes on with the first lanes only."""
        self.parameters = [p[:count] for p in self.parameters]
        self.rules.keep_front(count)
        self.kept = [{name: tensor[:count] for name, tensor in each.items()} for each in self.kept]

    def directions(self, grads: list[Tensor]) -> list[Tensor]:
        """The direction of each parameter in the next step."""
        self.count += 1
        if self.rules.gradient:
            grads = self.rules.on_gradients(grads)
        if self.longest is not None:
            grads = self._clipped(grads, self.longest)
        if not self.plain:
            direction, each = self.optimizer.direction, zip(grads, self.parameters, self.kept, strict=True)
            grads = [direction(grad, w, kept, self.count) for grad, w, kept in each]
        return self.rules.on_steps(grads) if self.rules.step else grads

    def lengths(self, directions: Sequence[Tensor], shared: int) -> Tensor:
        """The length of each shared tensor's direction, `[tensors, ...]`."""
        return torch.stack([self._norm(direction) for direction in directions[:shared]])

    def _norm(self, tensor: Tensor) -> Tensor:
        flat = tensor.reshape(len(tensor), -1) if self.axes else tensor.reshape(-1)
        norm: Tensor = torch.linalg.vector_norm(flat, dim=-1)
        return norm

    def _clipped(self, grads: list[Tensor], longest: float) -> list[Tensor]:
        """The gradients, shortened together to the length `clip_gradient`."""
        norm = torch.linalg.vector_norm(torch.stack([self._norm(g) for g in grads]), dim=0)
        factor = (longest / norm).clamp_max(1.0)
        return [grad * factor.view(factor.shape + (1,) * (grad.ndim - self.axes)) for grad in grads]
