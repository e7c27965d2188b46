"""The direction of each local step and what is recorded of it: for one client, or for many at once."""

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
        self.kept = [self.optimizer.begin(parameter.detach()) for parameter in parameters]

    def attend(self, work: TrainingInputs) -> None:
        """Takes the rules' memory and context from this work."""
        self.rules.attend(work)

    def keep_front(self, count: int) -> None:
        """Goes on with the first lanes alone."""
        self.parameters = [p[:count] for p in self.parameters]
        self.rules.keep_front(count)
        self.kept = [{name: tensor[:count] for name, tensor in each.items()} for each in self.kept]

    def directions(self, grads: list[Tensor]) -> list[Tensor]:
        """The direction of each parameter in the next step."""
        self.count += 1
        grads, optimizer = self._clipped(self.rules.on_gradients(grads)), self.optimizer
        each = zip(grads, self.parameters, self.kept, strict=True)
        return self.rules.on_steps([optimizer.direction(grad, w, kept, self.count) for grad, w, kept in each])

    def lengths(self, directions: Sequence[Tensor], shared: int) -> Tensor:
        """The length of each shared tensor's direction, `[tensors, ...]`."""
        return torch.stack([self._norm(direction) for direction in directions[:shared]])

    def _norm(self, tensor: Tensor) -> Tensor:
        flat = tensor.reshape(len(tensor), -1) if self.axes else tensor.reshape(-1)
        norm: Tensor = torch.linalg.vector_norm(flat, dim=-1)
        return norm

    def _clipped(self, grads: list[Tensor]) -> list[Tensor]:
        """The gradients, shortened together to the length `clip_gradient`."""
        if self.longest is None:
            return grads
        norm = torch.linalg.vector_norm(torch.stack([self._norm(g) for g in grads]), dim=0)
        factor = (self.longest / norm).clamp_max(1.0)
        return [grad * factor.view(factor.shape + (1,) * (grad.ndim - self.axes)) for grad in grads]


class StepStatistics:
    """The number, sizes and learning rates of one client's steps.

    effective_lr: what the same loop makes of a gradient that is always 1, pulled back as FedProx pulls.
    """

    def __init__(self, momentum_rule: tuple[float, bool], proximal: float) -> None:
        self.momentum, self.nesterov = momentum_rule
        self.proximal = proximal
        self.effective_lr = self.lr_sum = self._unit_velocity = 0.0
        self.sizes: list[int] = []

    def step(self, examples: int, lr: float) -> None:
        """One more step."""
        self.sizes.append(examples)
        unit = 1.0 - self.proximal * self.effective_lr
        self._unit_velocity = self.momentum * self._unit_velocity + unit
        self.effective_lr += lr * (unit + self.momentum * self._unit_velocity if self.nesterov else self._unit_velocity)
        self.lr_sum += lr

    @property
    def count(self) -> int:
        """How many steps."""
        return len(self.sizes)

    def mean_loss(self, losses: Sequence[float]) -> float:
        """The mean of the steps' losses over the examples used."""
        return sum(loss * size for loss, size in zip(losses, self.sizes, strict=True)) / sum(self.sizes)
