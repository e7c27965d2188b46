"""Reasons why clients cannot train as one batched program."""

from __future__ import annotations

from torch import nn

from headway.model.flat_module import FlatModule
from headway.training.loop_trainer import LoopTrainer
from headway.training.trainer import Trainer

RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def why_not(trainer: Trainer, flat_module: FlatModule) -> str | None:
    """The reason why clients cannot train as one program, as a phrase; `None` if they can."""
    if not isinstance(trainer, LoopTrainer):
        return f"{type(trainer).__name__} has a loop of its own"
    if trainer.plan.loss_term is not None:
        return f"{type(trainer.plan.loss_term).__name__} looks at each client's last model"
    if flat_module.personal.numel():
        return "a part of the model stays with each client"
    once = {id(parameter) for parameter in flat_module.module.parameters()}
    if len(once) < sum(1 for _ in flat_module.module.named_parameters(remove_duplicate=False)):
        return "a parameter is in two places of the model"
    for name, module in flat_module.module.named_modules():
        if isinstance(module, RECURRENT):
            return f"{name} is recurrent"
    if buffer := next(iter(dict(flat_module.module.named_buffers())), None):
        return f"the model keeps statistics ({buffer})"
    return None
