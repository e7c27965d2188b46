"""Clients and a server of a secure sum without an engine: who drops out when, and what a hostile server changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from headway.client.derived_signer import DerivedSigner
from headway.core.chain import chain
from headway.core.context import ClientContext, ExchangeContext, ServerContext
from headway.core.errors import ExchangeRefused, UpdateRejected
from headway.core.flow import Flow, SamplerFacts
from headway.core.layout import Layout
from headway.core.stage import Aggregator
from headway.core.update import Update
from headway.numerics.keys import Key
from headway.protocol.messages import Answer, Ask, Exchange, Message, Train
from headway.protocol.reports import ClientReport
from headway.protocol.sums import ExactTotal
from headway.stages import Clip, Mean, Median, Quantize, SecureSum, Weigh

PHASES = ("advertise", "share", "train", "confirm", "unmask")
Change = Callable[[str, object], object]


def names_of(count: int) -> tuple[str, ...]:
    return tuple(f"c{place:03d}" for place in range(count))


@dataclass
class Parties:
    """A cohort of so many clients, each with integers `[size]` and a weight.

    lost: the clients that answer no more from a phase on, by phase.  change: of a request before a client gets it.
    """

    stage: SecureSum = SecureSum()
    count: int = 6
    size: int = 4
    bits: int = 8
    cap: int = 1
    round: int = 0
    attempt: int = 0
    lost: dict[str, set[str]] = field(default_factory=dict)
    change: Change = lambda client, request: request
    weights: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    rule: Aggregator = Median(1)  # where there are buckets

    def __post_init__(self) -> None:
        self.names = names_of(self.count)
        self.secrets = {name: {} for name in self.names}
        self.sent: dict[str, Update] = {}
        self.refusals: dict[str, str] = {}
        self.asked: list[Ask] = []
        self.replies: dict[str, dict] = {}
        large = (1 << (self.bits - 1)) - 1
        draw = Key.root(self.seed).derive("codes").integers(-large, large, self.count * self.size)
        self.codes = dict(zip(self.names, draw.reshape(self.count, self.size), strict=True))
        coded = (Clip(), Quantize(self.bits), self.stage)
        links = (
            chain(Weigh("capped", cap=self.cap), *coded, Mean())
            if self.stage.buckets == 1
            else chain(*coded, self.rule)
        )
        sampler = SamplerFacts("all", float(self.count), self.count)
        self.flows = links.trace(Flow(sampler=sampler, size=self.size))
        self.links, self.fingerprint = links, links.fingerprint
        self.model = torch.arange(float(self.size))

    def weight(self, name: str) -> float:
        return self.weights.get(name, float(self.cap))

    def plain(self, names) -> torch.Tensor:
        """The sum of the integers of some clients."""
        return torch.stack([self.codes[name] for name in names]).sum(0)

    def facts(self, name: str, request, **changes) -> ExchangeContext:
        key = Key.root(self.seed)
        given = {
            "client": name,
            "key": key.derive("key", name),
            "private": key.derive("private", name, self.seed, request.round, request.attempt),
            "signer": DerivedSigner(name, key),
            "run": "run",
            "round": request.round,
            "attempt": request.attempt,
            "chain": self.fingerprint,
            "flow": self.flows[-1],
            "model_hash": request.message.digest("SecureSum") if isinstance(request, Train) else b"",
        }
        return ExchangeContext(**{**given, **changes})

    def run(self) -> Answer:
        """The answer of the round."""
        ask = Ask(Train(Message(self.model), self.round, self.attempt), self.names)
        key, layout = Key.root(0), Layout.of({"w": self.model})
        ctx = ServerContext(0, key, layout, self.flows[-1], self.model, population=self.count, asked_params=self.model)
        self.ctx = ctx
        exchange, reply = self.stage.exchange(ask, ctx), None
        try:
            while True:
                reply = self.respond(exchange.send(reply))
        except StopIteration as end:
            return end.value

    def respond(self, ask: Ask) -> Answer:
        self.asked.append(ask)
        phase = "train" if isinstance(ask.request, Train) else ask.request.name
        gone = set().union(*(self.lost.get(earlier, set()) for earlier in PHASES[: PHASES.index(phase) + 1]))
        total, reports, replies = ExactTotal(), [], {}
        for name in ask.cohort:
            request = self.change(name, ask.request_for(name))
            if name in gone or request is None:
                reports.append(ClientReport(name, "dropped"))
                continue
            try:
                if isinstance(request, Train):
                    update = self.train(name, request)
                    total.add_row(name, update) if self.stage.buckets > 1 else total.add(update)
                    reports.append(ClientReport(name, "counted"))
                else:
                    replies[name] = self.exchange(name, request)
            except (ExchangeRefused, UpdateRejected) as refusal:
                self.refusals[name] = str(refusal)
                reports.append(ClientReport(name, "rejected"))
        self.replies[phase] = replies
        return Answer(total, replies, reports=reports if phase == "train" else [])

    def exchange(self, name: str, request: Exchange) -> dict:
        reply, self.secrets[name] = self.stage.answer(request, self.secrets[name], self.facts(name, request))
        return reply

    def train(self, name: str, request: Train) -> Update:
        """A client's masked update, with the secret after it."""
        one, none = torch.tensor(1), torch.zeros(self.size)
        facts = self.facts(name, request)
        numbers = dict.fromkeys(("effective_lr", "free_effective_lr", "lr_sum"), torch.tensor(1.0))
        ctx = ClientContext(
            round=request.round,
            key=Key.root(0),
            layout=Layout.of({"w": self.model}),
            flow=self.flows[-3],
            global_params=self.model,
            received=request.message.stages.get("SecureSum", {}),
            examples=one,
            movement=none,
            steps=one,
            secret=self.secrets[name],
            exchange=facts,
            **numbers,
        )
        update = Update.of(self.codes[name], self.weight(name))
        self.sent[name], _ = self.stage.send(update, {}, ctx)
        if self.stage.mode == "real":
            self.secrets[name] = self.stage.spent(self.secrets[name], request, facts)
        return self.sent[name]


def with_tensor(request, name: str, tensor):
    """A request with another tensor in its message."""
    stages = {**request.message.stages["SecureSum"], name: tensor}
    return replace(request, message=replace(request.message, stages={"SecureSum": stages}))


def flipped(tensor: torch.Tensor, place: int) -> torch.Tensor:
    """A bitmap with one client's bit changed."""
    changed = tensor.clone()
    changed[place // 8] ^= 1 << (place % 8)
    return changed
