"""Terms that a method adds to the task's loss from the model's representations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import logsigmoid

from headway.client_state.store import TRAINER
from headway.core.errors import ConfigError, nearest
from headway.core.fields import at_least, positive
from headway.core.registry import Plain, Registry
from headway.core.update import Tensors
from headway.model.flat_module import FlatModule
from headway.training.training_inputs import TrainingInputs

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LossTerm(Plain, ABC):
    """A term that each local step adds to the task's loss.

    A frozen dataclass of plain values, as a stage is: a trainer that takes one adds it to the mean loss of
    every batch, before the chain's step rules see the gradient.
    """

    registry: ClassVar[Registry[LossTerm]] = Registry("term", "headway.terms")

    @abstractmethod
    def check(self, flat_module: FlatModule) -> None:
        """Refuses a model that the term cannot look into."""

    @abstractmethod
    def begin(self, work: TrainingInputs) -> Forward | None:
        """At the start of a client's round: what maps a batch's inputs to the model's outputs and the term's
        value over the batch.  `None` where the term has no effect in this round."""

    def keep(self, flat_module: FlatModule) -> Tensors:
        """At its end: what the client has_client_state for the term, if its update is counted."""
        return {}

    @property
    def has_client_state(self) -> bool:
        """Whether the term needs client memory."""
        return type(self).keep is not LossTerm.keep


@final
@LossTerm.registry.register
@dataclass(frozen=True)
class Moon(LossTerm):
    """Model-contrastive learning: what the client sees in an example stays near to what the global model sees in
    it, and away from what the client's own last model saw.

    Formula, per example, added to the task's loss:

        mu * -log( e^{cos(z, z_g) / t} / (e^{cos(z, z_g) / t} + e^{cos(z, z_p) / t}) )

    z, z_g and z_p are the representations by the model in training, by the global model at the start of the
    round, and by the client's model at the end of the last round in which it was counted.  The last two are
    fixed.  Shapes: z `[B, ...]`, taken as `[B, d]`.  The cosine with a representation of zero is 0.

    At a client that takes part for the first time z_p = z_g: the term is mu log 2 whatever z, its gradient is
    zero, and it is left out, so that this round is FedAvg exactly; so is mu = 0 always.  The training loss
    that is reported is the task's alone.

    mu: weight of the term, no unit.  temperature: t.
    representation: the name of the submodule whose output is z, as in `model.named_modules()`; `None` for what
        enters the model's last linear layer, which in a model with a projection head is the head's output.
    The client has_client_state P numbers: its last model (and that model's statistics, where a task averages them).

    Raises:
        ConfigError: unless mu >= 0 and temperature > 0; before training, if there is no such submodule.

    Reference: Li, He, Song, arXiv 2103.16257, equation (3) and Algorithm 1.
    Differs from the authors' code, where the fixed models stay in training mode, so that their BatchNorm
    statistics go on moving and their dropout draws: here they are in evaluation mode.  There a client's first
    z_p comes from another random network.

    >>> Moon(mu=5.0)
    Moon(mu=5.0, temperature=0.5, representation=None)
    """

    mu: float = at_least(0, 1.0)
    temperature: float = positive(0.5)
    representation: str | None = None

    def check(self, flat_module: FlatModule) -> None:
        """Refuses a model without the submodule, with the names of those that there are."""
        self._reader(flat_module.module)

    def begin(self, work: TrainingInputs) -> Forward | None:
        """The model with its contrast; nothing before the client has a model of its own."""
        own, flat_module = work.memory.get(TRAINER, {}), work.flat_module
        if not self.mu or "previous" not in own:
            return None
        fixed = flat_module.frozen_copy()
        past: dict[str, Tensor] = flat_module.layout.views(own["previous"])
        if "previous statistics" in own:
            past |= flat_module.statistics_layout.views(own["previous statistics"])
        read, read_fixed = self._reader(flat_module.module), self._reader(fixed)

        def forward(inputs: Tensor) -> tuple[Tensor, Tensor]:
            outputs, z = read(lambda: flat_module.module(inputs))
            with torch.no_grad():
                _, z_global = read_fixed(lambda: fixed(inputs))
                _, z_previous = read_fixed(lambda: functional_call(fixed, past, (inputs,)))
            return outputs, self.mu * contrast(z, z_global, z_previous, self.temperature)

        return forward

    def keep(self, flat_module: FlatModule) -> Tensors:
        """The trained model, with its statistics where they would be lost."""
        if not self.mu:
            return {}
        kept = {"previous": flat_module.shared.clone()}
        if flat_module.has_statistics and flat_module.task.buffers == "average":
            kept["previous statistics"] = flat_module.statistics()
        return kept

    def _reader(self, module: nn.Module) -> Callable[[Callable[[], Tensor]], tuple[Tensor, Tensor]]:
        """The function that calls the module and returns its outputs and the representation `[B, d]`."""
        name, part, entering = self._part(module)

        def read(call: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
            seen: list[Tensor] = []
            hook = part.register_forward_hook(lambda _, given, made: seen.append(given[0] if entering else made))
            try:
                outputs = call()
            finally:
                hook.remove()
            if not seen or not isinstance(seen[-1], Tensor) or seen[-1].shape[:1] != outputs.shape[:1]:
                raise ConfigError(
                    f"Moon.representation: the submodule {name!r} must give one representation per example, "
                    f"[{outputs.shape[0]}, ...]; {'it was not called' if not seen else 'it gave something else'}."
                )
            return outputs, seen[-1].flatten(1)

        return read

    def _part(self, module: nn.Module) -> tuple[str, nn.Module, bool]:
        """The submodule, its name, and whether what enters it is meant."""
        named = {name: part for name, part in module.named_modules() if name}
        if self.representation is None:
            linear = [name for name, part in named.items() if isinstance(part, nn.Linear)]
            if linear:
                return linear[-1], named[linear[-1]], True
            raise ConfigError(
                "Moon needs a representation, and the model has no linear layer whose input it could be: give "
                f"representation = the name of a submodule, one of {', '.join(named) or 'none'}."
            )
        if self.representation not in named:
            raise ConfigError(
                f"Moon.representation: the model has no submodule {self.representation!r}"
                f"{nearest(self.representation, named)}; it has {', '.join(named) or 'none'}."
            )
        return self.representation, named[self.representation], False


def contrast(z: Tensor, z_global: Tensor, z_previous: Tensor, temperature: float) -> Tensor:
    """The mean over a batch `[B, d]` of `-log(e^{a/t} / (e^{a/t} + e^{b/t}))`, a and b being the two cosines.

    >>> z = torch.tensor([[1.0, 0.0]])
    >>> round(float(contrast(z, 3 * z, 2 * z, 0.5)), 6)
    0.693147
    """
    difference = (_cosine(z, z_global) - _cosine(z, z_previous)) / temperature
    return -logsigmoid(difference).mean()


def _cosine(z: Tensor, fixed: Tensor) -> Tensor:
    """The cosines `[B]` of two batches of vectors; 0, with gradient 0, where one of them is zero."""
    there = (torch.linalg.vector_norm(z.detach(), dim=1) > 0) & (torch.linalg.vector_norm(fixed, dim=1) > 0)
    one, other = (torch.where(there.unsqueeze(1), v, 1.0) for v in (z, fixed))
    one = one / torch.linalg.vector_norm(one, dim=1, keepdim=True)
    other = other / torch.linalg.vector_norm(other, dim=1, keepdim=True)
    return torch.where(there, (one * other).sum(1), 0.0)
