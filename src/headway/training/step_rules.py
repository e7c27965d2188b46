"""The chain's rules for local steps, as any training loop applies them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headway.core.context import StepContext, slice_tensors
from headway.core.errors import ConfigError
from headway.core.flow import StepRule
from headway.core.stage import Stage
from headway.core.update import Tensors
from headway.training.trainer import TrainingInputs

Rule = tuple[str, Stage, Tensors, StepContext]


class StepRules:
    """The rules of a chain on each shared tensor: for one client, or for many side by side.

    flats: the shared parameters as `[..., numel]`, views of what the loop moves.
    """

    def __init__(self, work: TrainingInputs, flats: Sequence[Tensor]) -> None:
        self.work, self.trace, self.flats = work, work.trace, flats
        self.attend(work)

    def attend(self, work: TrainingInputs) -> None:
        """Takes the rules' memory and context from this work."""
        self._gradient, self._step = _rules_per_tensor(work, "gradient"), _rules_per_tensor(work, "step")
        self.work.applied.update(("gradient", "step"))

    def keep_front(self, count: int) -> None:
        """Goes on with the first lanes alone."""
        self.flats = [flat[:count] for flat in self.flats]

    def on_gradients(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """The gradients after the rules for gradients; grads: in the order of the module's parameters, of which the
        shared ones come first and no rule knows the others."""
        return self._ruled(grads, self._gradient)

    def on_steps(self, directions: Sequence[Tensor]) -> list[Tensor]:
        """The same of the directions of a step, after the rules that are for these."""
        return self._ruled(directions, self._step)

    def apply(self) -> None:
        """Puts the rules for gradients on the `grad` of each of the model's parameters, between `loss.backward()` and
        `optimizer.step()`.

        Raises:
            ConfigError: if a shared parameter has no gradient.
        """
        parameters = self.work.flat_module.parameters
        grads = [parameter.grad for parameter in parameters[: len(self.flats)]]
        if any(grad is None for grad in grads):
            raise ConfigError("step_rules(work).apply() needs gradients: call it after loss.backward().")
        with torch.no_grad():
            ruled = self.on_gradients([grad for grad in grads if grad is not None])
        for parameter, grad in zip(parameters, ruled, strict=False):
            parameter.grad = grad

    def _ruled(self, given: Sequence[Tensor], rules: list[list[Rule]]) -> list[Tensor]:
        if not rules:
            return list(given)
        ruled = [self._one(v, w, own) for v, w, own in zip(given, self.flats, rules, strict=False)]
        return ruled + list(given[len(ruled) :])

    def _one(self, value: Tensor, w: Tensor, rules: list[Rule]) -> Tensor:
        """One tensor's gradient, or direction, after its rules."""
        flat = value.reshape(w.shape)
        for label, stage, memory, ctx in rules:
            self.trace.enter(f"{label}.step", grad=flat, w=w, **memory)
            flat = stage.step(flat, w, memory, ctx)
        return flat.view(value.shape)


def step_rules(work: TrainingInputs) -> StepRules:
    """The rules for local steps of the chain that a trainer works for, made once for a client's round.

    A training loop of your own applies them in one line, and its `facts` say so with
    `TrainerFacts(..., applies=frozenset({"gradient"}))`:

        rules = step_rules(work)
        for batch in batches:
            ...
            loss.backward()
            rules.apply()
            optimizer.step()

    A loop that has its gradients in a list calls `rules.on_gradients(grads)`.  Rules for the direction of a step
    (Scaffold(correct="step")) need a loop that has one: `rules.on_steps(directions)`, and "step" among what it applies.
    """
    return StepRules(work, work.flat_module.layout.slices(work.flat_module.shared))


def _rules_per_tensor(work: TrainingInputs, kind: StepRule) -> list[list[Rule]]:
    """For every shared tensor, the step rules of a kind with memory and context sliced to it."""
    layout = work.flat_module.layout
    chosen = [(label, stage) for label, stage in work.chain.step_rules if stage.step_rule == kind]
    if not chosen:
        return []
    contexts = [(label, stage, work.context(label)) for label, stage in chosen]
    rules: list[list[Rule]] = []
    for entry in layout.entries:
        start, stop = entry.offset, entry.offset + entry.numel
        rules.append(
            [
                (
                    label,
                    stage,
                    slice_tensors(work.memory.get(label, {}), start, stop, layout.size),
                    ctx.sliced(start, stop),
                )
                for label, stage, ctx in contexts
            ]
        )
    return rules
