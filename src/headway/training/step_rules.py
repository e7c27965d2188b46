"""The chain's rules for local steps, as any training loop applies them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from headway.core.context import StepContext
from headway.core.errors import ConfigError
from headway.core.stage import Stage
from headway.core.update import Tensors
from headway.training.training_inputs import TrainingInputs

Rule = tuple[str, Stage, Sequence[Tensors], Sequence[StepContext]]
"""A stage with a rule for local steps, its label, and its memory and context for each shared tensor."""


class StepRules:
    """The rules of a chain on each shared tensor: for one client, or for many at once.

    flats: the shared parameters as `[..., numel]`, views of what the loop moves.
    gradient, step: the rules for gradients, and for directions.
    """

    def __init__(self, work: TrainingInputs, flats: Sequence[Tensor]) -> None:
        self.work, self.trace, self.flats = work, work.trace, flats
        self.attend(work)

    def attend(self, work: TrainingInputs) -> None:
        """Takes the rules' memory and context from this work."""
        chain = work.chain
        self.gradient = _rules(work, chain.gradient_rules) if chain.gradient_rules else []
        self.step = _rules(work, chain.direction_rules) if chain.direction_rules else []
        self.work.applied.update(("gradient", "step"))

    def keep_front(self, count: int) -> None:
        """Goes on with the first lanes only."""
        self.flats = [flat[:count] for flat in self.flats]

    def on_gradients(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """The gradients after the rules for gradients; grads: in the order of the module's parameters, of which the
        shared ones come first and no rule knows the others."""
        return self._ruled(grads, self.gradient) if self.gradient else list(grads)

    def on_steps(self, directions: Sequence[Tensor]) -> list[Tensor]:
        """The same of the directions of a step, after the rules that are for these."""
        return self._ruled(directions, self.step) if self.step else list(directions)

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

    def _ruled(self, given: Sequence[Tensor], rules: Sequence[Rule]) -> list[Tensor]:
        """Each shared tensor's gradient, or direction, after its rules."""
        ruled: list[Tensor] = []
        for place, (value, w) in enumerate(zip(given, self.flats, strict=False)):
            flat = value.reshape(w.shape)
            for label, stage, memory, contexts in rules:
                try:
                    flat = stage.step(flat, w, memory[place], contexts[place])
                except BaseException:
                    self.trace.enter(f"{label}.step", grad=flat, w=w, **memory[place])
                    raise
            ruled.append(flat.view(value.shape))
        return ruled + list(given[len(ruled) :])


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


def _rules(work: TrainingInputs, chosen: Sequence[tuple[str, Stage]]) -> list[Rule]:
    """These rules with memory and context of each shared tensor."""
    layout, examples = work.flat_module.layout, work.ctx.examples
    rules: list[Rule] = []
    for label, stage in chosen:
        if work.step_contexts is None or work.stage_keys is None:
            contexts = work.context(label).split()
        else:  # split for a group, but for the client's own facts
            key = work.stage_keys[label]
            contexts = [replace(ctx, key=key, examples=examples) for ctx in work.step_contexts[label]]
        rules.append((label, stage, layout.split(work.memory.get(label, {})), contexts))
    return rules
