"""The training of one client, or of a batch of clients, and the update that is sent after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from headway.client.client_algorithm import ClientAlgorithm
from headway.client.group_facts import GroupFacts
from headway.client_state.store import TRAINER, Memory
from headway.core.context import NOTHING, ClientContext, Exchanged, StepContext
from headway.core.errors import ConfigError, UpdateRejected
from headway.core.update import Tensors, Update
from headway.data import Examples
from headway.model.random_state import seed_outside
from headway.protocol.messages import Ask, Request
from headway.protocol.sums import not_finite
from headway.training.call_trace import CallTrace
from headway.training.step_coefficients import StepCombination
from headway.training.trainer import Trained
from headway.training.training_inputs import TrainingInputs
from headway.vectorized.client_batch import ClientBatch


@dataclass(frozen=True, slots=True)
class Outcome:
    """A client's update and next memory, and the record of its training."""

    update: Update
    memory: Memory
    trained: Trained


class ClientTraining:
    """Trains one client from its request to its update; prepares, and sends, what a batch trains together.

    algorithm: the clients' half of the algorithm, whose flat module the training writes to.
    combination: the chain's combination of steps.  masks: whether a protocol masks what is sent.
    """

    def __init__(self, algorithm: ClientAlgorithm) -> None:
        self.algorithm, self.flat_module, self.chain = algorithm, algorithm.flat_module, algorithm.algorithm.chain
        self.flows = algorithm.flows
        self.combination = StepCombination(self.chain, algorithm.flows, algorithm.measure)
        self.masks = True

    @cached_property
    def trial(self) -> ClientTraining:
        """The same for a trial before the exchanges of a round, of which no client has a secret: what it sends is not
        masked, and must not be counted."""
        other = copy(self)
        other.masks = False
        return other

    def train(
        self, client: str, ask: Ask, examples: Examples, memory: Memory | None, secret: Tensors | None = None
    ) -> Outcome:
        """The client's update to one ask.

        Raises:
            What `train_member` raises.
        """
        facts = GroupFacts.of(self.algorithm, ask, [client], torch.tensor([len(examples)]))
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
            trained = self.algorithm.trainer.train(work)
            if not work.chain.rule_kinds <= work.applied:
                self._refuse_unapplied(work)
            if (trouble := not_finite(trained.movement)) is not None:
                raise UpdateRejected(client, f"its local training ended with a model that {trouble}")
            own = Exchanged(secret, self.algorithm.exchange_context(client, facts.request)) if secret else None
            return self.send(work, trained, facts.messages[place].buffers, own)
        except BaseException as error:
            if (failure := trace.failure(error)) is None:
                raise
            raise failure from error

    def _refuse_unapplied(self, work: TrainingInputs) -> None:
        """Refuses the model of a trainer that did not apply the rules of its facts."""
        left = [label for label, stage in work.chain.step_rules if stage.step_rule not in work.applied]
        name = self.algorithm.trainer.facts.name
        raise ConfigError(
            f"{name} says that it applies rules for local steps, and trained without those of {', '.join(left)}: "
            f"call headway.step_rules(work) in {name}.train, and apply what it returns in every step."
        )

    def prepare(
        self, facts: GroupFacts, place: int, examples: Examples, memory: Memory | None, trace: CallTrace
    ) -> TrainingInputs:
        """The trainer's inputs, with the client's model in the flat module and torch's generator at its seed."""
        message, flat_module, chain = facts.messages[place], self.flat_module, self.chain
        if memory is None:
            memory = chain.remember(message.params)
        if self.flat_module.moves:
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
            system=self.algorithm.system_key() if self.algorithm.system else None,
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
            self.algorithm.measure,
            facts.steps[place],
            facts.gradients,
            dropout=facts.dropout[place],
            stage_keys=facts.stage_keys[place],
            step_contexts=facts.step_contexts[place],
            client_steps=facts.client_steps[place],
        )

    def prepare_batch(self, batch: ClientBatch, ask: Ask, memory: Memory) -> TrainingInputs:
        """The trainer's inputs of a batch of clients: context and memory have a leading axis `[C, ...]`."""
        message, flat_module, site = ask.stacked_broadcast(batch.clients), self.flat_module, self.flat_module.site
        flat_module.attributes.restore()
        if flat_module.seeds_outside:
            seed_outside(int(batch.keys.derive("ambient").seeds()[0]))
        rounds = ask.rounds(batch.clients)
        each = torch.tensor(rounds, dtype=flat_module.shared.dtype).unsqueeze(1)  # as it goes with vectors
        ctx = StepContext(
            round=rounds[0] if len(set(rounds)) == 1 else site.put(each),
            key=batch.keys,
            layout=flat_module.layout,
            flow=self.flows[-1],
            global_params=message.params,
            examples=site.put(batch.sizes),
            system=self.algorithm.system_keys(batch.clients) if self.algorithm.system else None,
        )
        return TrainingInputs(
            flat_module,
            batch.store,
            self.chain,
            ctx,
            site.labelled(memory),
            message.stages,
            self.flows,
            batch.keys.derive(TRAINER),
            CallTrace(", ".join(batch.clients[:3])),
            self.algorithm.measure,
        )

    def exchanged(
        self, clients: Sequence[str], request: Request, secrets: Mapping[str, Tensors]
    ) -> list[Exchanged] | None:
        """The part of each client of a batch in the exchanges of a protocol; `None` without any."""
        if not secrets:
            return None
        return [Exchanged(secrets[client], self.algorithm.exchange_context(client, request)) for client in clients]

    def send(
        self,
        work: TrainingInputs,
        trained: Trained,
        buffers: Tensor | None = None,
        own: Exchanged | Sequence[Exchanged] | None = None,
    ) -> Outcome:
        """The update and the next memory of one client, or of many `[C, ...]`.

        buffers: the message's averaged ones.  own: the client's part in the exchanges of a protocol, or each client's.
        """
        flat_module, chain, memory, trace = self.flat_module, self.chain, work.memory, work.trace
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
            system=work.ctx.system,
            steps=steps,
            effective_lr=effective_lr,
            free_effective_lr=free_effective_lr,
            lr_sum=lr_sum,
            measurements=flat_module.site.tensors(trained.measurements) if trained.measurements else NOTHING,
            secret=own.secret if isinstance(own, Exchanged) else NOTHING,
            exchange=own.context if isinstance(own, Exchanged) else None,
            lanes=() if own is None or isinstance(own, Exchanged) else own,
        )
        delta = trained.movement
        if chain.combiner is not None:
            trace.enter("the combination of steps", movement=trained.movement, steps=trained.steps)
            trained, delta = self.combination.combined(trained, ctx)
        update = Update.of(delta, ctx.examples.double())
        if buffers is not None:
            update = update.with_vectors(buffers=flat_module.statistics() - buffers)
        trace.where, trace.inputs = "send", update.vectors
        update, kept = chain.send(update, memory, ctx, work.broadcast, self.flows, work.stage_keys, self.masks)
        if self.algorithm.keeps_own or trained.keep:
            kept = self.algorithm.memory_after(kept, trained.keep)
        return Outcome(update, kept, trained)

    def _numbers(self, count: int | Tensor, *values: float | Tensor) -> list[Tensor]:
        """A count and other numbers as the context holds them, the others in float64."""
        made = [torch.as_tensor(count), *[torch.as_tensor(value, dtype=torch.float64) for value in values]]
        return [self.flat_module.site.put(number) for number in made] if self.flat_module.moves else made
