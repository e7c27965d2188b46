"""FunctionTrainer: a local trainer that calls a function of the user."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from headway.core.errors import ConfigError
from headway.core.flow import TrainerFacts
from headway.core.plugins import NamedRegistry
from headway.data import Examples
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key
from headway.training.trainer import Trained, Trainer, trainers
from headway.training.training_inputs import TrainingInputs


@dataclass(frozen=True, slots=True)
class TrainingCall:
    """The round and the seed of one call of a training function.

    round: rounds that are complete.  seed: of the client in this round, for a generator of its own.
    """

    round: int
    seed: int


TrainingFunction = Callable[[nn.Module, Examples, TrainingCall], float | Mapping[str, float]]
TRAINING_FUNCTIONS: NamedRegistry[TrainingFunction] = NamedRegistry("training function", "headway.training_functions")


@final
@trainers.register
@dataclass(frozen=True)
class FunctionTrainer(Trainer):
    """Local training by a function of one's own, with whatever loop and library it likes.

    function: the name under which the function is registered on the machine that trains: each agent may have another
        behind the same name, and none has to be known at the server.

    The function is called as `function(model, examples, call)`, trains the model in place, and returns the mean loss,
    or a mapping with "loss" and, if it is known, "steps".  `examples` has `inputs` and `targets`, `call` the `round`
    and a `seed`; torch's, NumPy's and Python's generators are seeded before each call.  Parameters that stay with
    the client are kept for it; what an optimizer keeps is the function's own affair and starts anew.

    Nothing is known of its single steps: stages that combine, correct or count them are refused (ECGR, FedProx,
    Scaffold, FedNova), and so are measurements before training.

    Raises:
        ConfigError: without a name.

    >>> FunctionTrainer("mine").facts.offers
    frozenset()
    """

    function: str = "training"

    def __post_init__(self) -> None:
        if not self.function:
            raise ConfigError("FunctionTrainer.function must be the name of a registered training function.")

    @property
    def facts(self) -> TrainerFacts:
        """No steps, no measurements, no rules for steps."""
        steps = f"those of the function {self.function!r}, which nobody sees"
        return TrainerFacts("FunctionTrainer", steps=steps, linear=False, optimizer=f"the function {self.function!r}")

    def drops(self, client_key: Key) -> bool:
        """No client is a straggler."""
        return False

    def check(self, flat_module: FlatModule) -> None:
        """Refuses, where clients train, a function that is not registered there.

        Raises:
            ConfigError: with those that are.
        """
        TRAINING_FUNCTIONS.find(self.function)

    def train(self, work: TrainingInputs) -> Trained:
        """The result of one call of the function."""
        flat_module, start = work.flat_module, work.flat_module.shared.clone()
        wanted = [(parameter, parameter.requires_grad) for parameter in flat_module.parameters]
        views = [parameter.data for parameter in flat_module.parameters]
        flat_module.module.train()
        call = TrainingCall(int(work.ctx.round), work.key.derive("function").seed())  # type: ignore[union-attr]
        work.trace.enter(f"the training function {self.function!r}", inputs=work.examples.inputs)
        returned = TRAINING_FUNCTIONS.find(self.function)(flat_module.module, work.examples, call)
        loss, steps = self._figures(returned)
        for (parameter, trained), view in zip(wanted, views, strict=True):
            if parameter.data_ptr() != view.data_ptr():  # the function has put another tensor in its place
                view.copy_(parameter.data)
                parameter.data = view
            parameter.grad = None
            parameter.requires_grad_(trained)
        return Trained(flat_module.shared - start, steps, 0.0, 0.0, loss)

    def _figures(self, returned: Any) -> tuple[float, int]:
        """The loss and the number of steps that a function has returned."""
        named = returned if isinstance(returned, Mapping) else {"loss": returned}
        try:
            loss, steps = float(named["loss"]), int(named.get("steps", 1))
        except (KeyError, TypeError, ValueError):
            loss, steps = math.nan, 0
        if not math.isfinite(loss) or steps < 1:
            raise ConfigError(
                f'the training function {self.function!r} must return the mean loss, or {{"loss": ..., "steps": ...}} '
                f"with a finite loss and at least one step, found {str(returned)[:100]}."
            )
        return loss, steps
