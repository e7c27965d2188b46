"""The server's state: all that it keeps between rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from headway.core.update import Tensors, flat_names, unflat_names


@dataclass(frozen=True, slots=True)
class State:
    """All that the server keeps between rounds.

    round: rounds completed.  params: the model `[P]` that the next round starts from.
    buffers: averaged buffers `[B]`, if the task has them.  stages: each stage's own state.
    """

    round: int
    params: Tensor
    stages: Mapping[str, Tensors] = field(default_factory=dict)
    buffers: Tensor | None = None

    @property
    def model(self) -> Tensor:
        """The model `[P]` to evaluate, keep and export: `params`, or that of a stage which has one, as `model`."""
        own = [kept["model"] for kept in self.stages.values() if "model" in kept]
        return own[-1] if own else self.params

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under flat names; `from_tensors` takes them back."""
        return flat_names(self.params, self.buffers, self.stages, "stages/")

    @classmethod
    def from_tensors(cls, round: int, named: Mapping[str, Tensor]) -> State:
        """The state of these tensors."""
        params, buffers, stages = unflat_names(named, "stages/")
        return cls(round, params, stages, buffers)
