"""The inputs of a trainer: the model, the client's examples, and what the chain asks of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from headway.core.chain import Chain, Labelled, at
from headway.core.context import StepContext
from headway.core.flow import Flow
from headway.data import Examples
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key, Keys
from headway.training.call_trace import CallTrace
from headway.training.client_steps import ClientSteps

GradientFunction = Callable[[Tensor, Tensor, int, int], tuple[list[Tensor], Tensor] | None]
"""The gradients of a batch's mean loss, in the order of the module's parameters, and the loss: of inputs, targets,
dropout's key and the number of the step; `None` for a batch that it does not take."""


@dataclass(frozen=True, slots=True)
class TrainingInputs:
    """The inputs of a trainer: the loaded flat module, the client's examples, and the chain's step rules.

    ctx: the client's context of this round; memory and broadcast: of each stage.  In lanes context,
        memory and key are of many clients, `[C, ...]`, and the examples those of all clients.
    flows: the facts after each stage; the last one has what the stages need of the trainer.
    key: the client's own in this round.  trace: the record of what is called next.
    applied: the kinds of step rules that the trainer has made ready (see `headway.training.step_rules`).
    measure: whether the lengths of the single steps are wanted; that must not change what is trained.
    steps: how many the client makes, where the trainer does not set it.
    dropout: of one client, the key of its dropout.  stage_keys: of one client, each stage's key, by its label;
        step_contexts: the contexts of a stage for each shared tensor, but for the client's own key and examples.
    client_steps: of one client, its local steps, where the trainer has worked them out for a group.
    gradients: what gives the gradients of its steps, if not the model's own forward and backward pass.
    """

    flat_module: FlatModule
    examples: Examples
    chain: Chain
    ctx: StepContext
    memory: Labelled
    broadcast: Labelled
    flows: tuple[Flow, ...]
    key: Key | Keys
    trace: CallTrace
    measure: bool = False
    steps: int | None = None
    gradients: GradientFunction | None = None
    applied: set[str] = field(default_factory=set)
    dropout: int = 0
    stage_keys: Mapping[str, Key] | None = None
    step_contexts: Mapping[str, Sequence[StepContext]] | None = None
    client_steps: ClientSteps | None = None

    def context(self, label: str) -> StepContext:
        """The context as the stage of this label sees it."""
        key = None if self.stage_keys is None else self.stage_keys[label]
        return at(self.ctx, label, self.broadcast, self.flows, self.chain.labels.index(label), key)
