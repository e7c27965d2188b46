"""An algorithm: a chain, a local trainer, a sampler and a quorum; and one round of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Protocol as Structural

import torch
from torch import Tensor

from headway.core.chain import Chain, Labelled
from headway.core.context import ExchangeContext, ServerContext
from headway.core.errors import ChainRefused, ConfigError
from headway.core.explain import Explanation, explain
from headway.core.flow import EngineFacts, Flow, SamplerFacts, TrainerFacts
from headway.core.layout import Layout
from headway.core.sampler import Sampler, check_draw, check_enough, check_quorum, check_replicas
from headway.core.update import Tensors, Update, flat_names, unflat_names, without_own
from headway.numerics.keys import Key
from headway.protocol import wire
from headway.protocol.client_history import ClientHistory
from headway.protocol.effects import Concluded, Effect, Persist, Reserve
from headway.protocol.messages import Answer, Ask, Exchange, Measure, Message, Train
from headway.protocol.policies import Quorum, Reputation
from headway.protocol.sums import ExactTotal

RELEASE = "release"  # the name under which a noisy release is kept


class TrainerLike(Structural):
    """The facts of a local trainer, which is all that the core reads of it; `headway.training` has the trainers."""

    @property
    def facts(self) -> TrainerFacts:
        """The facts that it offers to the stages."""
        ...


class StateMemory(Structural):
    """The memory of a server's states: see `headway.server.step_memory`."""

    def kept(self, state: State) -> State:
        """The same state in this memory."""
        ...

    def step(self, state: State, step: Callable[[State, int, int], State]) -> State:
        """The state after a step that is made a block of columns at a time."""
        ...


@dataclass(frozen=True, slots=True)
class State:
    """All that the server keeps between rounds.

    round: rounds completed.  params: the model `[P]` that the next round starts from.
    buffers: averaged buffers `[B]`, if the task has them.  stages: each stage's own state.
    memory: in which it lies, and the next one; `None` for main memory without a limit.
    """

    round: int
    params: Tensor
    stages: Mapping[str, Tensors] = field(default_factory=dict)
    buffers: Tensor | None = None
    memory: StateMemory | None = field(default=None, repr=False, compare=False)

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


