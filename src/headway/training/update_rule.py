"""What a local step moves along, and what is remembered of it: for one client, or for many side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headway.training.step_rules import StepRules
from headway.training.trainer import TrainingInputs

if TYPE_CHECKING:
    from headway.training.local_sgd import LocalSGD


class UpdateRule:
    """The direction of each step: gradients after the chain's rules, clipping, decay and momentum, steered.

    parameters: the model's, shared ones first, each `[*shape]` or, with lanes, `[C, *shape]`; they are moved in place.
    flats: the shared ones again, each as `[..., numel]`.  lanes: whether the first axis is clients.
    """

    def __init__(
        self,
        trainer: LocalSGD,
        work: TrainingInputs,
        parameters: Sequence[Tensor],
        flats: Sequence[Tensor],
        lanes: bool = False,
    ) -> None:
        self.trainer, self.parameters, self.rules = trainer, parameters, StepRules(work, flats)
        self.axes = 1 if lanes else 0
        self.velocity = [torch.zeros_like(p) for p in parameters] if trainer.momentum else []

    def attend(self, work: TrainingInputs) -> None:
        """Takes the rules' memory and context from this work."""
        self.rules.attend(work)

    def keep_front(self, count: int) -> None:
        """Goes on with the first lanes alone."""
        self.parameters = [p[:count] for p in self.parameters]
        self.rules.keep_front(count)
        self.velocity = [v[:count] for v in self.velocity]

    def directions(self, grads: list[Tensor]) -> list[Tensor]:
        """What each parameter moves along."""
        return self.rules.on_steps(self._heavy(grads))

    def lengths(self, directions: Sequence[Tensor], shared: int) -> Tensor:
        """The length of each shared tensor's direction, `[tensors, ...]`."""
        return torch.stack([self._norm(direction) for direction in directions[:shared]])

    def _norm(self, tensor: Tensor) -> Tensor:
        flat = tensor.reshape(len(tensor), -1) if self.axes else tensor.reshape(-1)
        norm: Tensor = torch.linalg.vector_norm(flat, dim=-1)
        return norm

    def _heavy(self, grads: list[Tensor]) -> list[Tensor]:
        """The gradients after rules, clipping, decay and momentum."""
        t, parameters = self.trainer, self.parameters
        grads = self.rules.on_gradients(grads)
        if t.clip_gradient is not None:
            norm = torch.linalg.vector_norm(torch.stack([self._norm(g) for g in grads]), dim=0)
            factor = (t.clip_gradient / norm).clamp_max(1.0)
            grads = [grad * factor.view(factor.shape + (1,) * (grad.ndim - self.axes)) for grad in grads]
        if t.weight_decay:
            grads = [torch.add(g, p, alpha=t.weight_decay) for g, p in zip(grads, parameters, strict=True)]
        if not t.momentum:
            return grads
        for velocity, grad in zip(self.velocity, grads, strict=True):
            velocity.mul_(t.momentum).add_(grad)
        if not t.nesterov:
            return self.velocity
        return [torch.add(g, v, alpha=t.momentum) for g, v in zip(grads, self.velocity, strict=True)]


class StepStatistics:
    """What the stages and the report will want to know of one client's steps.

    gain: what the same loop makes of a gradient that is always 1, pulled back as FedProx pulls.
    """

    def __init__(self, momentum: float, nesterov: bool, proximal: float) -> None:
        self.momentum, self.nesterov, self.proximal = momentum, nesterov, proximal
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
