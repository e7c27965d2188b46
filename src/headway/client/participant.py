"""The clients' part of a round: train, combine, send."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from headway.training.step_storage import add_steps, gram_of
from headway.training.trainer import Trained, Trainer, TrainingInputs
from headway.vectorized.client_batch import ClientBatch


@dataclass(frozen=True, slots=True)
class Outcome:
    """A client's update and next memory, and what training said of itself."""

    update: Update
    memory: Memory
    trained: Trained


class Participant:
    """Runs clients in one flat module, one at a time or in crews; the same code on a simulated and on a real client.

    measure: whether to measure the lengths of each client's steps.
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

    def train(
        self, client: str, ask: Ask, examples: Examples, memory: Memory | None, secret: Tensors | None = None
    ) -> Outcome:
        """The client's update to one ask.

        Raises:
            ClientFailed: naming the client, the stage and the inputs of the call that failed.
            UpdateRejected: if training ended with NaN or infinity, which no stage may hide.
        """
        work = self.prepare(client, ask, examples, memory)
        with work.trace.naming():
            trained = self.trainer.train(work)
            self._check_applied(work)
            return self.finish(client, ask, work, trained, secret)

    def _check_applied(self, work: TrainingInputs) -> None:
        """Refuses what was learned by a trainer that did not apply the rules that it says it applies."""
        left = [label for label, stage in work.chain.step_rules if stage.step_rule not in work.applied]
        if left:
            name = self.trainer.facts.name
            raise ConfigError(
                f"{name} says that it applies rules for local steps, and trained without those of {', '.join(left)}: "
                f"call headway.step_rules(work) in {name}.train, and apply what it returns in every step."
            )

    def prepare(self, client: str, ask: Ask, examples: Examples, memory: Memory | None) -> TrainingInputs:
        """What the trainer is given, with the client's model in the flat module and torch's generator at its seed.

        Raises:
            ClientFailed: naming the stage whose memory could not be made.
        """
        message, flat_module, chain, trace = (
            ask.broadcast_for(client),
            self.flat_module,
            self.algorithm.chain,
            CallTrace(client),
        )
        with trace.naming():
            if memory is None:
                memory = chain.remember(message.params)
            memory = flat_module.site.labelled(memory)
            own = memory.get(TRAINER, {})
            statistics = message.buffers if message.buffers is not None else own.get("statistics")
            flat_module.load(message.params, own.get("personal"), statistics)
        round_ = ask.asked_in(client)
        key = self.client_key(client, round_)
        ctx = StepContext(
            round=round_,
            key=key,
            layout=flat_module.layout,
            flow=self.flows[-1],
            global_params=message.params,
            examples=flat_module.site.put(torch.tensor(len(examples))),
        )
        seed = key.derive("ambient").seed()  # for what draws from torch's own generator
        flat_module.seed(seed)
        told, trainer_key = message.stages, key.derive(TRAINER)
        flat_module.draws.at(trainer_key.derive("dropout").seed(), 0)  # for a trainer that does not say its steps
        steps = ask.steps.get(client)
        return TrainingInputs(
            flat_module, examples, chain, ctx, memory, told, self.flows, trainer_key, trace, self.measure, steps
        )

    def remembered(self, message: Message) -> Memory:
        """The memory of a client that has none yet, and is told this."""
        return self.algorithm.chain.remember(message.params)

    def prepare_crew(self, crew: ClientBatch, ask: Ask, memory: Memory) -> TrainingInputs:
        """What clients that train side by side are given: context and memory with a leading axis `[C, ...]`."""
        message, chain, site = ask.stacked_broadcast(crew.clients), self.algorithm.chain, self.flat_module.site
        self.flat_module.attributes.restore()
        if self.flat_module.seeds_outside:
            seed_outside(int(crew.keys.derive("ambient").seeds()[0]))
        rounds = ask.rounds(crew.clients)
        ctx = StepContext(
            round=rounds[0] if len(set(rounds)) == 1 else self._number_each(rounds),
            key=crew.keys,
            layout=self.flat_module.layout,
            flow=self.flows[-1],
            global_params=message.params,
            examples=site.put(crew.sizes),
        )
        trace, key = CallTrace(", ".join(crew.clients[:3])), crew.keys.derive(TRAINER)
        memory = site.labelled(memory)
        return TrainingInputs(
            self.flat_module, crew.store, chain, ctx, memory, message.stages, self.flows, key, trace, self.measure
        )

    def finish(
        self, client: str, ask: Ask, work: TrainingInputs, trained: Trained, secret: Tensors | None = None
    ) -> Outcome:
        """The client's update, from what its training did.

        Raises:
            UpdateRejected: if training ended with NaN or infinity, which no stage may hide.
        """
        if (trouble := not_finite(trained.movement)) is not None:
            raise UpdateRejected(client, f"its local training ended with a model that {trouble}")
        return self.send(work, trained, ask.broadcast_for(client).buffers, secret)

    def send(
        self, work: TrainingInputs, trained: Trained, buffers: Tensor | None = None, secret: Tensors | None = None
    ) -> Outcome:
        """What leaves one client, or each of many `[C, ...]`, and what it keeps; buffers: averaged ones, as told."""
        flat_module, chain, memory, trace = self.flat_module, self.algorithm.chain, work.memory, work.trace
        effective_lr = self._number(trained.effective_lr)
        free = trained.free_effective_lr
        ctx = ClientContext(
            round=work.ctx.round,
            key=work.ctx.key,
            layout=flat_module.layout,
            flow=work.ctx.flow,
            global_params=work.ctx.global_params,
            examples=work.ctx.examples,
            movement=trained.movement,
            steps=flat_module.site.put(torch.as_tensor(trained.count)),
            effective_lr=effective_lr,
            free_effective_lr=effective_lr if free is None else self._number(free),
            lr_sum=self._number(trained.lr_sum),
            measurements=flat_module.site.tensors(trained.measurements),
            secret=NOTHING if secret is None else flat_module.site.tensors(secret),
        )
        trace.enter("the combination of steps", movement=trained.movement, steps=trained.steps)
        trained, delta = self._combined(trained, ctx)
        update = Update.of(delta, ctx.examples.double())
        if buffers is not None:
            update = update.with_vectors(buffers=flat_module.statistics() - buffers)
        trace.enter("send", **update.vectors)
        update, kept = chain.send(update, memory, ctx, work.told, self.flows)
        return Outcome(update, self._next_memory(kept, trained.keep), trained)

    def coefficients(
        self, gram: Tensor, ctx: StepContext | ClientContext, steps: Tensor, movement: Tensor | None = None
    ) -> Tensor:
        """What the chain's combining stage makes of steps with this Gram matrix `[..., K, K]`: `[..., K]`.

        steps: how many were made.  movement: their sum, whose length suffers no cancellation, where it is at hand.
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
        if self.algorithm.chain.combiner is None or steps is None or not torch.as_tensor(trained.count).any():
            return trained, trained.movement
        gram = gram_of(steps)
        coefficients = self.coefficients(gram, ctx, ctx.steps, ctx.movement)
        if self.measure:
            trained = replace(trained, squares=gram.diagonal(dim1=-2, dim2=-1).cpu())
        if bool((coefficients == 1).all()):
            return trained, trained.movement
        return trained, add_steps(trained.movement, steps, coefficients)

    def _next_memory(self, kept: dict[str, Tensors], keep: Tensors) -> Memory:
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

    def _number(self, value: float | Tensor) -> Tensor:
        """A number as the context holds it, in float64."""
        return self.flat_module.site.put(torch.as_tensor(value, dtype=torch.float64))