@dataclass(frozen=True)
class Algorithm:
    """The whole, unchanged on every engine.

    reputation: the policy on clients whose updates do not fit; `None` for none.

    Raises:
        ChainRefused: when built, if the chain cannot work with this trainer, sampler or quorum.
    """

    chain: Chain
    trainer: TrainerLike
    sampler: Sampler
    quorum: Quorum = Quorum()
    reputation: Reputation | None = None

    def __post_init__(self) -> None:
        self.flows()

    def flows(
        self,
        engine: EngineFacts | None = None,
        population: int | None = None,
        size: int | None = None,
        statistics: int = 0,
    ) -> tuple[Flow, ...]:
        """The facts after each stage, given all that is known of the surroundings.

        size, statistics: how many parameters, and averaged statistics, a client's update is of.

        Raises:
            ChainRefused: if a stage, or the engine, cannot work with them.
        """
        keep = self.quorum.late == "keep"
        trainer = self.trainer.facts
        start = Flow(
            trainer=trainer,
            sampler=self.sampler.facts(population),
            engine=engine,
            events=trainer.events,
            asynchronous=keep,
            excludes=self.reputation is not None and self.reputation.excludes,
            size=size,
            statistics=statistics,
            buffer=self.quorum.count if keep else None,
            set_by={
                "trainer": trainer.name,
                **({"events": trainer.name} if trainer.events else {}),
                "sampler": type(self.sampler).__name__,
                "asynchronous": 'Quorum(late="keep")',
                "excludes": "Reputation",
                "buffer": 'Quorum(late="keep")',
                "engine": engine.name if engine else "the engine",
            },
        )
        assert start.sampler is not None
        if keep and not start.sampler.tops_up:
            raise ChainRefused(
                needed="a sampler that draws as many clients as are missing while others are still at work",
                found=f"{self.sampler!r}, which asks everybody anew in each round",
                caused_by='Quorum(late="keep")',
                do_this='draw with Uniform or another sampler of a fixed number, or set late="drop"',
            )
        if engine is not None:
            check_quorum(self.quorum, engine, start.sampler)
            _check_memory(self.trainer.facts, engine)
        flows = self.chain.trace(start)
        if self.reputation is not None:
            self.reputation.check(flows[-1], self.quorum)
        check_enough(flows[-1], self.quorum, start.sampler)
        _check_pace(self.quorum, self.trainer.facts)
        check_draw(self.quorum, flows[-1])
        check_replicas([label for label, s in self.chain.labelled if s.has("remember")], flows[-1], self.quorum)
        return _check_readings(type(self.sampler).__name__, start.sampler, flows)

    def sized(self, flows: tuple[Flow, ...], size: int, statistics: int = 0) -> tuple[Flow, ...]:
        """These facts for a model of so many parameters and averaged statistics, on which some bounds depend."""
        last = flows[-1]
        if (last.size, last.statistics) == (size, statistics):
            return flows
        return self.flows(last.engine, None if last.sampler is None else last.sampler.population, size, statistics)

    @cached_property
    def protected(self) -> bool:
        """Whether single clients' numbers must stay unseen: the server sees only sums, or noise is promised."""
        return _protected(self._last)

    @cached_property
    def _last(self) -> Flow:
        """The facts after the last stage, whatever the engine and the population."""
        return self.flows()[-1]

    def explain(self) -> Explanation:
        """A table of the chain: stage, where it runs, what the server sees, bound, privacy event.  Only what differs
        from the defaults is in it: print the chain for all numbers of its stages."""
        shown = explain(self.chain, self.flows())
        return shown if self.reputation is None else shown.noting(self.reputation.summary)

    def initial_state(self, w: Tensor, buffers: Tensor | None = None) -> State:
        """The state before the first round, from the initial model `[P]`."""
        return State(0, w.clone(), self.chain.init(w), buffers)

    def enough(self, clients: Sequence[str], busy: int = 0) -> bool:
        """Whether a round can begin with these clients there, so many others being at work on earlier asks."""
        return (busy > 0 and self.quorum.late == "keep") or self.sampler.enough(clients)

    def measure(
        self, state: State, clients: Sequence[str], key: Key, history: ClientHistory | None = None
    ) -> Ask | None:
        """The request before a cohort can be drawn from these: some clients' training loss of the model; `None` if
        the sampler measures nothing."""
        asked = self.sampler.measured(clients, state.round, _cohort_key(key, state.round), history)
        message = Message(state.params, buffers=state.buffers)
        return Ask(Measure(message, state.round), asked, self.quorum) if asked else None

    def cohort(
        self, clients: Sequence[str], round: int, key: Key, busy: int = 0, history: ClientHistory | None = None
    ) -> tuple[str, ...]:
        """The cohort of a round, sorted; a pure function of the available clients, the round, the key and the history.

        busy: how many others are at work on earlier asks, whose late updates are kept.
        """
        return self.sampler.draw(clients, round, _cohort_key(key, round), history, busy)

    def round(
        self,
        state: State,
        cohort: tuple[str, ...],
        *,
        key: Key,
        layout: Layout,
        flows: Sequence[Flow],
        population: int,
        system: Key | None = None,
        attempt: int = 0,
    ) -> Generator[Effect, Answer, State]:
        """One round as a generator of effects: no sockets, no Ray, no clock in here.

        Deterministic in the state at its start and the answers.  With too few counted updates only the round advances.
        system: in deployment, a fresh key of the operating system's randomness for the noise of this call; a release
        that was kept is used again.  attempt: at this round, above 0 where a protocol has begun its exchanges again.
        """
        message = Message(state.params, self.chain.broadcast(state.stages), state.buffers)
        ask = Ask(Train(message, state.round, attempt), cohort, self.quorum)
        ctx = ServerContext(
            round=state.round,
            key=key.derive("server", state.round),
            layout=layout,
            flow=flows[-1],
            global_params=state.params,
            population=population,
            asked_params=state.params,
            system=system,
        )
        if cohort and (made_by_clients := tuple(event for event in flows[-1].events if event.at != "server")):
            yield Reserve(made_by_clients, state.round)  # their messages are the release
        if self.chain.protocol is None:
            answer = yield ask
            if self.chain.aggregator.examines and answer.total.count:
                answer = yield Concluded((yield from self.chain.aggregator.examine(ask, answer)))
        else:
            answer = yield from self.chain.protocol[1].exchange(ask, ctx)
            yield Concluded(answer)
        if left_out := self.chain.aggregator.judged(answer.total, self.chain.at_aggregator(ctx, flows)):
            answer = answer.without(left_out)
            yield Concluded(answer)
        made_here = tuple(event for event in flows[-1].events if event.at == "server")
        if made_here and not answer.total.count and flows[-1].server_sees == "each":
            answer = replace(answer, total=self._nobody(state, layout, flows))
        elif answer.total.terms < flows[-1].min_updates:
            return replace(state, round=state.round + 1)
        ctx = replace(ctx, counted=answer.total.count)
        if state.memory is not None and answer.total.rounded and self.chain.whole_step(flows) is None:
            return state.memory.step(state, partial(self._step, answer.total, ctx, flows))
        update, stages = self.aggregate(answer, state.stages, ctx, flows)
        if made_here:
            yield Reserve(made_here, state.round)
        update = self.release(update, replace(ctx, states=stages), flows)
        if flows[-1].events:
            kept = yield Persist(RELEASE, wire.of_update(update), state.round)
            update = wire.to_update(kept.replies[RELEASE])
        update, own = without_own(update)  # what noise of later rounds depends on
        stages = {**stages, **{label: {**stages.get(label, {}), **tensors} for label, tensors in own.items()}}
        return self._advance(replace(state, stages=stages), update, ctx, flows)

    def _nobody(self, state: State, layout: Layout, flows: Sequence[Flow]) -> ExactTotal:
        """The sum over no clients, zeros: a noisy release hides that nobody took part, too."""
        lengths = self.chain.summed_lengths(flows, layout.size)
        zeros = {name: torch.zeros(length, dtype=torch.float64) for name, length in lengths.items()}
        if state.buffers is not None:
            zeros["buffers"] = torch.zeros_like(state.buffers, dtype=torch.float64)
        total = ExactTotal()
        total.add(Update(zeros, torch.zeros((), dtype=torch.float64)))
        total.count = 0
        return total

    def aggregate(
        self, answer: Answer, state: Labelled, ctx: ServerContext, flows: Sequence[Flow]
    ) -> tuple[Update, Labelled]:
        """The aggregate of a round's counted updates, before any noise, and the stages' state after it."""
        return self.chain.aggregate(answer.total, state, ctx, flows)

    def release(self, update: Update, ctx: ServerContext, flows: Sequence[Flow]) -> Update:
        """The aggregate with its noise; all that follows only processes it further."""
        return self.chain.release(update, ctx, flows)

    def answer(self, request: Exchange, secret: Tensors, ctx: ExchangeContext) -> tuple[Tensors, Tensors]:
        """The participant half of an exchange: the reply of the chain's protocol, and the client's next secret.

        Raises:
            ConfigError: if the chain has no protocol.
        """
        if self.chain.protocol is None:
            raise ConfigError(f"no stage of the chain answers the exchange {request.name!r}.")
        label, protocol = self.chain.protocol
        return protocol.answer(request, secret, ctx.at(label))

    def spent(self, request: Train, secret: Tensors, ctx: ExchangeContext) -> Tensors:
        """A client's secret after its update is made, to be kept before that leaves."""
        if self.chain.protocol is None or not secret:
            return secret
        label, protocol = self.chain.protocol
        return protocol.spent(secret, request, ctx.at(label))

    def too_few(self, counted: int) -> str | None:
        """Why a round of so many counted updates changes nothing, as a sentence; `None` if it may, or has none."""
        last = self._last
        needed = last.min_updates
        if not 0 < counted < needed or last.server_sees == "bucket sums":  # whose protocol has counted the buckets
            return None
        name = last.set_by["min_updates"]
        return f"the round was skipped, since {name} needs at least {needed} updates and {counted} came."

    def _step(
        self, total: ExactTotal, ctx: ServerContext, flows: Sequence[Flow], state: State, start: int, stop: int
    ) -> State:
        """The next state of some columns; state: of these columns alone, the others as of all."""
        part, here = total.columns(start, stop, ctx.layout.size), ctx.sliced(start, stop)
        update, stages = self.chain.aggregate(part, state.stages, here, flows)
        return self._advance(replace(state, stages=stages), update, here, flows)

    def _advance(self, state: State, update: Update, ctx: ServerContext, flows: Sequence[Flow]) -> State:
        """The next state, from the released aggregate of a round."""
        update, stages = self.chain.receive(update, state.stages, ctx, flows)
        if (buffers := state.buffers) is not None:
            mixing = flows[-1].mixing
            mean = update.vectors["buffers"].to(buffers.dtype)
            buffers = buffers + (mean if mixing == 1 else mixing * mean)
        moved = update.delta.to(state.params.dtype)
        own = None if moved is update.delta else moved  # a copy, which becomes the model
        params = torch.add(state.params, moved, out=own)
        after = replace(state, round=state.round + 1, params=params, stages=stages, buffers=buffers)
        return after if after.memory is None else after.memory.kept(after)


