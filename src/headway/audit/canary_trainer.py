"""Canary clients: instead of training, each sends a random direction that only the auditor knows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from headway.core.flow import TrainerFacts
from headway.numerics.keys import Key
from headway.training.trainer import Trained, Trainer
from headway.training.training_inputs import TrainingInputs


def direction(key: Key, size: int) -> Tensor:
    """A vector `[size]` of length 1 in a uniformly random direction, a pure function of the key."""
    generator = torch.Generator().manual_seed(key.derive("canary").seed())
    drawn = torch.randn(size, generator=generator)
    length: Tensor = torch.linalg.vector_norm(drawn, dtype=torch.float64).float()
    return drawn / length


def is_canary(key: Key, share: float) -> bool:
    """Whether the client of this key is a canary in this round; the others send nothing."""
    return key.derive("silent").unit() < share


@final
@dataclass(frozen=True)
class CanaryTrainer(Trainer):
    """Stands in for the trainer of a run: its result is a random direction, or nothing at all.

    kept: the facts of the run's own trainer.  length: of a canary; larger than the bound of the chain, so that its clip
    has to work.  share: of the cohort that are canaries; the others do not move.
    """

    kept: TrainerFacts = TrainerFacts("LocalSGD")
    length: float = 1.0
    share: float = 1.0

    @property
    def facts(self) -> TrainerFacts:
        """As those of the run's trainer, without memory; all rules are applied to what has no steps."""
        return replace(self.kept, name="canary clients", applies=frozenset({"gradient", "step"}), memory=False)

    def drops(self, client_key: Key) -> bool:
        """No canary straggles."""
        return False

    def train(self, work: TrainingInputs) -> Trained:
        """The canary of this client in this round."""
        assert isinstance(work.key, Key)
        size, number = work.flat_module.layout.size, work.flat_module.shared.dtype
        moved = torch.zeros(size, dtype=number)
        if is_canary(work.key, self.share):
            moved = (direction(work.key, size) * self.length).to(number)
        work.applied.update(("gradient", "step"))
        needs = work.flows[-1].needs
        return Trained(
            movement=moved,
            count=1,
            effective_lr=1.0,
            lr_sum=1.0,
            loss=0.0,
            steps=moved.unsqueeze(0).clone() if "steps" in needs else None,
            measurements={name: _measured(name, size) for name in needs - {"steps"}},
        )


def _measured(name: str, size: int) -> Tensor:
    """What a client that holds nothing would measure."""
    return torch.zeros(size) if "gradient" in name else torch.zeros((), dtype=torch.float64)
