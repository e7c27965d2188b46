"""Secure sums of buckets: a cohort in groups by a public draw, each with a sum of its own, in the same five phases.

The requests of all buckets in one phase travel as one, so that a round takes no longer and an engine sees one request
to train.  A bucket that ends without a sum takes none of the others with it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import torch

from headway.core.update import Tensors, Update
from headway.numerics.keys import Key
from headway.protocol.messages import Answer, Ask, Message, Train
from headway.protocol.reports import Reports
from headway.protocol.sums import ExactTotal
from headway.stages.secure_aggregation.sum_rules import RoundEnded, Rules

S = TypeVar("S")


def buckets_of(cohort: Sequence[str], count: int, key: Key) -> dict[str, tuple[str, ...]]:
    """The clients of each bucket, sorted: the cohort in an order drawn from the key, cut into parts whose sizes differ
    by at most one.

    >>> [len(clients) for clients in buckets_of("abcdefg", 3, Key.root(0)).values()]
    [3, 2, 2]
    """
    names = sorted(cohort)
    parts = torch.tensor_split(key.permutation(len(names)), count)
    clients = [tuple(sorted(names[place] for place in part.tolist())) for part in parts]
    return {f"bucket {number:03d}": each for number, each in enumerate(clients, 1)}


@dataclass
class BucketSums:
    """The sums of the buckets of one round.

    label: of the stage in messages.  train: the ask for updates of the whole cohort.  rules: of each bucket.
    buckets: the clients of each.  needed: how many sums the rule that aggregates them needs.
    ended: the buckets without a sum, and why.  reported: the clients on which an engine has a report.
    """

    label: str
    train: Ask
    rules: Rules
    buckets: Mapping[str, tuple[str, ...]]
    needed: int
    ended: dict[str, str] = field(default_factory=dict)
    reported: set[str] = field(default_factory=set)

    def check(self) -> None:
        """Ends a round of which too few clients were asked, and refuses a quorum with which no bucket could have a sum.

        Raises:
            RoundEnded: saying how many.
            ChainRefused: if a round ends with fewer updates than must remain.
        """
        asked, count, least = len(self.train.cohort), len(self.buckets), self.rules.min_cohort
        if asked < count * least:
            raise RoundEnded(f"{asked} clients were asked, and {count} buckets have at least {least} each")
        self.rules.check_quorum(self.train, sum(self.rules.needed(len(own)) for own in self.buckets.values()))

    def asks(self) -> dict[str, Ask]:
        """The ask for updates of each bucket."""
        return {name: self.train.of(clients) for name, clients in self.buckets.items()}

    def together(
        self, rounds: Mapping[str, Generator[Ask, Answer, S]]
    ) -> Generator[Ask, Answer, tuple[Answer, dict[str, S]]]:
        """The answer to Train, and the results of the buckets' own rounds, which are in one phase at any time; without
        those that have ended.

        Raises:
            RoundEnded: as soon as fewer go on than the rule needs; up to the last phase nothing is unmasked before.
        """
        found, trained = dict[str, S](), Answer()
        asks = self._step({name: partial(next, each) for name, each in rounds.items()}, found)
        while asks:
            self._check_enough((*asks, *found), trained)
            whole = yield self._joined(asks.values())
            self.reported.update(whole.reports.clients)
            trained = whole if any(isinstance(ask.request, Train) for ask in asks.values()) else trained
            parts = {name: _part(whole, ask.cohort) for name, ask in asks.items()}
            asks = self._step({name: partial(rounds[name].send, part) for name, part in parts.items()}, found)
        self._check_enough(found, trained)
        return trained, found

    def answer(self, trained: Answer, found: Mapping[str, S], total: Callable[[S], ExactTotal]) -> Answer:
        """The answer that the round goes on with: the sum of each bucket as a row; the clients of the others dropped.

        Raises:
            RoundEnded: if fewer buckets have a sum than the rule needs.
        """
        rows = ExactTotal()
        for name, result in found.items():
            try:
                summed = total(result)
            except RoundEnded as end:
                self.ended[name] = end.reason
                continue
            rows.weight.merge(summed.weight)
            rows.count += summed.count
            rows.rows[name] = Update(summed.integers, torch.tensor(summed.weight.value(), dtype=torch.float64))
        self._check_enough(rows.rows, trained)
        reports, notes = trained.reports, list(trained.notes)
        for name, reason in self.ended.items():
            notes.append(f"{name} of {len(self.buckets)} has no secure sum: {reason}.")
            reports = reports.uncounted(notes[-1], self.buckets[name])
            untrained = [client for client in self.buckets[name] if client not in self.reported]
            reports = Reports.joined([reports, Reports(untrained, "dropped", reasons=notes[-1])])
        return replace(trained, total=rows, reports=reports.by_client(), notes=notes)

    # inside ------------------------------------------------------------------------------------------------------

    def _step(self, calls: Mapping[str, Callable[[], Ask]], found: dict[str, S]) -> dict[str, Ask]:
        """The next asks of the buckets that go on; results of those that are done are added to `found`."""
        asks = dict[str, Ask]()
        for name, call in calls.items():
            try:
                asks[name] = call()
            except StopIteration as end:
                found[name] = end.value
            except RoundEnded as end:
                self.ended[name] = end.reason
        return asks

    def _check_enough(self, going: Iterable[str], trained: Answer) -> None:
        count = len(set(going))
        if count < self.needed:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.ended.items())
            raise RoundEnded(
                f"{count} of {len(self.buckets)} buckets have one, where {self.needed} are needed ({reasons})", trained
            )

    def _joined(self, asks: Iterable[Ask]) -> Ask:
        """The requests of one phase as one: what a bucket's clients alone are asked with is private to each of them;
        in a request to train, which every client receives the same, the buckets' tensors have names of their own."""
        asks = list(asks)
        cohort = tuple(sorted(client for ask in asks for client in ask.cohort))
        if isinstance(asks[0].request, Train):
            own = {name: tensor for ask in asks for name, tensor in ask.message.stages.get(self.label, {}).items()}
            message = self.train.message
            stages = {**message.stages, **({self.label: own} if own else {})}
            return self.train.with_message(replace(message, stages=stages), cohort)
        private = dict[str, Tensors]()
        for ask in asks:
            common = ask.message.stages[self.label]
            private |= {client: {**common, **ask.private.get(client, {})} for client in ask.cohort}
        joined = asks[0].with_message(Message(torch.empty(0)), cohort)
        return replace(joined, private=private)


def _part(whole: Answer, clients: Sequence[str]) -> Answer:
    """The answer of some clients, with the sum of their integers."""
    own = set(clients)
    total = ExactTotal()
    for client in sorted(own & whole.total.rows.keys()):
        total.add(whole.total.rows[client])
    reports = Reports.of([report for report in whole.reports if report.client in own])
    replies = {client: reply for client, reply in whole.replies.items() if client in own}
    return Answer(total, replies, reports)