def _cohort_key(key: Key, round: int) -> Key:
    return key.derive("cohort", round)


def _protected(last: Flow) -> bool:
    return last.server_sees != "each" or bool(last.events)


def _check_readings(name: str, sampler: SamplerFacts, flows: tuple[Flow, ...]) -> tuple[Flow, ...]:
    """Refuses, and warns of, what a sampler must know of single clients where the chain protects that."""
    last = flows[-1]
    if not _protected(last):
        return flows
    if "losses" in sampler.reads:
        fact, found = "server_sees", "a server that sees only sums"
        if last.server_sees == "each":
            fact, found = "events", f"noise that is promised to hide them ({last.events[0].mechanism})"
        raise ChainRefused(
            needed=f"each client's own training loss ({name} draws by it)",
            found=found,
            caused_by=last.set_by.get(fact, name),
            do_this=f"draw with Uniform, Poisson or RoundRobin, or leave {last.set_by.get(fact, 'the protection')} out",
        )
    if "sizes" in sampler.reads:
        warning = f"{name} draws by each client's number of training examples, which the server must know unprotected."
        return (*flows[:-1], last.warn(warning))
    return flows


def _check_pace(quorum: Quorum, trainer: TrainerFacts) -> None:
    """Refuses part of the work from a trainer that does it whole or not at all."""
    if quorum.work != "whole" and not trainer.paced:
        raise ChainRefused(
            needed="a trainer that can stop after any local step, since the deadline decides how many there are",
            found=f"{trainer.name}, which cannot",
            caused_by=f'Quorum(work="{quorum.work}")',
            do_this='train with LocalSGD, or set work = "whole"',
        )


def _check_memory(trainer: TrainerFacts, engine: EngineFacts) -> None:
    """Refuses a trainer that keeps something between rounds on an engine whose clients keep nothing."""
    if trainer.memory and not engine.memory:
        raise ChainRefused(
            needed=f"clients that keep memory between rounds ({trainer.adds or trainer.name} depends on it)",
            found=f"the {engine.name} engine, which keeps none",
            caused_by=engine.name,
            do_this=f"run on an engine with client memory, or leave {trainer.adds or trainer.name} out",
        )
