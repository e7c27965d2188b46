"""The check of a run folder: its chain of manifests, its journal, its events, its checkpoints and its updates."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from headway.core.algorithm import State
from headway.core.errors import ConfigError, HeadwayError, RunFolderError
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.manifest import ModelDigests, RoundDocument
from headway.federation.spool.manifest_folder import ManifestError, ManifestFolder
from headway.federation.spool.receipts import signer_of
from headway.federation.spool.replay_setup import NotReplayable, ReplaySetup
from headway.federation.spool.round_replay import ManifestReplay
from headway.federation.spool.spool import Spool
from headway.numerics.canonical import canonical, digest_of
from headway.observe.journal import digest_of_round, rounds_of
from headway.observe.run_folder import BEST, EVENTS, JOURNAL, SPOOL, read_identity, read_tensors

UNFIT = (KeyError, IndexError, ValueError, TypeError, RuntimeError)  # of a state that is not the algorithm's


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference from what a manifest holds.  round: of the manifest; 0 for what concerns the whole chain."""

    round: int
    message: str


@dataclass
class RunVerification:
    """The result of a check.

    replayed: the rounds that were computed again from their updates.  by_digest: those of which digests alone were
    compared.  notes: what could not be checked, and why.  signed_by: the name in the server's certificate.
    """

    name: str
    rounds: list[int] = field(default_factory=list)
    replayed: list[int] = field(default_factory=list)
    by_digest: list[int] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    signed_by: str = ""

    @property
    def first(self) -> Difference | None:
        """The difference of the earliest round; what concerns the whole chain comes last."""
        return min(self.differences, key=lambda each: (each.round == 0, each.round), default=None)


