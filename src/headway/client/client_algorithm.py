"""The clients' part of a round: train, combine, send."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headway.client_state.store import TRAINER, Memory
from headway.core.algorithm import Algorithm
from headway.core.chain import at
from headway.core.context import NOTHING, ClientContext, CombineContext, StepContext
from headway.core.errors import ConfigError, UpdateRejected
from headway.core.flow import Flow
from headway.core.update import Tensors, Update
from headway.data import Examples
from headway.model.flat_module import FlatModule
from headway.model.random_state import seed_outside
from headway.numerics.gram import quadratic
from headway.numerics.keys import Key, Keys
from headway.protocol.messages import Ask, Message
from headway.protocol.sums import not_finite
from headway.training.call_trace import CallTrace
from headway.training.client_steps import ClientSteps
from headway.training.step_storage import add_steps, gram_of
from headway.training.trainer import Trained, Trainer
from headway.training.training_inputs import GradientFunction, TrainingInputs
from headway.vectorized.client_batch import ClientBatch


@dataclass(frozen=True, slots=True)
class Outcome:
    """A client's update and next memory, and the record of its training."""

    update: Update
    memory: Memory
    trained: Trained


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """The facts of clients that train one after another in one ask, derived for all of them at once.

    messages, rounds: the message with which each client was asked, and its round.  examples: the number of examples of
    each, `[]` on the device.  keys, trainer_keys: of each client, and of its trainer; stage_keys: of each stage, by its
    label.  seeds: for torch's generator.  dropout: the keys of dropout.  steps: the number of local steps of each,
    where it is not the trainer's.  client_steps: the steps of each, where the trainer plans them ahead.
    step_contexts: of each rule for local steps and shared tensor, but for the client's key and examples.
    gradients: the function that gives the gradients of their steps, if not the model's own passes.
    """

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


