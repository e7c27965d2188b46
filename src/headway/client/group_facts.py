"""The facts of clients that train one after another, derived for all of a group at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from headway.client.client_algorithm import ClientAlgorithm
from headway.client_state.store import TRAINER
from headway.core.chain import at
from headway.core.context import StepContext
from headway.numerics.keys import Key
from headway.protocol.messages import Ask, Message, Request
from headway.training.client_steps import ClientSteps
from headway.training.training_inputs import GradientFunction


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """The facts of clients that train one after another in one ask, derived for all of them at once.

    request: of the ask.  messages, rounds: the message with which each client was asked, and its round.
    examples: the number of examples of each, `[]` on the device.  keys, trainer_keys: of each client, and of its
    trainer; stage_keys: of each stage, by its label.  seeds: for torch's generator.  dropout: the keys of dropout.
    steps: the number of local steps of each, where it is not the trainer's.  client_steps: the steps of each, where the
    trainer plans them ahead.
    step_contexts: of each rule for local steps and shared tensor, but for the client's key and examples.
    gradients: the function that gives the gradients of their steps, if not the model's own passes.
    """

    request: Request
    messages: Sequence[Message]
    rounds: Sequence[int]
    examples: Sequence[Tensor]
    keys: Sequence[Key]
    trainer_keys: Sequence[Key]
    stage_keys: Sequence[Mapping[str, Key]]
    seeds: Sequence[int]
    dropout: Sequence[int]
    steps: Sequence[int | None]
    client_steps: Sequence[ClientSteps | None]
    step_contexts: Sequence[Mapping[str, Sequence[StepContext]]]
    gradients: GradientFunction | None = None

    @classmethod
    def of(
        cls,
        algorithm: ClientAlgorithm,
        ask: Ask,
        clients: Sequence[str],
        sizes: Tensor,
        gradients: GradientFunction | None = None,
    ) -> GroupFacts:
        """The facts of clients that train one after another; sizes: how many examples each has, int64 `[C]`."""
        keys, labels = algorithm.keys_of(clients, ask), algorithm.algorithm.chain.labels
        trainer, each = keys.derive(TRAINER), keys.each()
        by_label = zip(*(keys.derive(label).each() for label in labels), strict=True)
        messages = [ask.broadcast_for(client) for client in clients] if ask.earlier else [ask.message] * len(clients)
        rounds, steps = ask.rounds(clients), [ask.steps.get(client) for client in clients]
        asked = list(zip(sizes.tolist(), rounds, steps, strict=True))
        distinct = {id(own[0]): own for own in zip(messages, rounds, each, strict=True)}
        contexts = {own: _step_contexts(algorithm, *facts, sizes[0]) for own, facts in distinct.items()}
        return cls(
            request=ask.request,
            messages=messages,
            rounds=rounds,
            examples=algorithm.flat_module.site.put(sizes).unbind(),
            keys=each,
            trainer_keys=trainer.each(),
            stage_keys=[dict(zip(labels, own, strict=True)) for own in by_label],
            seeds=keys.derive("ambient").seeds().tolist(),
            dropout=trainer.derive("dropout").seeds().tolist(),
            steps=steps,
            client_steps=algorithm.trainer.steps_of_group(trainer, asked, algorithm.flows[-1].proximal),
            step_contexts=[contexts[id(message)] for message in messages],
            gradients=gradients,
        )


def _step_contexts(
    algorithm: ClientAlgorithm, message: Message, round_: int, key: Key, examples: Tensor
) -> dict[str, list[StepContext]]:
    """The contexts of each rule for local steps, for each shared tensor, of clients with this message; key and
    examples: any client's."""
    chain, flow, layout = algorithm.algorithm.chain, algorithm.flows[-1], algorithm.flat_module.layout
    ctx = StepContext(round_, key, layout, flow, message.params, examples=examples)
    contexts = {}
    for label, _ in chain.step_rules:
        here = at(ctx, label, message.stages, algorithm.flows, chain.labels.index(label), key)
        contexts[label] = here.split()
    return contexts
