"""The observer of a server's run that writes a manifest of each round, and has old updates forgotten."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headway.core.algorithm import State
from headway.experiment.identity import described
from headway.federation.serving.network_engine import NetworkEngine
from headway.federation.spool.manifest import (
    FORMAT,
    Manifest,
    ModelDigests,
    RoundDocument,
    UpdateEntry,
    Verdict,
    entry_digests,
)
from headway.federation.spool.manifest_folder import ManifestError, ManifestFolder, Signer
from headway.federation.spool.spool import Spool
from headway.numerics.canonical import digest_of
from headway.observe.journal import digest_of_round
from headway.observe.observer import Observer, TrainedRound
from headway.observe.round_report import RoundReport
from headway.observe.run_folder import JOURNAL, read_identity

KEEP_ROUNDS = 20  # whose updates stay in the spool at least


@dataclass(frozen=True, slots=True)
class _Trained:
    """A round that has trained, until it stands in the journal."""

    trained: TrainedRound
    entries: tuple[UpdateEntry, ...]
    message: str
    at: float


class RoundManifests(Observer):
    """Writes the manifests of a run.

    run: the run's folder.  identity: signs the head of the chain.  keep_rounds: the updates of so many rounds stay in
    the spool at least, and are forgotten after twice as many at most; 0 keeps all.
    """

    def __init__(
        self,
        run: Path,
        engine: NetworkEngine,
        spool: Spool,
        identity: Signer | None = None,
        keep_rounds: int = KEEP_ROUNDS,
    ) -> None:
        assert keep_rounds >= 0
        self.run, self.engine, self.spool, self.identity = Path(run), engine, spool, identity
        self.keep_rounds, self.folder = keep_rounds, ManifestFolder(run)
        self._bound: str | None = None  # the digest of the manifest that a checkpoint is bound to
        self._previous: str | None = None  # the digest of the newest manifest, once the chain has begun
        self._digests: ModelDigests | None = None  # of the state after it
        self._kept: deque[tuple[int, frozenset[str]]] = deque()  # the contents that each round refers to
        self._trained: _Trained | None = None

    def on_trained(self, trained: TrainedRound) -> tuple[str, ...]:
        """Takes down what became of every update of the round."""
        remarks = () if self._previous is not None else self._begin(trained.before)
        sent = self.engine.rounds.record.messages.get(trained.before.round)
        message = "" if sent is None else sent.digest  # of a round that a protocol ended before the training
        self._trained = _Trained(trained, self._entries(trained), message, self.engine.coordinator.pool.now)
        return remarks

    def on_recorded(self, report: RoundReport) -> None:
        """Writes the manifest of a round that stands in the journal.

        Raises:
            RunFolderError: if it cannot be written.
        """
        held, self._trained = self._trained, None
        assert held is not None
        assert self._previous is not None
        assert self._digests is not None
        trained, asked = held.trained, tuple(sorted(held.trained.cohort))
        manifest = Manifest(
            job=self.engine.channel.assignments.job,
            round=report.round,
            previous=self._previous,
            at=held.at,
            message=held.message,
            population=trained.population,
            planned=self.engine.job.known.population,
            group=self.engine.options.group,
            asked=digest_of(list(asked)),
            updates=entry_digests(held.entries),
            before=self._digests,
            after=ModelDigests.of(trained.after),
            journal=digest_of_round(self.run / JOURNAL, report.round),
        )
        document = RoundDocument(manifest, asked, held.entries)
        self.folder.write_round(document, self.identity)
        self._previous, self._digests = manifest.digest, manifest.after
        self._keep(document)
        self._forget(trained.after)

    def to_state(self) -> Mapping[str, Any]:
        """The round and the digest of the newest manifest, to which a checkpoint is bound."""
        return {} if self._previous is None else {"manifest": self._previous}

    def from_state(self, kept: Mapping[str, Any]) -> None:
        """Goes on with the chain from the manifest that a checkpoint is bound to."""
        self._bound = kept.get("manifest")

    # inside ---------------------------------------------------------------------------------------------

    def _begin(self, before: State) -> tuple[str, ...]:
        """Begins the chain, or goes on with that of a resumed run; what a user should know of it.

        Raises:
            ManifestError: if the chain does not end with the state, or the manifest, that the run goes on from.
        """
        self._digests = ModelDigests.of(before)
        if before.round == 0 or not self.folder.exists:
            self._previous = self.folder.write_start(self._facts(before), before)
            begun = f"the run has no manifests of rounds 1 to {before.round}: `headway verify` begins after them."
            return (begun,) if before.round else ()
        self.folder.forget_after(before.round)
        start = self.folder.start()
        previous, digests, document = digest_of(start), ModelDigests(**start["digests"]), None
        oldest = min(self.folder.state_rounds(), default=0)
        for round_ in range(int(start["round"]) + 1, before.round + 1):
            document = self.folder.document(round_)
            if self.keep_rounds == 0 or round_ > oldest:
                self._keep(document)
            previous, digests = document.manifest.digest, document.manifest.after
        if digests != self._digests or self._bound not in (None, previous):
            raise ManifestError(
                before.round,
                f"the manifest of round {before.round} is not the one of the model that the run goes on from. Restore "
                f"{self.folder.path} from a copy, or move it away to begin a new chain with round {before.round + 1}.",
            )
        if document is not None:
            self.folder.write_head(document.manifest, self.identity)
        self._previous = previous
        return ()

    def _facts(self, state: State) -> dict[str, Any]:
        """What a replay needs."""
        job, layout = self.engine.job, self.engine.training.setup.layout
        return {
            "format": FORMAT,
            "job": self.engine.channel.assignments.job,
            "round": state.round,
            "algorithm": json.loads(json.dumps(described(job.algorithm))),
            "seed": read_identity(self.run)["seed"],
            "layout": [[entry.name, list(entry.shape)] for entry in layout.entries],
            "dtype": str(layout.dtype).removeprefix("torch."),
            "statistics": 0 if state.buffers is None else state.buffers.numel(),
            "digests": asdict(ModelDigests.of(state)),
        }

    def _entries(self, trained: TrainedRound) -> tuple[UpdateEntry, ...]:
        """What became of each request that ended in the round, by client and number."""
        record, counted = self.engine.rounds.record, set(trained.report.clients.with_status("counted").clients)
        closed = record.closed
        assert closed is not None
        ended = {arrival.ticket.number: (arrival.ticket, "") for arrival in closed.counted}
        lost = {loss.ticket.number: (loss.ticket, loss.reason) for loss in closed.losses}
        events = self.engine.log.ends(sorted({**ended, **lost}))
        entries = []
        for number, (ticket, reason) in {**ended, **lost}.items():
            verdict: Verdict = "lost"
            if number in ended:
                verdict = "counted" if ticket.client in counted else "skipped"
            elif number in record.refused:
                verdict = "refused"
            event = events.get(number)
            more = {} if event is None else event.more
            entries.append(
                UpdateEntry(
                    client=ticket.client,
                    number=number,
                    asked=ticket.round,
                    attempt=ticket.attempt,
                    message=record.messages[ticket.round].digest,
                    digest="" if event is None else event.digest,
                    weight=event.weight if event is not None and event.kind == "arrived" else None,
                    verdict=verdict,
                    reason=reason,
                    relay=str(more.get("relay", "")),
                    examples=int(more.get("examples", 0)),
                    data=str(more.get("data", "")),
                )
            )
        return tuple(sorted(entries, key=lambda entry: (entry.client, entry.number)))

    def _keep(self, document: RoundDocument) -> None:
        digests = {document.manifest.message, *(entry.message for entry in document.updates)}
        digests |= {entry.digest for entry in document.updates if entry.digest}
        self._kept.append((document.manifest.round, frozenset(digests)))

    def _forget(self, after: State) -> None:
        """Keeps a state now and then, and has the spool forget what came before the oldest one that is needed."""
        if self.keep_rounds:
            if after.round % self.keep_rounds == 0:
                self.folder.write_state(after)
            oldest = self.folder.forget_states(after.round - self.keep_rounds)
            while self._kept and self._kept[0][0] <= oldest:
                self._kept.popleft()
        record = self.engine.rounds.record
        keep = {*record.replies.values(), *(message.digest for message in record.messages.values())}
        keep |= self.engine.channel.assignments.undecided()
        keep |= set() if self.engine.protocol is None else self.engine.protocol.digests
        self.spool.forget(keep.union(*(digests for _, digests in self._kept)))