class RunCheck:
    """Checks a run folder of a server, and changes nothing in it.

    authority: the certificate file of the authority that the server's certificate must be from, if it is known.

    Raises:
        RunFolderError: if the folder is no run folder, or holds no manifests.
    """

    def __init__(self, run: Path, authority: Path | None = None) -> None:
        self.run, self.authority, self.folder = run, authority, ManifestFolder(run)
        identity = read_identity(run)
        if not self.folder.exists:
            raise RunFolderError(
                f"{run} holds no manifests: a run of a server (`headway serve`) has them, once a round is over."
            )
        self.start = self.folder.start()
        self.result = RunVerification(str(self.start.get("job", "")), self.folder.rounds())
        if self.start.get("seed") != identity.get("seed"):
            self._differ(0, "run.json has another seed than the manifests")
        self.spool = Spool(run / SPOOL, read_only=True)
        self._counted: dict[int, int] = {}  # the round in which each ticket was counted

    def check(self) -> RunVerification:
        """Checks every round, the earliest first."""
        replay = self._replay()
        state: State | None = None
        previous, digests = digest_of(self.start), ModelDigests(**self.start["digests"])
        expected = int(self.start["round"])
        for round_ in self.result.rounds:
            if round_ != expected + 1:
                self._differ(expected + 1, f"the manifests from round {expected + 1} to {round_ - 1} are missing")
            expected = round_
            try:
                document = self.folder.document(round_)
            except ManifestError as error:
                self._differ(round_, str(error))
                state, previous = None, ""
                continue
            self._check_chain(document, previous, digests)
            self._check_records(document)
            state = self._known_state(round_ - 1, document.manifest.before, state)
            state = self._check_updates(document, state, replay)
            self._check_checkpoint(document)
            previous, digests = document.manifest.digest, document.manifest.after
        self._check_head(previous)
        self._check_journal_rounds()
        return self.result

    # parts ----------------------------------------------------------------------------------------------

    def _replay(self) -> ManifestReplay | None:
        try:
            return ManifestReplay(ReplaySetup(self.start), self.spool)
        except NotReplayable as error:
            self.result.notes.append(str(error))
            return None

    def _check_chain(self, document: RoundDocument, previous: str, digests: ModelDigests) -> None:
        """The manifest follows the one before, and so does its model; no update is counted twice."""
        manifest = document.manifest
        if previous and manifest.previous != previous:
            before = "the start of the chain" if manifest.round - 1 == self.start["round"] else "the manifest before"
            self._differ(manifest.round, f"{before} is not the one that its manifest follows on")
        if previous and manifest.before != digests:
            self._differ(manifest.round, "its model at the start is not the one at the end of the round before")
        for entry in document.updates:
            first = self._counted.setdefault(entry.number, manifest.round) if entry.in_sum else manifest.round
            if first != manifest.round:
                self._differ(manifest.round, f"the update of client {entry.client!r} was counted in round {first}")

    def _check_records(self, document: RoundDocument) -> None:
        """The journal's rows of the round, and the events of its updates."""
        manifest = document.manifest
        if (journal := self.run / JOURNAL).is_file():
            with self._finding(manifest.round):
                if digest_of_round(journal, manifest.round) != manifest.journal:
                    self._differ(manifest.round, f"the rows of the round in {JOURNAL} are not those that it ended with")
        elif manifest.round == self.result.rounds[0]:
            self._differ(0, f"{JOURNAL} is missing")
        if not (self.run / EVENTS).is_file():
            if manifest.round == self.result.rounds[0]:
                self._differ(0, f"{EVENTS} is missing")
            return
        with self._finding(manifest.round):
            log = EventLog(self.run, read_only=True)
            try:
                events = log.ends([entry.number for entry in document.updates if entry.in_sum])
            finally:
                log.close()
            for entry in document.updates:
                event = events.get(entry.number)
                if entry.in_sum and (event is None or (event.digest, event.weight) != (entry.digest, entry.weight)):
                    self._differ(manifest.round, f"{EVENTS} has another update, or weight, of client {entry.client!r}")

    def _check_updates(
        self, document: RoundDocument, state: State | None, replay: ManifestReplay | None
    ) -> State | None:
        """The contents in the spool, and the round computed from them; the state after it, if that is known."""
        round_, whole = document.manifest.round, True
        named = {entry.digest: f"the update of client {entry.client!r}" for entry in document.updates if entry.digest}
        named[document.manifest.message] = "the message of the round"
        for digest, what in named.items():
            with self._finding(round_):
                if self.spool.holds(digest) and not self.spool.is_whole(digest):
                    self._differ(round_, f"{what} has other bytes in the spool than its SHA-256 {digest[:16]}")
                    whole = False
        try:
            if replay is None or state is None:
                raise NotReplayable("the model before it is not kept")
            if not whole:
                return None
            after = replay.next_state(state, document)
        except NotReplayable:
            self.result.by_digest.append(round_)
            return None
        except HeadwayError as error:
            self._differ(round_, str(error))
            return None
        except UNFIT as error:
            self._differ(round_, f"it cannot be computed with the algorithm of the start ({type(error).__name__})")
            return None
        self.result.replayed.append(round_)
        return after

    def _known_state(self, round: int, digests: ModelDigests, computed: State | None) -> State | None:
        """The state after a round: as it was computed, or as it was kept."""
        if computed is not None:
            return computed
        if round in self.folder.state_rounds():
            with self._finding(round + 1):
                state = self.folder.state(round)
                if ModelDigests.of(state) == digests:
                    return state
                self._differ(
                    round + 1, f"the kept state of round {round} is not the one that round {round + 1} began with"
                )
        return self._checkpoint(round, digests)

    def _checkpoint(self, round: int, digests: ModelDigests) -> State | None:
        with contextlib.suppress(RunFolderError):
            state = State.from_tensors(round, read_tensors(self._checkpoint_path(round))[0])
            return state if ModelDigests.of(state) == digests else None
        return None

    def _check_checkpoint(self, document: RoundDocument) -> None:
        """The checkpoint of the round, and the best model if it is of this round, where they are kept."""
        manifest = document.manifest
        if (path := self._checkpoint_path(manifest.round)).is_file():
            with self._finding(manifest.round):
                found = ModelDigests.of(State.from_tensors(manifest.round, read_tensors(path)[0]))
                if found != manifest.after:
                    self._differ(manifest.round, f"the model in {path.name} is not the one that the round ended with")
        if (path := self.run / BEST).is_file():
            with contextlib.suppress(RunFolderError):
                tensors, notes = read_tensors(path)
                if notes.get("round") != manifest.round:
                    return
                if ModelDigests.of(State.from_tensors(manifest.round, tensors)).model != manifest.after.model:
                    self._differ(manifest.round, f"the model in {BEST} is not the one that the round ended with")

    def _check_head(self, newest: str) -> None:
        """The head names the newest manifest, and is signed by the server."""
        if not self.result.rounds:
            self.result.notes.append("no round is over yet.")
            return
        with self._finding(self.result.rounds[-1]):
            head = self.folder.head()
            if head.get("round") != self.result.rounds[-1] or (newest and head.get("digest") != newest):
                self._differ(self.result.rounds[-1], "head.json names another manifest than the newest")
            if not head.get("signature"):
                self.result.notes.append("the chain is not signed: the server had no identity.")
                return
            signed = canonical({name: head.get(name) for name in ("job", "round", "digest")})
            self.result.signed_by = signer_of(head["server"], signed, head["signature"], self.authority)
        if self.result.signed_by and self.authority is None:
            self.result.notes.append(
                "whether the server's certificate is genuine was not checked: name its authority with --authority."
            )

    def _check_journal_rounds(self) -> None:
        """The journal has no round without a manifest, except one at whose end the server was stopped."""
        if not (self.run / JOURNAL).is_file():
            return
        with self._finding(0):
            begun = int(self.start["round"])
            known = {*self.result.rounds, *range(begun + 1), max([begun, *self.result.rounds]) + 1}
            if extra := [round_ for round_ in rounds_of(self.run / JOURNAL) if round_ not in known]:
                self._differ(extra[0], f"{JOURNAL} has the round, and it has no manifest")

    def _checkpoint_path(self, round: int) -> Path:
        return self.run / "checkpoints" / f"round-{round:06d}.safetensors"

    def _differ(self, round: int, message: str) -> None:
        if (each := Difference(round, message.rstrip("."))) not in self.result.differences:
            self.result.differences.append(each)

    @contextlib.contextmanager
    def _finding(self, round: int) -> Iterator[None]:
        """Notes what cannot be read as a difference."""
        try:
            yield
        except ConfigError:  # of what the user has named
            raise
        except HeadwayError as error:
            self._differ(round, str(error))
