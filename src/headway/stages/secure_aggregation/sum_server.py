"""The server's half of a secure sum: it passes keys and shares on, and takes the masks off the sum.

It is a generator of asks without I/O.  A client that does not answer a phase is lost from it on; with too few left the
round ends without a sum, and nothing is unmasked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from headway.core.errors import ExchangeRefused
from headway.core.update import Tensors
from headway.protocol.messages import Answer, Ask, Message
from headway.stages.secure_aggregation import key_agreement as keys
from headway.stages.secure_aggregation.mask_stream import StreamCipher, Words, add_masks
from headway.stages.secure_aggregation.masking_client import (
    SEALED,
    SIGNATURE,
    commitment_of,
    own_mask_key,
    pair_mask_key,
)
from headway.stages.secure_aggregation.secret_sharing import SHARE, secret_of
from headway.stages.secure_aggregation.sum_rules import RoundEnded, Rules
from headway.stages.secure_aggregation.transcript import (
    Cohort,
    Members,
    SumBinding,
    rows_of,
    sharing_list,
    to_tensor,
)

KEYS = {"keys": 2 * keys.KEY, "signature": SIGNATURE, "context": keys.KEY, "commitment": keys.KEY}  # bytes of each


@dataclass
class SumServer:
    """The server in one round and attempt.

    label: of the stage in messages.  train: the ask for updates.  cipher: of the masks.  bucket: whether the sum is
    one of several in the round.
    notes: what a user should know.
    """

    label: str
    rules: Rules
    train: Ask
    cipher: StreamCipher = "aes"
    bucket: bool = False
    notes: list[str] = field(default_factory=list)
    advertised: dict[int, dict[str, bytes]] = field(default_factory=dict, repr=False)
    shares: dict[int, dict[int, bytes]] = field(default_factory=dict, repr=False)

    def masked(self) -> Generator[Ask, Answer, tuple[Answer, Masks]]:
        """The five phases: the answer to Train, with the sum of the survivors' masked vectors, and the masks in it.

        Raises:
            RoundEnded: if too few clients remain, before anything is unmasked.
        """
        self.rules.check_cohort(len(self.cohort.names))
        present = yield from self._keys()
        sharing, sealed = yield from self._shares(present)
        answer = yield self._training(sharing)
        try:
            survivors = self._enough(self._places(answer.counted) & sharing, "sent a masked vector")
            signatures = yield from self._signatures(survivors, sharing, sealed)
            yield from self._reveal(signatures, survivors, sharing)
            return answer, self._masks(survivors, sharing)
        except RoundEnded as end:
            raise RoundEnded(end.reason, answer) from None

    @cached_property
    def cohort(self) -> Cohort:
        """The clients that are asked."""
        return Cohort(tuple(sorted(self.train.cohort)), self.rules)

    @cached_property
    def present(self) -> Members:
        """The clients that sent keys."""
        return frozenset(self.advertised)

    @cached_property
    def context(self) -> bytes:
        """The digest of the run, the chain, the round, the attempt and the cohort, as the clients have made it."""
        return Counter(sent["context"] for sent in self.advertised.values()).most_common(1)[0][0]

    @cached_property
    def graph(self) -> dict[int, tuple[int, ...]]:
        """The neighbours of each client that sent keys."""
        return self.cohort.graph(self.context, self.present)

    # the phases ------------------------------------------------------------------------------------------------

    def _keys(self) -> Generator[Ask, Answer, Members]:
        answer = yield self._ask("advertise", {"names": self.cohort.to_tensor()}, range(len(self.cohort.names)))
        for place, reply in self._by_place(answer.replies):
            with self._leaving_out(place):
                self.advertised[place] = {name: rows_of(reply[name].unsqueeze(0), 1, n)[0] for name, n in KEYS.items()}
        if self.advertised:
            for place in [place for place, sent in self.advertised.items() if sent["context"] != self.context]:
                self._leave_out(place, "its keys are for another run, chain, round or cohort")
                del self.advertised[place]
        return self._enough(self.present, "sent keys")

    def _shares(self, present: Members) -> Generator[Ask, Answer, tuple[Members, dict[tuple[int, int], bytes]]]:
        sent = {place: reply["keys"] + reply["signature"] for place, reply in self.advertised.items()}
        private = {
            place: {"keys": to_tensor(b"".join(sent[peer] for peer in around), len(around))}
            for place, around in self.graph.items()
        }
        ask = self._ask("share", {"present": to_tensor(self.cohort.bitmap(present))}, present, private)
        answer, sealed, sharing = (yield ask), dict[tuple[int, int], bytes](), set[int]()
        for place, reply in self._by_place(answer.replies):
            with self._leaving_out(place):
                around = self.graph[place]
                rows = rows_of(reply["shares"], len(around), SEALED)
                sealed |= {(place, peer): row for peer, row in zip(around, rows, strict=True)}
                sharing.add(place)
        return self._enough(frozenset(sharing), "shared secrets"), sealed

    def _training(self, sharing: Members) -> Ask:
        message = self.train.message
        name = sharing_list(self.context) if self.bucket else "sharing"
        stages = {**message.stages, self.label: {name: to_tensor(self.cohort.bitmap(sharing))}}
        return self.train.with_message(replace(message, stages=stages), self._names(sharing))

    def _signatures(
        self, survivors: Members, sharing: Members, sealed: Mapping[tuple[int, int], bytes]
    ) -> Generator[Ask, Answer, dict[int, bytes]]:
        private = {}
        for place in survivors:
            rows = [sealed[peer, place] for peer in self.graph[place] if peer in sharing]
            private[place] = {"shares": to_tensor(b"".join(rows), len(rows))}
        answer = yield self._ask("confirm", {"survivors": to_tensor(self.cohort.bitmap(survivors))}, survivors, private)
        found = dict[int, bytes]()
        for place, reply in self._by_place(answer.replies):
            with self._leaving_out(place):
                found[place] = rows_of(reply["signature"].unsqueeze(0), 1, SIGNATURE)[0]
        self._enough(frozenset(found), "signed the list of survivors")
        return found

    def _reveal(
        self, signatures: Mapping[int, bytes], survivors: Members, sharing: Members
    ) -> Generator[Ask, Answer, None]:
        signers = sorted(signatures)[: self.cohort.needed]
        request = {
            "survived": to_tensor(self.cohort.bitmap(survivors)),
            "lost": to_tensor(self.cohort.bitmap(sharing - survivors)),
            "signers": to_tensor(self.cohort.bitmap(signers)),
            "signatures": to_tensor(b"".join(signatures[place] for place in signers), len(signers)),
        }
        answer, responded = (yield self._ask("unmask", request, signatures)), set[int]()
        for place, reply in self._by_place(answer.replies):
            with self._leaving_out(place):
                held = [place, *(peer for peer in self.graph[place] if peer in sharing)]
                for owner, share in zip(held, rows_of(reply["shares"], len(held), SHARE), strict=True):
                    self.shares.setdefault(owner, {})[place + 1] = share
                responded.add(place)
        self._enough(frozenset(responded), "sent the shares that unmask the sum")

    def _masks(self, survivors: Members, sharing: Members) -> Masks:
        """The masks that are in the sum of the survivors' vectors: their own ones, and those shared with the lost."""
        model_hash = self.train.message.digest(self.label)
        present, shared = self.cohort.bitmap(self.present), self.cohort.bitmap(sharing)
        binding = SumBinding(self.context, present, shared, model_hash).digest
        added = [own_mask_key(self._secret(place, commitment=True), binding) for place in sorted(survivors)]
        subtracted = list[bytes]()
        for lost in sorted(sharing - survivors):
            private = keys.PrivateKey(self._secret(lost, commitment=False))
            for place in self.graph[lost]:
                if place in survivors:
                    secret = self._agreed(private, place)
                    (added if place < lost else subtracted).append(pair_mask_key(secret, binding, place, lost))
        return Masks(tuple(added), tuple(subtracted), self.cipher)

    def _agreed(self, private: keys.PrivateKey, place: int) -> bytes:
        """What a lost client has in common with a survivor."""
        try:
            return private.agreed(self.advertised[place]["keys"][: keys.KEY])
        except ValueError as error:
            raise RoundEnded(f"the key of {self.cohort.names[place]!r} agrees with none ({error})") from error

    def _secret(self, place: int, commitment: bool) -> bytes:
        """The key of a survivor's own mask, or the private key of a lost client, from its shares."""
        threshold, found = self.cohort.plan(self.present).threshold, self.shares.get(place, {})
        secret, name, sent = secret_of(found, threshold), self.cohort.names[place], self.advertised[place]
        if secret is None and len(found) < threshold:
            raise RoundEnded(f"{len(found)} shares of the secret of {name!r} came, and {threshold} are needed")
        if commitment:
            right = secret is not None and commitment_of(secret) == sent["commitment"]
        else:
            right = secret is not None and keys.PrivateKey(secret).public == sent["keys"][: keys.KEY]
        if secret is None or not right:
            raise RoundEnded(f"the shares of the secret of {name!r} do not give it: a client sent another share")
        return secret

    # messages and members --------------------------------------------------------------------------------------

    def _ask(
        self, name: str, tensors: Tensors, places: Iterable[int], private: Mapping[int, Tensors] | None = None
    ) -> Ask:
        ask = self.train.exchange(name, Message(torch.empty(0), {self.label: tensors}), self._names(places))
        return replace(ask, private={self.cohort.names[place]: own for place, own in (private or {}).items()})

    def _names(self, places: Iterable[int]) -> tuple[str, ...]:
        return tuple(self.cohort.names[place] for place in sorted(places))

    def _places(self, names: Iterable[str]) -> Members:
        places = {name: place for place, name in enumerate(self.cohort.names)}
        return frozenset(places[name] for name in names)

    def _by_place(self, replies: Mapping[str, Tensors]) -> list[tuple[int, Tensors]]:
        return [(place, replies[name]) for place, name in enumerate(self.cohort.names) if name in replies]

    @contextmanager
    def _leaving_out(self, place: int) -> Iterator[None]:
        """Leaves a client out whose reply has not the form of the phase, with a note."""
        try:
            yield
        except (ExchangeRefused, KeyError) as error:
            self._leave_out(place, f"its reply has not the form of the phase ({error})")

    def _leave_out(self, place: int, reason: str) -> None:
        self.notes.append(f"{self.cohort.names[place]!r} was left out of the secure sum: {reason}.")

    def _enough(self, members: Members, did: str) -> Members:
        if len(members) < self.cohort.needed:
            asked = len(self.cohort.names)
            raise RoundEnded(
                f"{len(members)} of {asked} clients {did}, and {self.cohort.needed} must remain: nothing was unmasked"
            )
        return members


@dataclass(frozen=True)
class Masks:
    """The masks in a sum, by their keys: those that clients added, and those that they subtracted."""

    added: tuple[bytes, ...] = field(repr=False)
    subtracted: tuple[bytes, ...] = field(repr=False)
    cipher: StreamCipher

    def taken_off(self, total: Words) -> None:
        """Takes them off the sum, in place."""
        add_masks(total, self.subtracted, self.added, self.cipher)