class ClientAlgorithm:
    """The clients' part of an algorithm, on one flat module: for one client, or for a batch of many, wherever they are.

    measure: whether to measure the lengths of each client's steps.  moves: whether clients train elsewhere than where
    messages and memory lie.  keeps_own: whether a part of the model stays with each client.
    """

    def __init__(
        self, algorithm: Algorithm, flat_module: FlatModule, flows: tuple[Flow, ...], key: Key, measure: bool = False
    ) -> None:
        self.algorithm, self.flat_module, self.flows, self.key, self.measure = (
            algorithm,
            flat_module,
            flows,
            key,
            measure,
        )
        self.moves = flat_module.site.moves
        self.keeps_own = bool(flat_module.personal.numel()) or (
            flat_module.has_statistics and flat_module.task.buffers == "local"
        )
        trainer = algorithm.trainer
        assert isinstance(trainer, Trainer)
        trainer.check(flat_module)
        self.trainer = trainer

    def client_key(self, client: str, round_: int) -> Key:
        """The client's key in a round, from which its stages' and its trainer's keys are derived."""
        return self.key.derive("client", round_).owned(client)

    def client_keys(self, clients: Sequence[str], round_: int) -> Keys:
        """Those of many clients."""
        return self.key.for_each("client", round_, names=clients)

    def keys_of(self, clients: Sequence[str], ask: Ask) -> Keys:
        """Those of clients that are asked, each of the round in which it was."""
        if not ask.earlier:
            return self.client_keys(clients, ask.round)
        return Keys.of([self.client_key(client, ask.asked_in(client)) for client in clients])

    def dropped(self, clients: Sequence[str], ask: Ask) -> list[str]:
        """The stragglers among the clients whose work would be dropped."""
        dropped = self.trainer.dropped(self.keys_of(clients, ask).derive(TRAINER))
        return [client for client, drops in zip(clients, dropped, strict=True) if drops]

    def check(self, sizes: Iterable[int]) -> None:
        """Refuses, before any training, steps that the trainer could not keep; sizes: the clients' examples.

        Raises:
            ConfigError: if a client's steps do not fit the trainer's budget.
        """
        if "steps" in self.flows[-1].needs:
            for examples in sorted(set(sizes), reverse=True):
                self.trainer.step_plan(examples, self.flat_module.layout)

    def first_memory(self) -> Memory:
        """What a client's memory holds after its first training, in names, shapes and number types."""
        keep = self.trainer.keeps(self.flat_module)
        return self._next_memory(self.algorithm.chain.remember(self.flat_module.shared), keep)

    def facts_of(
        self, ask: Ask, clients: Sequence[str], sizes: Tensor, gradients: GradientFunction | None = None
    ) -> GroupFacts:
        """The facts of clients that train one after another; sizes: how many examples each has, int64 `[C]`."""
        keys, labels = self.keys_of(clients, ask), self.algorithm.chain.labels
        trainer, each = keys.derive(TRAINER), keys.each()
        by_label = zip(*(keys.derive(label).each() for label in labels), strict=True)
        messages = [ask.broadcast_for(client) for client in clients] if ask.earlier else [ask.message] * len(clients)
        rounds, steps = ask.rounds(clients), [ask.steps.get(client) for client in clients]
        asked = list(zip(sizes.tolist(), rounds, steps, strict=True))
        distinct = {id(own[0]): own for own in zip(messages, rounds, each, strict=True)}
        contexts = {own: self._step_contexts(*facts, sizes[0]) for own, facts in distinct.items()}
        return GroupFacts(
            messages=messages,
            rounds=rounds,
            examples=self.flat_module.site.put(sizes).unbind(),
            keys=each,
            trainer_keys=trainer.each(),
            stage_keys=[dict(zip(labels, own, strict=True)) for own in by_label],
            seeds=keys.derive("ambient").seeds().tolist(),
            dropout=trainer.derive("dropout").seeds().tolist(),
            steps=steps,
            client_steps=self.trainer.steps_of_group(trainer, asked, self.flows[-1].proximal),
            step_contexts=[contexts[id(message)] for message in messages],
            gradients=gradients,
        )

    def _step_contexts(self, message: Message, round_: int, key: Key, examples: Tensor) -> dict[str, list[StepContext]]:
        """The contexts of each rule for local steps, for each shared tensor, of clients with this message; key and
        examples: any client's."""
        chain, flow, layout = self.algorithm.chain, self.flows[-1], self.flat_module.layout
        ctx = StepContext(round_, key, layout, flow, message.params, examples=examples)
        contexts = {}
        for label, _ in chain.step_rules:
            here = at(ctx, label, message.stages, self.flows, chain.labels.index(label), key)
            contexts[label] = here.split()
        return contexts

    def train(
        self, client: str, ask: Ask, examples: Examples, memory: Memory | None, secret: Tensors | None = None
    ) -> Outcome:
        """The client's update to one ask.

        Raises:
            What `train_member` raises.
        """
        facts = self.facts_of(ask, [client], torch.tensor([len(examples)]))
        return self.train_member(facts, 0, client, examples, memory, secret)

    def train_member(
        self,
        facts: GroupFacts,
        place: int,
        client: str,
        examples: Examples,
        memory: Memory | None,
        secret: Tensors | None = None,
    ) -> Outcome:
        """The update of the client at this place of a group.

        Raises:
            ClientFailed: naming the client, the stage and the inputs of the call that failed.
            UpdateRejected: if training ended with NaN or infinity, which no stage may hide.
        """
        trace = CallTrace(client)
        try:
            work = self.prepare(facts, place, examples, memory, trace)
            trained = self.trainer.train(work)
            if not work.chain.rule_kinds <= work.applied:
                self._refuse_unapplied(work)
            if (trouble := not_finite(trained.movement)) is not None:
                raise UpdateRejected(client, f"its local training ended with a model that {trouble}")
            return self.send(work, trained, facts.messages[place].buffers, secret)
        except BaseException as error:
            if (failure := trace.failure(error)) is None:
                raise
            raise failure from error

    def _refuse_unapplied(self, work: TrainingInputs) -> None:
        """Refuses the model of a trainer that did not apply the rules of its facts."""
        left = [label for label, stage in work.chain.step_rules if stage.step_rule not in work.applied]
        name = self.trainer.facts.name
        raise ConfigError(
            f"{name} says that it applies rules for local steps, and trained without those of {', '.join(left)}: "
            f"call headway.step_rules(work) in {name}.train, and apply what it returns in every step."
        )

    def prepare(
        self, facts: GroupFacts, place: int, examples: Examples, memory: Memory | None, trace: CallTrace
    ) -> TrainingInputs:
        """The trainer's inputs, with the client's model in the flat module and torch's generator at its seed."""
        message, flat_module, chain = facts.messages[place], self.flat_module, self.algorithm.chain
        if memory is None:
            memory = chain.remember(message.params)
        if self.moves:
            memory = flat_module.site.labelled(memory)
        own = memory.get(TRAINER, NOTHING)
        statistics = message.buffers if message.buffers is not None else own.get("statistics")
        flat_module.load(message.params, own.get("personal"), statistics)
        flat_module.seed(facts.seeds[place])  # for what draws from torch's own generator
        if flat_module.draws.layers:
            flat_module.draws.at(facts.dropout[place], 0)  # for a trainer that does not number its steps
        ctx = StepContext(
            round=facts.rounds[place],
            key=facts.keys[place],
            layout=flat_module.layout,
            flow=self.flows[-1],
            global_params=message.params,
            examples=facts.examples[place],
        )
        return TrainingInputs(
            flat_module,
            examples,
            chain,
            ctx,
            memory,
            message.stages,
            self.flows,
            facts.trainer_keys[place],
            trace,
            self.measure,
            facts.steps[place],
            facts.gradients,
            dropout=facts.dropout[place],
            stage_keys=facts.stage_keys[place],
            step_contexts=facts.step_contexts[place],
            client_steps=facts.client_steps[place],
        )

    def remembered(self, message: Message) -> Memory:
        """The memory of a client that has none yet and receives this message."""
        return self.algorithm.chain.remember(message.params)

    def prepare_batch(self, batch: ClientBatch, ask: Ask, memory: Memory) -> TrainingInputs:
        """The trainer's inputs of a batch of clients: context and memory have a leading axis `[C, ...]`."""
        message, chain, site = ask.stacked_broadcast(batch.clients), self.algorithm.chain, self.flat_module.site
        self.flat_module.attributes.restore()
        if self.flat_module.seeds_outside:
            seed_outside(int(batch.keys.derive("ambient").seeds()[0]))
        rounds = ask.rounds(batch.clients)
        ctx = StepContext(
            round=rounds[0] if len(set(rounds)) == 1 else self._number_each(rounds),
            key=batch.keys,
            layout=self.flat_module.layout,
            flow=self.flows[-1],
            global_params=message.params,
            examples=site.put(batch.sizes),
        )
        trace, key = CallTrace(", ".join(batch.clients[:3])), batch.keys.derive(TRAINER)
        memory = site.labelled(memory)
        return TrainingInputs(
            self.flat_module, batch.store, chain, ctx, memory, message.stages, self.flows, key, trace, self.measure
        )

    def send(
        self, work: TrainingInputs, trained: Trained, buffers: Tensor | None = None, secret: Tensors | None = None
    ) -> Outcome:
        """The update and the next memory of one client, or of many `[C, ...]`; buffers: the message's averaged ones."""
        flat_module, chain, memory, trace = self.flat_module, self.algorithm.chain, work.memory, work.trace
        free = trained.effective_lr if trained.free_effective_lr is None else trained.free_effective_lr
        steps, effective_lr, free_effective_lr, lr_sum = self._numbers(
            trained.count, trained.effective_lr, free, trained.lr_sum
        )
        ctx = ClientContext(
            round=work.ctx.round,
            key=work.ctx.key,
            layout=flat_module.layout,
            flow=work.ctx.flow,
            global_params=work.ctx.global_params,
            examples=work.ctx.examples,
            movement=trained.movement,
            steps=steps,
            effective_lr=effective_lr,
            free_effective_lr=free_effective_lr,
            lr_sum=lr_sum,
            measurements=flat_module.site.tensors(trained.measurements) if trained.measurements else NOTHING,
            secret=flat_module.site.tensors(secret) if secret else NOTHING,
        )
        delta = trained.movement
        if chain.combiner is not None:
            trace.enter("the combination of steps", movement=trained.movement, steps=trained.steps)
            trained, delta = self._combined(trained, ctx)
        update = Update.of(delta, ctx.examples.double())
        if buffers is not None:
            update = update.with_vectors(buffers=flat_module.statistics() - buffers)
        trace.where, trace.inputs = "send", update.vectors
        update, kept = chain.send(update, memory, ctx, work.broadcast, self.flows, work.stage_keys)
        if self.keeps_own or trained.keep:
            kept = self._next_memory(kept, trained.keep)
        return Outcome(update, kept, trained)

    def coefficients(
        self, gram: Tensor, ctx: StepContext | ClientContext, steps: Tensor, movement: Tensor | None = None
    ) -> Tensor:
        """The coefficients `[..., K]` that the chain's combining stage gives steps with this Gram matrix `[..., K, K]`.

        steps: their number.  movement: their sum, whose length suffers no cancellation, where it is at hand.
        """
        assert self.algorithm.chain.combiner is not None
        label, stage = self.algorithm.chain.combiner
        if movement is None:
            made = torch.arange(gram.shape[-1], device=gram.device) < steps.to(gram.device).unsqueeze(-1)
            squared = quadratic(gram, made.to(gram.dtype)).clamp_min(0.0)
        else:
            squared = torch.linalg.vector_norm(movement, dim=-1, dtype=gram.dtype) ** 2
        here = CombineContext(
            round=ctx.round,
            key=ctx.key,
            layout=ctx.layout,
            flow=ctx.flow,
            global_params=ctx.global_params,
            examples=ctx.examples,
            steps=steps,
            squared_movement=squared,
        )
        return stage.combine(gram, at(here, label, {}, self.flows, self.algorithm.chain.labels.index(label)))

    def _combined(self, trained: Trained, ctx: ClientContext) -> tuple[Trained, Tensor]:
        """The delta, the steps with the coefficients that the chain gives them; and how long they were."""
        steps = trained.steps
        if steps is None or not torch.as_tensor(trained.count).any():
            return trained, trained.movement
        gram = gram_of(steps)
        coefficients = self.coefficients(gram, ctx, ctx.steps, ctx.movement)
        if self.measure:
            trained = replace(trained, squares=gram.diagonal(dim1=-2, dim2=-1).cpu())
        if bool((coefficients == 1).all()):
            return trained, trained.movement
        return trained, add_steps(trained.movement, steps, coefficients)

    def _next_memory(self, kept: dict[str, Tensors], keep: Tensors) -> dict[str, Tensors]:
        """The stages' memory, with the trainer's and the parameters and statistics that never leave the client."""
        own: dict[str, Tensor] = dict(keep)
        if self.flat_module.personal.numel():
            own["personal"] = self.flat_module.personal.clone()
        if self.flat_module.has_statistics and self.flat_module.task.buffers == "local":
            own["statistics"] = self.flat_module.statistics()
        return {**kept, TRAINER: own} if own else kept

    def _number_each(self, values: Sequence[int]) -> Tensor:
        """A number of each of many clients as it goes with vectors, `[C, 1]`."""
        return self.flat_module.site.put(torch.tensor(values, dtype=self.flat_module.shared.dtype).unsqueeze(1))

    def _numbers(self, count: int | Tensor, *values: float | Tensor) -> list[Tensor]:
        """A count and other numbers as the context holds them, the others in float64."""
        made = [torch.as_tensor(count), *[torch.as_tensor(value, dtype=torch.float64) for value in values]]
        return [self.flat_module.site.put(number) for number in made] if self.moves else made
