"""A round computed again from its updates: the same sums in the same groups, and the same step of the algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from headway.core.algorithm import State
from headway.core.errors import FrameError, HeadwayError
from headway.engines.grouping import groups_of
from headway.federation.spool.manifest import ModelDigests, RoundDocument, UpdateEntry
from headway.federation.spool.replay_setup import NotReplayable, ReplaySetup
from headway.federation.spool.spool import Spool
from headway.protocol.effects import EffectHandler, drive
from headway.protocol.messages import Answer, Ask, Message, Reply, SumReply, Train, UpdateReply, Version
from headway.protocol.wire_messages import Binding, read_reply, read_request
from headway.server.group_summer import StoredUpdate
from headway.server.grouped_sum import GroupedSum
from headway.server.guard import Promise


class RoundDiffers(HeadwayError):
    """A round whose updates do not lead to the model that its manifest names."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message that went out, and what replies to it are bound to."""

    message: Message
    binding: Binding


class ManifestReplay:
    """Computes rounds of a run again from their manifests and updates.

    setup: of the run's algorithm.
    """

    def __init__(self, setup: ReplaySetup, spool: Spool) -> None:
        self.setup, self.spool = setup, spool

    def next_state(self, state: State, document: RoundDocument) -> State:
        """The state after a round, from that before it and the round's updates.

        Raises:
            RoundDiffers: if it is not the one of the manifest, or an update is not what the manifest holds of it.
            NotReplayable: if a message or an update is no longer there, or the round has other exchanges.
        """
        manifest = document.manifest
        ask, entries, sent = self._counting(document)
        if not torch.equal(ask.message.params, state.params):
            raise RoundDiffers("the model that went out is not the one that the round began with")
        handler = EffectHandler(lambda effect: self._answer(effect, ask, entries, sent, document))
        after = drive(self.setup.round(state, ask.cohort, manifest), handler)
        if (found := ModelDigests.of(after)) != manifest.after:
            what = "model" if found.model != manifest.after.model else "state of the server"
            raise RoundDiffers(f"its updates lead to another {what} than the one of the manifest")
        return after

    def _answer(
        self,
        effect: Ask,
        ask: Ask,
        entries: Mapping[str, UpdateEntry],
        sent: Mapping[str, _Sent],
        document: RoundDocument,
    ) -> Answer:
        """The answer to the request to train: the sum of the updates."""
        if not isinstance(effect.request, Train):
            raise NotReplayable(f"the round has an exchange {type(effect.request).__name__}, which is not kept")
        guard, collector, lengths = self.setup.at(document.manifest)
        summed = GroupedSum(collector, ask, groups_of(ask.cohort, {}, group=document.manifest.group), None)
        relayed: dict[str, UpdateEntry] = {}
        for client in ask.cohort:
            if (entry := entries[client]).relay:
                relayed[entry.digest] = entry
            else:
                read = partial(self._update, entry, sent[entry.message].binding, guard)
                summed.accept(client, StoredUpdate(read, 0.0, 0, 0))
        for _, entry in sorted(relayed.items()):
            summed.accept_sum(self._sum(entry, sent[entry.message].binding, lengths))
        return summed.answer()

    def _update(self, entry: UpdateEntry, binding: Binding, guard: Promise) -> UpdateReply:
        reply = self._reply(entry, binding, guard.bits, guard.lengths)
        who = f"the update of client {entry.client!r}"
        if not isinstance(reply, UpdateReply):
            raise RoundDiffers(f"{who} is none, but a {type(reply).__name__}")
        if float(reply.update.weight) != entry.weight:
            raise RoundDiffers(f"{who} has the weight {float(reply.update.weight)}, in the manifest {entry.weight}")
        return reply

    def _sum(self, entry: UpdateEntry, binding: Binding, lengths: Mapping[str, int]) -> SumReply:
        """The sum of a relay, with the reports on the clients that are in it."""
        reply = self._reply(entry, binding, {}, lengths)
        if not isinstance(reply, SumReply):
            raise RoundDiffers(f"the sum of relay {entry.relay!r} is none, but a {type(reply).__name__}")
        return SumReply(reply.total, reply.reports.with_status("counted"))

    def _reply(
        self, entry: UpdateEntry, binding: Binding, bits: Mapping[str, int], lengths: Mapping[str, int]
    ) -> Reply:
        path = self.spool.path(entry.digest)
        try:
            return read_reply(path, binding, path.stat().st_size, bits, lengths)
        except FrameError as error:
            raise RoundDiffers(f"the update of client {entry.client!r} cannot be read: {error}") from error

    def _counting(self, document: RoundDocument) -> tuple[Ask, dict[str, UpdateEntry], dict[str, _Sent]]:
        """The request to the clients in the sum, each with its own message; their entries; the messages by digest."""
        entries = {entry.client: entry for entry in document.updates if entry.in_sum}
        digests = {document.manifest.message, *(entry.message for entry in entries.values())}
        missing = [digest for digest in {*digests, *(e.digest for e in entries.values())} if not self._holds(digest)]
        if missing:
            raise NotReplayable(f"{len(missing)} of its updates and messages are no longer in the spool")
        sent = {digest: self._message(digest) for digest in digests}
        own = sent[document.manifest.message]
        request = Train(own.message, own.binding.round, own.binding.attempt)
        earlier = {
            client: Version(entry.asked, sent[entry.message].message)
            for client, entry in entries.items()
            if entry.asked < request.round
        }
        cohort = tuple(sorted(entries))
        return Ask(request, cohort, self.setup.algorithm.quorum, own.binding.ask, earlier=earlier), entries, sent

    def _holds(self, digest: str) -> bool:
        return bool(digest) and self.spool.holds(digest)

    def _message(self, digest: str) -> _Sent:
        path = self.spool.path(digest)
        try:
            request, binding = read_request(path, path.stat().st_size)
        except FrameError as error:
            raise RoundDiffers(f"the message that went out cannot be read: {error}") from error
        return _Sent(request.message, binding)
