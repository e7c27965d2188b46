"""The client's half of a secure sum: its keys, its shares, its masks, and what it reveals in the end.

All that it keeps between two requests is in `secret`, named tensors: an engine writes them to disk before an answer
leaves.  Each phase is answered once for a round and attempt; what a phase no longer needs is not in the next secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import torch
from torch import Tensor

from headway.core.context import ExchangeContext
from headway.core.errors import ExchangeRefused
from headway.core.update import Tensors
from headway.stages.secure_aggregation import key_agreement as keys
from headway.stages.secure_aggregation import transcript
from headway.stages.secure_aggregation.secret_sharing import SHARE, shares_of
from headway.stages.secure_aggregation.sum_rules import Rules
from headway.stages.secure_aggregation.transcript import Cohort, Members, SumBinding, rows_of, to_bytes, to_tensor

SIGNATURE = 64  # bytes
SEALED = 2 * SHARE + keys.TAG  # bytes of the two shares for one neighbour


class Phase(IntEnum):
    """How far a client is in a round and attempt."""

    ADVERTISED = 1
    SHARED = 2
    MASKED = 3
    CONFIRMED = 4
    REVEALED = 5


@dataclass(frozen=True)
class MaskingClient:
    """One client in one round and attempt, made anew for each request from its secret."""

    rules: Rules
    secret: Tensors
    ctx: ExchangeContext

    def answer(self, name: str, request: Tensors, private: Tensors) -> tuple[Tensors, Tensors]:
        """The reply to a phase by its name, and the next secret.

        Raises:
            ExchangeRefused: for a request that would reveal more than the protocol allows, or is none of its phases.
        """
        try:
            match name:
                case "advertise":
                    return self.advertise(request)
                case "share":
                    return self.share(request, private)
                case "confirm":
                    return self.confirm(request, private)
                case "unmask":
                    return self.unmask(request)
        except (KeyError, ValueError) as error:
            raise ExchangeRefused(f"the request {name!r} has not the form of its phase ({error}).") from error
        raise ExchangeRefused(f"SecureSum has no phase {name!r}.")

    def advertise(self, request: Tensors) -> tuple[Tensors, Tensors]:
        """Two fresh X25519 keys, signed for this run, round, attempt and cohort, and a digest of the own mask's key."""
        self._check_new()
        cohort = Cohort.of(request["names"], self.rules)
        if (reason := self.rules.wrong_size(len(cohort.names))) is not None:
            raise ExchangeRefused(f"a cohort of {len(cohort.names)} was asked, and {reason}.")
        if self.ctx.client not in cohort.names:
            raise ExchangeRefused(f"{self.ctx.client!r} was asked, and is not in the cohort.")
        context = cohort.context(self.ctx.run, self.ctx.chain, self.ctx.round, self.ctx.attempt)
        own = {name: self.ctx.private.derive(name).secret for name in ("mask", "channel", "own", "shares")}
        public = keys.PrivateKey(own["mask"]).public + keys.PrivateKey(own["channel"]).public
        signature = self.ctx.signer.sign(transcript.keys_text(context, self.ctx.client, public))
        reply = {"keys": public, "signature": signature, "context": context, "commitment": commitment_of(own["own"])}
        secret = {name: to_tensor(key) for name, key in own.items()}
        secret |= {"names": request["names"], "context": to_tensor(context), **self._tag(Phase.ADVERTISED)}
        return {name: to_tensor(data) for name, data in reply.items()}, secret

    def share(self, request: Tensors, private: Tensors) -> tuple[Tensors, Tensors]:
        """For each neighbour the shares of the own mask's key and of the private key of masks, sealed for it alone."""
        self._check(Phase.ADVERTISED)
        cohort, context, own = self.cohort, self._held("context"), self.place
        present = cohort.members(request["present"])
        self._check_members(present, "sent keys")
        around = cohort.graph(context, present, [own])[own]
        peers = self._peers(around, rows_of(private["keys"], len(around), 2 * keys.KEY + SIGNATURE))
        threshold, points = cohort.plan(present).threshold, [place + 1 for place in (own, *around)]
        seed, salt = self._held("shares"), keys.digest("shares", context, to_bytes(request["present"]))
        of_own = shares_of(self._held("own"), threshold, points, keys.derived(seed, salt, b"own"))
        of_mask = shares_of(self._held("mask"), threshold, points, keys.derived(seed, salt, b"mask"))
        sealed, opening = list[bytes](), list[bytes]()
        channel = keys.PrivateKey(self._held("channel"))
        for place, first, second in zip(around, of_own[1:], of_mask[1:], strict=True):
            common = channel.agreed(peers[place][keys.KEY :])
            key = keys.derived(common, salt, transcript.direction(own, place))
            sealed.append(keys.sealed(key, first + second, transcript.share_message(context, own, place)))
            opening.append(keys.derived(common, salt, transcript.direction(place, own)))
        secret = {name: self.secret[name] for name in ("mask", "own", "names", "context")}
        secret |= {"present": request["present"], "own_share": to_tensor(of_own[0]), **self._tag(Phase.SHARED)}
        rows = (peers[place][: keys.KEY] + key for place, key in zip(around, opening, strict=True))
        secret["peers"] = to_tensor(b"".join(rows), len(around))  # the public key of masks, and the key of its shares
        return {"shares": to_tensor(b"".join(sealed), len(around))}, secret

    def mask_keys(self, received: Tensors) -> tuple[list[bytes], list[bytes]]:
        """The keys of the masks that the client adds, its own first, and of those that it subtracts."""
        self._check(Phase.SHARED)
        own, sharing = self.place, self._sharing(received)
        binding = self._binding(received).digest
        added, subtracted = [own_mask_key(self._held("own"), binding)], list[bytes]()
        private = keys.PrivateKey(self._held("mask"))
        for place, peer in self._held_peers().items():
            if place in sharing:
                pair = pair_mask_key(private.agreed(peer[: keys.KEY]), binding, own, place)
                (added if own < place else subtracted).append(pair)
        return added, subtracted

    def spent(self, received: Tensors) -> Tensors:
        """The secret once the update is masked: without the keys of masks."""
        self._check(Phase.SHARED)
        secret = {name: self.secret[name] for name in ("names", "context", "present", "peers", "own_share")}
        binding = to_tensor(self._binding(received).digest)
        return {**secret, "sharing": self._list(received), "binding": binding, **self._tag(Phase.MASKED)}

    def confirm(self, request: Tensors, private: Tensors) -> tuple[Tensors, Tensors]:
        """The signature of the list of survivors, for the sum that the client's own update is masked for."""
        self._check(Phase.MASKED)
        cohort, context, own = self.cohort, self._held("context"), self.place
        sharing = cohort.members(self.secret["sharing"])
        survivors = cohort.members(request["survivors"])
        self._check_members(survivors, "sent masked vectors")
        if not survivors <= sharing:
            raise ExchangeRefused("the list of survivors names clients that shared no secrets.")
        peers = {place: peer for place, peer in self._held_peers().items() if place in sharing}
        shares = [to_bytes(self.secret["own_share"])]
        for (place, peer), message in zip(peers.items(), rows_of(private["shares"], len(peers), SEALED), strict=True):
            plain = keys.opened(peer[keys.KEY :], message, transcript.share_message(context, place, own))
            if plain is None:
                raise ExchangeRefused(
                    f"the shares that come in the name of {cohort.names[place]!r} were sealed for another client, "
                    "round or attempt, or were changed on the way."
                )
            shares.append(plain[:SHARE] if place in survivors else plain[SHARE:])
        text = transcript.survivors_text(self._held("binding"), to_bytes(request["survivors"]))
        # of each neighbour the one share is kept that its place in the signed list allows, and never the other
        secret = {name: self.secret[name] for name in ("names", "sharing", "binding")}
        secret |= {"survivors": request["survivors"], "shares": to_tensor(b"".join(shares), len(shares))}
        return {"signature": to_tensor(self.ctx.signer.sign(text))}, {**secret, **self._tag(Phase.CONFIRMED)}

    def unmask(self, request: Tensors) -> tuple[Tensors, Tensors]:
        """Of each neighbour one share: of its own mask's key if it survived, of its private key if it did not.

        Enough clients must have signed the same survivors for the same sum.
        """
        self._check(Phase.CONFIRMED)
        cohort, survivors, sharing = self.cohort, self.secret["survivors"], self.secret["sharing"]
        remaining = cohort.members(survivors)
        self._check_lists(request, remaining, cohort.members(sharing))
        signers = sorted(cohort.members(request["signers"]))
        if len(signers) < cohort.needed or not remaining.issuperset(signers):
            raise ExchangeRefused(
                f"{len(signers)} clients have signed the list of survivors, and {cohort.needed} of the survivors must."
            )
        text = transcript.survivors_text(self._held("binding"), to_bytes(survivors))
        signatures = rows_of(request["signatures"], len(signers), SIGNATURE)
        for place, signature in zip(signers, signatures, strict=True):
            if not self.ctx.signer.verify(cohort.names[place], text, signature):
                raise ExchangeRefused(
                    f"{cohort.names[place]!r} has not signed the same sum: it was sent another model, another "
                    "cohort or another list of survivors, or the signature is not its own."
                )
        return {"shares": self.secret["shares"]}, self._tag(Phase.REVEALED)

    # what is checked, and read ------------------------------------------------------------------------------

    def _check_new(self) -> None:
        """Refuses a request for keys in a round and attempt that was answered before, or after one of the same round
        in which shares were revealed."""
        if "tag" not in self.secret:
            return
        round_, attempt, phase = self.secret["tag"].tolist()
        if (self.ctx.round, self.ctx.attempt) <= (round_, attempt):
            raise ExchangeRefused(f"keys were made for round {round_}, attempt {attempt} already, and are made once.")
        if self.ctx.round == round_ and phase >= Phase.CONFIRMED:
            raise ExchangeRefused(
                f"round {round_} was answered up to its end in attempt {attempt}, and two sums of one round would show "
                "what differs between them."
            )

    def _check(self, phase: Phase) -> None:
        """Refuses a request that does not follow on the last one of the same round and attempt."""
        found = self.secret["tag"].tolist() if "tag" in self.secret else [-1, -1, 0]
        if found != [self.ctx.round, self.ctx.attempt, int(phase)]:
            raise ExchangeRefused(
                f"this request follows on {phase.name.lower()} in round {self.ctx.round}, attempt {self.ctx.attempt}; "
                f"it is at {Phase(found[2]).name.lower() if found[2] else 'none'} in round {found[0]}, attempt "
                f"{found[1]}, and answers each phase once."
            )

    def _check_members(self, members: Members, did: str) -> None:
        if self.place not in members or len(members) < self.cohort.needed:
            raise ExchangeRefused(
                f"{len(members)} clients {did}, and the sum needs {self.cohort.needed} of {len(self.cohort.names)}, "
                f"with {self.ctx.client!r} among them."
            )

    def _check_lists(self, request: Tensors, survivors: Members, sharing: Members) -> None:
        """Refuses lists of the survivors and of the lost that are not those of the signed list."""
        kept, lost = self.cohort.members(request["survived"]), self.cohort.members(request["lost"])
        if kept & lost:
            raise ExchangeRefused(
                "the lists of survivors and of lost clients overlap: both secrets of one were asked for."
            )
        if kept != survivors or lost != sharing - survivors:
            raise ExchangeRefused("the lists of survivors and of lost clients are not those that were signed.")

    def _tag(self, phase: Phase) -> dict[str, Tensor]:
        return {"tag": torch.tensor([self.ctx.round, self.ctx.attempt, int(phase)])}

    def _held(self, name: str) -> bytes:
        return to_bytes(self.secret[name])

    @cached_property
    def cohort(self) -> Cohort:
        """The cohort for which the client has made its keys."""
        return Cohort.of(self.secret["names"], self.rules)

    @cached_property
    def place(self) -> int:
        """The client's own place in the cohort."""
        return self.cohort.names.index(self.ctx.client)

    def _peers(self, around: tuple[int, ...], sent: Sequence[bytes]) -> dict[int, bytes]:
        """The public keys of the neighbours, each signed by its own identity."""
        found = dict[int, bytes]()
        for place, row in zip(around, sent, strict=True):
            public, signature = row[: 2 * keys.KEY], row[2 * keys.KEY :]
            name = self.cohort.names[place]
            if not self.ctx.signer.verify(name, transcript.keys_text(self._held("context"), name, public), signature):
                raise ExchangeRefused(
                    f"the keys that come in the name of {name!r} are not signed by it for this run, chain, round, "
                    "attempt and cohort."
                )
            found[place] = public
        return found

    def _held_peers(self) -> dict[int, bytes]:
        """Of each neighbour its public key of masks, as it was checked, and the key that opens its shares."""
        present = self.cohort.members(self.secret["present"])
        around = self.cohort.graph(self._held("context"), present, [self.place])[self.place]
        return dict(zip(around, rows_of(self.secret["peers"], len(around), 2 * keys.KEY), strict=True))

    def _list(self, received: Tensors) -> Tensor:
        """The clients that shared secrets, of the client's own bucket where there are several."""
        name = transcript.sharing_list(self._held("context"))
        found = received.get(name, received.get("sharing"))
        if found is None:
            raise ExchangeRefused("the request to train has no list of the clients that shared secrets.")
        return found

    def _sharing(self, received: Tensors) -> Members:
        sharing = self.cohort.members(self._list(received))
        self._check_members(sharing, "shared secrets")
        if not sharing <= self.cohort.members(self.secret["present"]):
            raise ExchangeRefused("the list of clients that shared secrets names some that sent no keys.")
        return sharing

    def _binding(self, received: Tensors) -> SumBinding:
        present, sharing = self._held("present"), to_bytes(self._list(received))
        return SumBinding(self._held("context"), present, sharing, self.ctx.model_hash)


def own_mask_key(seed: bytes, binding: bytes) -> bytes:
    """The key of a client's own mask in one sum."""
    return keys.derived(seed, binding, b"own mask")


def pair_mask_key(secret: bytes, binding: bytes, one: int, other: int) -> bytes:
    """The key of the mask that two clients have in common in one sum: the lower adds it, the other subtracts it."""
    return keys.derived(secret, binding, b"pair mask", transcript.direction(*sorted((one, other))))


def commitment_of(seed: bytes) -> bytes:
    """The digest by which the server knows that it has put the key of an own mask together rightly."""
    return keys.digest("own mask", seed)
