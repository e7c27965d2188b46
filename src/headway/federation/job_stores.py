"""The durable parts of a job in the folder of its run: events, updates, manifests, and the record of the job."""

from __future__ import annotations

from pathlib import Path

from headway.federation.identity.node_identity import Identity
from headway.federation.job_record import JobRecord
from headway.federation.serving.assignments import State
from headway.federation.serving.network_engine import NetworkEngine
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.receipts import signer
from headway.federation.spool.round_manifests import RoundManifests
from headway.federation.spool.spool import Spool
from headway.observe.run_folder import IDENTITY, SPOOL


class JobStores:
    """The parts of a folder, which need not be there before the run's first write.

    log: of events.  files: of messages and updates.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log, self.files = EventLog(folder), Spool(folder / SPOOL)
        self.manifests: RoundManifests | None = None
        self.record: JobRecord | None = None

    @property
    def begun(self) -> bool:
        """Whether the folder is that of a run."""
        return (self.folder / IDENTITY).is_file()

    def manifests_of(self, engine: NetworkEngine, keep_rounds: int) -> RoundManifests:
        """The observer that writes the manifests of a run."""
        self.manifests = RoundManifests(self.folder, engine, self.files, keep_rounds=keep_rounds)
        return self.manifests

    def sign_with(self, identity: Identity, engine: NetworkEngine) -> None:
        """Has receipts and manifests signed."""
        engine.channel.sign = signer(identity)
        if self.manifests is not None:
            self.manifests.identity = identity

    def open_record(self, name: str) -> JobRecord:
        """The record of the job, made where there is none."""
        self.record = JobRecord.of(self.folder, name)
        return self.record

    def set_state(self, state: State, reason: str = "") -> None:
        """Writes how the job stands."""
        if self.record is not None:
            self.record = self.record.ended(self.folder, state, reason)

    def close(self) -> None:
        """Closes the log of events."""
        self.log.close()
