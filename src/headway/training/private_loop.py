"""The local loop of one client that is private for each of its examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from headway.core.errors import ConfigError
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key
from headway.training.client_steps import ClientSteps, StepStatistics
from headway.training.clipped_gradients import ClippedGradients
from headway.training.example_privacy import TRAINER, ExamplePrivacy, poisson_batches
from headway.training.gradient_noise import GradientNoise
from headway.training.local_loop import HasPlan, train_by_plan
from headway.training.loop_plan import LoopPlan
from headway.training.sgd_options import Batch
from headway.training.trainer import Trained
from headway.training.training_inputs import TrainingInputs


def check_layers(flat_module: FlatModule) -> None:
    """Refuses layers that mix the examples of a batch, or keep statistics of them.

    Raises:
        ConfigError: naming the layer.
    """
    for name, part in flat_module.module.named_modules():
        mixes = isinstance(part, _BatchNorm) or (isinstance(part, _NormBase) and part.track_running_stats)
        if mixes and name not in flat_module.still:
            raise ConfigError(
                "DPSGD needs a model in which no example depends on the others of its batch, since the noise is "
                f"sized for one example's gradient, found {type(part).__name__} ({name or 'the model itself'}), "
                "whose statistics are of the whole batch: put nn.GroupNorm in its place, or freeze its parameters."
            )


def train_privately(trainer: HasPlan, privacy: ExamplePrivacy, work: TrainingInputs) -> Trained:
    """Runs the local loop of a trainer with the gradients of DP-SGD, and where they are Poisson samples its batches."""
    examples = len(work.examples)
    private = work.ctx.private.derive(TRAINER)
    assert isinstance(private, Key)
    noise = GradientNoise(privacy, private, privacy.denominator(examples))
    work = replace(work, gradients=PrivateGradients(work.flat_module, privacy, noise, examples))
    if privacy.sample_rate is not None:
        steps = privacy.steps if work.steps is None else work.steps
        batches = poisson_batches(private, examples, privacy.sample_rate, steps)
        work = replace(work, client_steps=_steps(trainer.plan, batches, int(work.ctx.round), work.flows[-1].proximal))
    return train_by_plan(trainer, work)


def _steps(plan: LoopPlan, batches: Sequence[Tensor], round_: int, proximal: float) -> ClientSteps:
    """The local steps with these batches."""
    rule = plan.momentum_rule
    statistics, free = StepStatistics(rule, proximal), StepStatistics(rule, 0.0)
    made: list[list[Batch]] = []
    for step, batch in enumerate(batches):
        lr = plan.learning_rate(step, round_)
        made.append([(0, len(batch), lr)])
        statistics.step(len(batch), lr)
        free.step(len(batch), lr)
    return ClientSteps(made, True, statistics, free, batches)


class PrivateGradients:
    """The gradients of one client's steps, clipped for each example, with noise."""

    def __init__(self, flat_module: FlatModule, privacy: ExamplePrivacy, noise: GradientNoise, examples: int) -> None:
        self.flat_module, self.noise = flat_module, noise
        self.weight = 1 / privacy.denominator(examples)
        self.clipped = ClippedGradients(flat_module, privacy.clip_norm)
        names = {id(parameter): name for name, parameter in flat_module.module.named_parameters()}
        self.names = [names[id(parameter)] for parameter in flat_module.parameters]

    def __call__(self, inputs: Tensor, targets: Tensor, dropout: int, step: int) -> tuple[list[Tensor], Tensor]:
        """The noised gradients in the order of the module's parameters, and the batch's loss, which has no noise."""
        parameters = {
            name: parameter.detach().unsqueeze(0)
            for name, parameter in zip(self.names, self.flat_module.parameters, strict=True)
        }
        weights = self.flat_module.shared.new_full((1, len(inputs)), self.weight)
        keys = torch.tensor([dropout], device=weights.device)
        sums, losses = self.clipped(
            parameters, inputs.unsqueeze(0), targets.unsqueeze(0), weights, keys, torch.tensor(step)
        )
        return self.noise.added([sums[name][0] for name in self.names], step), losses[0]
