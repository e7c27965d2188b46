"""The secure sum as a stage: its facts, its ring vector, and its two halves."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, final

import torch
from torch import Tensor

from headway.core.context import ClientContext, ExchangeContext, ServerContext
from headway.core.errors import ConfigError, ExchangeRefused, UpdateRejected
from headway.core.fields import at_least, between
from headway.core.flow import Flow, VectorSpec
from headway.core.stage import Place, Protocol, stages
from headway.core.update import Tensors, Update
from headway.numerics.keys import Key
from headway.numerics.ring import RingLayout, noise_tail, ring_bits
from headway.protocol.messages import Answer, Ask, Exchange, Train
from headway.protocol.sums import ExactTotal
from headway.stages.secure_aggregation.sum_rules import RoundEnded, Rules

if TYPE_CHECKING:
    from headway.stages.secure_aggregation.sum_server import Masks

NUMBERS = "numbers"  # the vector of the coordinates after the update's own: one for each client, and the weight


@final
@stages.register
@dataclass(frozen=True)
class SecureSum(Protocol):
    """The server sees the sum of the cohort's updates, and no single one of them, also where clients drop out.

    Formula: client u sends `y_u = x_u + PRG(b_u) + sum_{v > u} PRG(s_uv) - sum_{v < u} PRG(s_uv)` modulo `2^b` over its
    neighbours v.  From the shares that their neighbours hold, of which each gives one or the other, the server has b_u
    of each survivor and the key of s_uv of each lost client; then `sum_u y_u` less these masks is `sum_u x_u` exactly.
    x_u are the integers of all vectors that travel, a one that counts clients, and the weight in pieces; b is the
    fewest bits for which the sum of the largest cohort cannot overflow, of independent draws the largest but for a
    probability of 2^-59; a round of more clients has no sum.  `mode = "ideal"` sends x_u without masks, for
    simulation at the speed of an ordinary sum: the same total, bit for bit.

    threshold: the share of the asked clients that must remain to the end, above half.  min_cohort, min_survivors: the
    fewest clients asked, and remaining; below any of them the round ends without a sum, and nothing is unmasked.
    corrupt: the share of clients that may collude with the server, with which the neighbours of large cohorts (above
    64) are planned.  cipher: of the masks; ChaCha20 where the processors have no instructions for AES.
    buckets: in how many groups, drawn from the round's public key, the cohort is cut; each has a sum of its own, with
    keys, a threshold, and the fewest clients of its own, and a robust rule aggregates their means: the server sees a
    sum of each.  An attacker spoils the sum of its own bucket alone, so that the rule must withstand as many spoiled
    sums as there are attackers.  A bucket with too few clients to the end is left out.

    Raises:
        ConfigError: unless `2 threshold > 1 + corrupt`, with which no two lists of survivors can both be signed by
            enough clients, and min_survivors is at most min_cohort.
        ChainRefused: without integers of a common scale, for vectors with gaps, late updates, weights without a limit,
            a sum of more than 62 bits, or buckets without a robust rule that as many as there are suffice for.

    Reference: Bonawitz et al., eprint 2017/281, Figure 4 (all rounds, with the consistency check); Bell et al., eprint
    2020/704, section 3, for the neighbours of large cohorts.
    Differs from the paper: every key is bound to the digests of the model and of the chain; a list of survivors is
    signed by the threshold of the whole cohort, not of neighbours; the server detects a wrong share by digests.

    >>> SecureSum(threshold=0.8)
    SecureSum(threshold=0.8, min_cohort=5, min_survivors=4, corrupt=0.2, cipher='aes', mode='real', buckets=1)
    """

    place: ClassVar[Place] = Place.MASK
    threshold: float = between(0.5, 1, 0.7, without=0.5)
    min_cohort: int = at_least(3, 5)
    min_survivors: int = at_least(2, 4)
    corrupt: float = between(0, 1, 0.2, without=1)
    cipher: Literal["aes", "chacha20"] = "aes"
    mode: Literal["real", "ideal"] = "real"
    buckets: int = at_least(1, 1)

    def __post_init__(self) -> None:
        if not (2 * self.threshold > 1 + self.corrupt and self.min_survivors <= self.min_cohort):
            raise ConfigError(
                f"{self!r} needs 2 threshold > 1 + corrupt, and min_survivors of at most min_cohort: a server could "
                "otherwise have two lists of survivors signed, or no round could end."
            )

    def connect(self, flow: Flow) -> Flow:
        """Needs integers of one scale that all clients send whole, in one round; then only their sum is seen."""
        flow.require(self, ring=True, bounded_integers=True, additive=True, dense=True, limited_terms=True)
        flow.require(self, simulated=self.mode == "ideal")
        flow.require(self, cohort_size=True, synchronous="the masks of different rounds do not cancel")
        layout = self._layout(flow, {})
        bits = layout.bits if _most(flow) else None
        names = dict.fromkeys((*flow.vectors, *flow.specs))
        specs = {name: replace(flow.spec(name), number="integer", bits=bits) for name in names}
        flow = flow.recode(self, **specs, **{NUMBERS: VectorSpec(layout.size, "integer", bits)})
        fewest = self.rules.needed(self.min_cohort)
        flow = flow.set(self, exposed=(), fewest=fewest, min_cohort=self.buckets * self.min_cohort)
        if self.buckets == 1:
            flow = flow.set(self, server_sees="sum", min_updates=max(flow.min_updates, fewest))
        else:
            flow = self._of_buckets(flow)
        flow = flow.keep(self, "additive", "dense", "bound")
        flow.require(self, large_cohort=True, enough_shares=True)
        return flow.warn(
            "what single clients send is hidden by SecureSum, so that nobody can check whether a client has clipped: a "
            "client that lies may move the sum without limit."
        )

    def _of_buckets(self, flow: Flow) -> Flow:
        """The facts of several sums: each has its own fewest clients, and the noise of its own shares.  Who is in a
        bucket depends on who else is in the cohort, so that a draw of clients amplifies nothing."""
        flow = flow.set(self, server_sees="bucket sums", buckets=self.buckets, min_updates=1)
        events = tuple(
            replace(event, details={**event.details, "buckets": self.buckets}) if event.at == "distributed" else event
            for event in flow.events
        )
        sampler = None if flow.sampler is None else replace(flow.sampler, rate=None, most=_most(flow))
        return replace(flow, events=events, sampler=sampler)

    @property
    def exchanges(self) -> bool:
        """Whether clients are asked for more than updates."""
        return self.mode == "real"

    @cached_property
    def rules(self) -> Rules:
        """The stage's own numbers."""
        return Rules(self.threshold, self.min_cohort, self.min_survivors, self.corrupt)

    def rules_in(self, flow: Flow) -> Rules:
        """The numbers that every client holds the server to: shared noise may need more survivors."""
        fewest = flow.survivors if self.buckets > 1 else flow.min_updates
        return replace(self.rules, min_survivors=max(self.min_survivors, fewest), most=self._most(flow))

    # the client ------------------------------------------------------------------------------------------------

    def answer(self, request: Exchange, secret: Tensors, ctx: ExchangeContext) -> tuple[Tensors, Tensors]:
        """The reply to a phase: keys, sealed shares, a signature, or shares."""
        from headway.stages.secure_aggregation.masking_client import MaskingClient

        sent = {**request.message.stages.get(_label(self), {}), **(request.private if self.buckets > 1 else {})}
        return MaskingClient(self.rules_in(ctx.flow), secret, ctx).answer(request.name, sent, request.private)

    def send(self, update: Update, memory: Tensors, ctx: ClientContext) -> tuple[Update, Tensors]:
        """The update as one vector modulo `2^b`, masked; its weight is in it, and zero outside."""
        assert not update.sums
        layout = self._layout(ctx.flow, {name: vector.shape[-1] for name, vector in update.vectors.items()})
        one = torch.ones_like(update.weight, dtype=torch.int64).unsqueeze(-1)
        whole = layout.join({**update.vectors, "clients": one}, {"weight": update.weight})
        if self.mode == "real":
            whole = self._masked(whole, layout.bits, ctx)
        return Update(_parts(whole, layout), torch.zeros_like(update.weight)), memory

    def spent(self, secret: Tensors, request: Train, ctx: ExchangeContext) -> Tensors:
        """The secret without the keys of masks, which no second update can be masked with."""
        from headway.stages.secure_aggregation.masking_client import MaskingClient

        return MaskingClient(self.rules_in(ctx.flow), secret, ctx).spent(request.message.stages[_label(self)])

    def _masked(self, whole: Tensor, bits: int, ctx: ClientContext) -> Tensor:
        from headway.stages.secure_aggregation.mask_stream import add_masks, word_type
        from headway.stages.secure_aggregation.masking_client import MaskingClient

        assert ctx.exchange is not None
        try:
            client = MaskingClient(self.rules_in(ctx.exchange.flow), ctx.secret, ctx.exchange)
            added, subtracted = client.mask_keys(ctx.received)
        except (ExchangeRefused, ValueError) as refusal:  # a neighbour may have sent a key of low order
            raise UpdateRejected(ctx.exchange.client, str(refusal).removesuffix(".")) from refusal
        numbers = whole.cpu().numpy().astype(word_type(bits))
        add_masks(numbers, added, subtracted, self.cipher)
        numbers &= (1 << bits) - 1
        return torch.from_numpy(numbers.astype("int64")).to(whole.device)

    # the server ------------------------------------------------------------------------------------------------

    def exchange(self, train: Ask, ctx: ServerContext) -> Generator[Ask, Answer, Answer]:
        """The five phases around Train, and the sum of the survivors; nothing is counted where too few remain."""
        rules = self.rules_in(ctx.flow)
        try:
            if self.buckets > 1:
                return (yield from self._in_buckets(train, ctx))
            rules.check_quorum(train)
            if self.mode == "ideal":
                answer = yield from rules.plain(train)
                return replace(answer, total=self._total(answer, None, ctx.flow))
            return (yield from self._protected(train, ctx.flow))
        except RoundEnded as end:
            answer, sentence = end.answer or Answer(), f"the round has no secure sum: {end.reason}."
            return Answer(reports=answer.reports.uncounted(sentence), notes=(*answer.notes, sentence))

    def _protected(self, train: Ask, flow: Flow) -> Generator[Ask, Answer, Answer]:
        from headway.stages.secure_aggregation.sum_server import SumServer

        server = SumServer(_label(self), self.rules_in(flow), train, self.cipher)
        answer, masks = yield from server.masked()
        return replace(answer, total=self._total(answer, masks, flow), notes=(*answer.notes, *server.notes))

    def _in_buckets(self, train: Ask, ctx: ServerContext) -> Generator[Ask, Answer, Answer]:
        from headway.stages.secure_aggregation.bucket_sums import BucketSums, buckets_of

        flow, rules = ctx.flow, self.rules_in(ctx.flow)
        assert isinstance(ctx.key, Key)  # of the server there is one
        cohort = buckets_of(train.cohort, self.buckets, ctx.key.derive(_label(self), "buckets"))
        sums = BucketSums(_label(self), train, rules, cohort, flow.min_updates)
        sums.check()
        if self.mode == "ideal":
            plain = {name: rules.plain(ask) for name, ask in sums.asks().items()}
            trained, answers = yield from sums.together(plain)
            return sums.answer(trained, answers, lambda answer: self._total(answer, None, flow))
        from headway.stages.secure_aggregation.sum_server import SumServer

        servers = {name: SumServer(_label(self), rules, ask, self.cipher, True) for name, ask in sums.asks().items()}
        trained, found = yield from sums.together({name: server.masked() for name, server in servers.items()})
        answer = sums.answer(trained, found, lambda result: self._total(*result, flow))
        return replace(answer, notes=(*answer.notes, *(note for each in servers.values() for note in each.notes)))

    def _total(self, answer: Answer, masks: Masks | None, flow: Flow) -> ExactTotal:
        """The total of the survivors' updates, of which the engine has added the masked vectors."""
        sums = dict(answer.total.integers)
        tail, names = sums.pop(NUMBERS), sorted(sums)
        layout = self._layout(flow, {name: sums[name].shape[-1] for name in names})
        whole = torch.cat([*(sums[name] for name in names), tail])
        if masks is not None:
            from headway.stages.secure_aggregation.mask_stream import word_type

            numbers = whole.numpy().astype(word_type(layout.bits))
            masks.taken_off(numbers)
            whole = torch.from_numpy(numbers.astype("int64"))
        vectors, found = layout.split(whole)
        clients, weight = int(vectors.pop("clients")), float(found["weight"])
        if clients != answer.total.count or weight < 0:
            raise RoundEnded("the masks do not cancel: a client was sent another model, or sent another vector", answer)
        total = ExactTotal()
        total.weight.add(weight)
        total.integers, total.count = vectors, clients
        return total

    # both ------------------------------------------------------------------------------------------------------

    def _layout(self, flow: Flow, lengths: Mapping[str, int]) -> RingLayout:
        """The places of vectors of these lengths, sorted by name, of the count of clients and of the weight."""
        assert flow.largest is not None
        bits = ring_bits(self._most(flow) or 1, flow.largest, flow.noise_variance)
        numbers = {"weight": float(flow.lifted or 1.0)}
        return RingLayout(
            {name: lengths[name] for name in sorted(lengths)} | {"clients": 1}, bits, flow.largest, numbers
        )

    def _most(self, flow: Flow) -> int | None:
        """The largest number of clients in a sum, where it is known."""
        most = _most(flow)
        return None if most is None else -(-most // self.buckets)


def _label(stage: SecureSum) -> str:
    return type(stage).__name__


def _most(flow: Flow) -> int | None:
    """The largest number of clients in a round, where it is known; of independent draws but for a probability of
    2^-59."""
    sampler = flow.sampler
    if sampler is None:
        return None
    most = sampler.most or sampler.expected or sampler.population
    if sampler.rate is not None and sampler.most is None and sampler.population is not None:
        mean = sampler.rate * sampler.population
        most = min(sampler.population, mean + noise_tail(mean * (1 - sampler.rate)))
    return None if most is None else max(1, math.ceil(most))


def _parts(whole: Tensor, layout: RingLayout) -> dict[str, Tensor]:
    """The vector in the parts in which it travels: by name, and last the coordinates of numbers."""
    lengths = {name: count for name, count in layout.lengths.items() if name != "clients"}
    parts = whole.split([*lengths.values(), layout.size - sum(lengths.values())], dim=-1)
    return dict(zip((*lengths, NUMBERS), parts, strict=True))
