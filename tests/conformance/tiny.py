"""A tiny engine: clients with quadratics, one after another, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headway.client.derived_signer import DerivedSigner
from headway.core.algorithm import Algorithm, State
from headway.core.chain import at, chain
from headway.core.context import ClientContext, CombineContext, ExchangeContext, ServerContext, StepContext
from headway.core.flow import EngineFacts, SamplerFacts, TrainerFacts
from headway.core.layout import Layout
from headway.core.sampler import Sampler
from headway.core.stage import Stage
from headway.core.update import Update
from headway.numerics.keys import Key
from headway.protocol.client_history import ClientHistory
from headway.protocol.effects import EffectHandler, drive
from headway.protocol.messages import Answer, Ask, Measure, Train
from headway.protocol.quorum import Quorum
from headway.protocol.reports import ClientReport, Reports
from headway.protocol.sums import ExactTotal
from headway.server.guard import Promise

MEASURED = ("initial_loss", "initial_gradient", "validation_loss", "label_entropy")
ALL_OFFERS = TrainerFacts("Loop", frozenset({"steps", *MEASURED}), applies=frozenset({"gradient", "step"}))


@dataclass(frozen=True)
class Quadratic:
    """f(w) = 1/2 (w - b)^T A (w - b)."""

    A: Tensor
    b: Tensor
    examples: int = 1
    steps: int | None = None  # of its own, where clients differ

    def loss(self, w: Tensor) -> Tensor:
        return (w - self.b) @ self.A @ (w - self.b) / 2

    def grad(self, w: Tensor) -> Tensor:
        return self.A @ (w - self.b)


@dataclass(frozen=True)
class Loop:
    """Local gradient descent with momentum; `facts` is what the core asks of a trainer."""

    steps: int = 5
    lr: float = 0.05
    momentum: float = 0.0
    facts: TrainerFacts = ALL_OFFERS


@dataclass(frozen=True)
class Listed(Sampler):
    """The cohort of each round, from a list of index tuples; everyone where there is none."""

    rounds: tuple[tuple[int, ...], ...] = ()

    def draw(
        self, clients: Sequence[str], round: int, key: Key, known: ClientHistory | None = None, busy: int = 0
    ) -> tuple[str, ...]:
        chosen = self.rounds[round % len(self.rounds)] if self.rounds else range(len(clients))
        return tuple(sorted(clients[i] for i in chosen))

    def facts(self, population: int | None) -> SamplerFacts:
        expected = len(self.rounds[0]) if self.rounds else population
        return SamplerFacts("listed", expected and float(expected), population)


@dataclass
class Tiny:
    """The engine.  `lost`: clients that train and are not heard of again.  `sent`: updates as they left."""

    algorithm: Algorithm
    problems: Sequence[Quadratic]
    seed: int = 0
    lost: frozenset[str] = frozenset()
    arrival: Callable[[Sequence[str]], Sequence[str]] = tuple
    asked: list[Ask] = field(default_factory=list)
    sent: dict[str, Update] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clients = [f"c{i:03d}" for i in range(len(self.problems))]
        self.population = dict(zip(self.clients, self.problems, strict=True))
        self.size = len(self.problems[0].b)
        self.flows = self.algorithm.flows(EngineFacts("tiny"), len(self.clients), self.size)
        self.layout = Layout.of({"w": torch.zeros(self.size, dtype=torch.float64)})
        self.memory: dict[str, dict[str, dict[str, Tensor]]] = {}
        self.secrets: dict[str, dict[str, Tensor]] = {}

    def start(self) -> State:
        return self.algorithm.initial_state(torch.linspace(1.0, 2.0, self.size, dtype=torch.float64))

    def run(self, rounds: int) -> State:
        state = self.start()
        for _ in range(rounds):
            state = self.round(state)
        return state

    def round(self, state: State, completed: Sequence[Answer] = ()) -> State:
        return drive(self.generator(state), EffectHandler(self.send), completed)

    def generator(self, state: State, cohort: tuple[str, ...] | None = None):
        key = Key.root(self.seed)
        if cohort is None:
            cohort = self.algorithm.cohort(self.clients, state.round, key)
        rest = {"layout": self.layout, "flows": self.flows, "population": len(self.clients)}
        return self.algorithm.round(state, cohort, key=key, **rest)

    def send(self, ask: Ask) -> Answer:
        self.asked.append(ask)
        if isinstance(ask.request, Measure):
            losses = [float(self.population[client].loss(ask.message.params)) for client in ask.cohort]
            return Answer(reports=Reports(ask.cohort, metrics={"train_loss": losses}))
        if not isinstance(ask.request, Train):
            return Answer(replies=dict(self._replies(ask)))
        total, reports = ExactTotal(), []
        for client in self.arrival(ask.cohort):
            status = "dropped" if client in self.lost else self._count(client, ask, total)
            reports.append(ClientReport(client, status))
        return Answer(total, reports=sorted(reports, key=lambda report: report.client))

    def _replies(self, ask: Ask) -> Iterator[tuple[str, dict[str, Tensor]]]:
        label, protocol = self.algorithm.chain.protocol
        for client in ask.cohort:
            own, facts = ask.request_for(client), self.exchange_context(ask, client)
            reply, self.secrets[client] = protocol.answer(own, self.secrets.get(client, {}), facts.at(label))
            yield client, reply

    def exchange_context(self, ask: Ask, client: str) -> ExchangeContext:
        """The facts of a protocol's exchanges."""
        key, (label, _) = Key.root(self.seed), self.algorithm.chain.protocol
        return ExchangeContext(
            client=client,
            key=key.derive(ask.round, client),
            private=key.derive("private", client),
            signer=DerivedSigner(client, key),
            run="run",
            round=ask.round,
            attempt=ask.attempt,
            chain=self.algorithm.chain.fingerprint,
            flow=self.flows[-1],
            model_hash=ask.message.digest(label) if isinstance(ask.request, Train) else b"",
        )

    def _count(self, client: str, ask: Ask, total: ExactTotal) -> str:
        links, size = self.algorithm.chain, self.size
        update, memory = self._train(client, ask)
        self.sent[client] = update
        Promise.of(links, self.flows, size).check(update, client, self.population[client].examples)
        lifted = links.lift(update, self._at_server(ask), self.flows)
        if links.aggregator.whole_cohort:
            total.add_row(client, lifted)
        else:
            total.add(lifted)
        self.memory[client] = memory
        if client in self.secrets:
            own, facts = ask.request_for(client), self.exchange_context(ask, client)
            self.secrets[client] = self.algorithm.spent(own, self.secrets[client], facts)
        return "counted"

    def _at_server(self, ask: Ask) -> ServerContext:
        w, key = ask.message.params, Key.root(self.seed).derive("server", ask.round)
        counts = {"population": len(self.clients), "asked_params": w}
        return ServerContext(ask.round, key, self.layout, self.flows[-1], w, **counts)

    def _train(self, client: str, ask: Ask) -> tuple[Update, dict]:
        links, loop, problem = self.algorithm.chain, self.algorithm.trainer, self.population[client]
        start, told = ask.message.params, ask.message.stages
        memory = self.memory.get(client) or links.remember(start)
        key, examples = Key.root(self.seed).derive(ask.round, client), torch.tensor(problem.examples)
        shared = (ask.round, key, self.layout, self.flows[-1], start)
        before = StepContext(*shared, examples=examples)
        w, velocity, effective_lr, push, steps = start, torch.zeros_like(start), 0.0, 0.0, []
        free, free_push = 0.0, 0.0
        count, proximal = problem.steps or loop.steps, self.flows[-1].proximal
        for _ in range(count):

            def ruled(value: Tensor, w: Tensor = w, *, steering: bool) -> Tensor:
                for label, stage in links.step_rules:
                    here = at(before, label, told, self.flows, links.labels.index(label))
                    if stage.after_momentum == steering:
                        value = stage.step(value, w, memory.get(label, {}), here)
                return value

            velocity = loop.momentum * velocity + ruled(problem.grad(w), steering=False)
            push = loop.momentum * push + 1.0 - proximal * effective_lr
            step, effective_lr = -loop.lr * ruled(velocity, steering=True), effective_lr + loop.lr * push
            free_push = loop.momentum * free_push + 1.0
            free += loop.lr * free_push
            w = w + step
            steps.append(step)
        movement = w - start
        rates = {"effective_lr": effective_lr, "free_effective_lr": free, "lr_sum": count * loop.lr}
        ctx = ClientContext(
            *shared,
            examples=examples,
            movement=movement,
            steps=torch.tensor(count),
            measurements={
                "initial_gradient": problem.grad(start),
                "initial_loss": problem.loss(start),
                "validation_loss": problem.loss(start + 0.1),
                "label_entropy": torch.tensor(1 / problem.examples, dtype=torch.float64),
            },
            secret=self.secrets.get(client, {}),
            exchange=self.exchange_context(ask, client) if client in self.secrets else None,
            **{name: torch.tensor(rate, dtype=torch.float64) for name, rate in rates.items()},
        )
        delta = movement + self._extra(torch.stack(steps), ctx, told)
        update = Update.of(delta, float(problem.examples))
        return links.send(update, memory, ctx, told, self.flows)

    def _extra(self, steps: Tensor, ctx: ClientContext, told: dict) -> Tensor:
        """What combining the steps adds to the movement."""
        combiner = self.algorithm.chain.combiner
        if combiner is None:
            return torch.zeros_like(steps[0])
        label, stage = combiner
        shared = (ctx.round, ctx.key, ctx.layout, ctx.flow, ctx.global_params)
        squared = torch.linalg.vector_norm(ctx.movement) ** 2
        here = CombineContext(*shared, examples=ctx.examples, steps=ctx.steps, squared_movement=squared)
        here = at(here, label, told, self.flows, self.algorithm.chain.labels.index(label))
        return (stage.combine(steps @ steps.T, here) - 1) @ steps


def quadratics(clients: int, size: int, seed: int = 0) -> list[Quadratic]:
    """Positive definite quadratics with different minima, curvatures and sizes."""
    made = []
    for i in range(clients):
        numbers = Key.root(seed).derive("quadratic", i).uniform(size * (size + 1) + 1) - 0.5
        root, b = numbers[: size * size].reshape(size, size), 6 * numbers[size * size : -1]
        A = root @ root.T + 0.2 * torch.eye(size, dtype=torch.float64)
        made.append(Quadratic(A, b, examples=1 + int(20 * (numbers[-1] + 0.5))))
    return made


def engine(*stages: Stage, problems=None, loop=None, rounds=(), quorum=None, **options) -> Tiny:
    """The tiny engine for a chain of these stages."""
    problems = problems if problems is not None else quadratics(4, 3)
    algorithm = Algorithm(chain(*stages), loop or Loop(), Listed(rounds), quorum or Quorum())
    return Tiny(algorithm, problems, **options)
