"""A job while it is served: its clients, its run in a folder, and what is written about both."""

from __future__ import annotations

import math
import time
from collections import deque
from pathlib import Path

from headway.experiment.run import Run
from headway.federation.identity.node_identity import Identity
from headway.federation.job_clients import JobClients
from headway.federation.job_stores import JobStores
from headway.federation.operations.run_facts import describe_run
from headway.federation.operations.server_status import ServerStatus
from headway.federation.server_job import ServerJob
from headway.federation.server_log import ServerLog
from headway.federation.serving.agreed_data import AgreedData
from headway.federation.serving.assignments import State
from headway.federation.serving.job_desk import JobDesk
from headway.federation.serving.network_engine import NetworkEngine
from headway.federation.serving.network_training import Progress
from headway.federation.serving.request_channel import RequestChannel
from headway.observe.run_folder import VECTORS

FAREWELL_S = 15.0  # how long clients are given to learn that a job has ended: more than between two heartbeats
DISK_S = 60.0  # at least between two sentences on a disk that takes no updates


class ServedJob:
    """A job with its run, in a folder of its own; a run that is there already is gone on with.

    run: to be iterated over.  clients: those that have joined.  stores: what lies in the folder.

    Raises:
        What `Run` raises.
    """

    def __init__(self, job: ServerJob, folder: Path, log: ServerLog) -> None:
        self.job, self.folder, self.log, options = job, folder, log, job.options
        self.clients, self.stores = JobClients(options.lease_s, log), JobStores(folder)
        members, assignments = self.clients.members, self.clients.assignments
        channel = RequestChannel(members, assignments, self.stores.files)
        self.engine = NetworkEngine(channel, self.stores.log, job.network_options(folder / VECTORS), self._show)
        check, verdict = AgreedData(job.schema).check, self.engine.verdict
        self.desk = JobDesk(members, assignments, job.data.expected, check, verdict, options.relays)
        now = channel.clock.now
        self.status = ServerStatus.of(members, assignments, name=job.name, rounds=job.rounds, now=now)
        members.on_disk_trouble = self._show_disk_trouble
        self._disk_shown = -math.inf  # when it was, by the monotonic clock
        self._ends: deque[float] = deque(maxlen=6)  # of the rounds of late
        self.run = Run(
            job.algorithm,
            job.data,
            job.task,
            rounds=job.rounds,
            seed=job.seed,
            engine=self.engine,
            folder=folder,
            resume=self.stores.begun,
            evaluate_every=options.evaluate_every,
            checkpoint_every=1,
            keep=options.keep,
            until_s=options.until_s,
            privacy=options.privacy,
            config=job.config,
            observers=[self.stores.manifests_of(self.engine, options.keep_rounds), self.status.observer],
        )
        try:
            self.identifier = self.stores.open_record(job.name).job
            describe_run(self.status.board, self.run)
        except BaseException:
            self.close()
            raise

    def offer(self, identity: Identity) -> None:
        """Offers the job to clients; identity: signs receipts and manifests."""
        self.stores.sign_with(identity, self.engine)
        self.desk.offer(self.job.description(self.identifier, self.engine.training.setup.facts))
        self.clients.assignments.set_state("running")
        self.stores.set_state("running")

    def end(self, state: State, reason: str = "", *, patience_s: float = FAREWELL_S) -> None:
        """Ends the job, and gives the clients that are connected time to learn it."""
        self.status.board.set_state(state, reason)
        try:
            self.stores.set_state(state, reason)
        finally:  # on a full disk too
            self.clients.dismiss(state, reason, patience_s)

    def seconds_left(self, round_: int) -> float | None:
        """The seconds until the last round, by the pace of those of late with all waiting; `None` before the second."""
        self._ends.append(time.monotonic())
        if len(self._ends) < 2 or round_ >= self.job.rounds:
            return None
        pace = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return pace * (self.job.rounds - round_)

    def close(self) -> None:
        """Lets go of the run and its files."""
        self.run.close()
        self.stores.close()

    def _show_disk_trouble(self, reason: str) -> None:
        """Writes why no update is taken, now and then while agents try again; called by the HTTP server's thread."""
        now = time.monotonic()
        if now - self._disk_shown >= DISK_S:
            self._disk_shown = now
            sentence = f"no update is taken at present, and agents try again: {reason}"
            self.log.write("disk", sentence, reason=reason)
            self.status.board.add_event("alarm", sentence)

    def _show(self, progress: Progress) -> None:
        """Takes the engine's progress to the status, and writes for whom it waits."""
        self.status.show(progress)
        if progress.phase == "waiting for clients":
            sentence = f"round {progress.round + 1} waits {progress.note}"
            self.log.change("waiting", sentence, round=progress.round + 1, clients=list(progress.waiting_for))
        else:
            self.log.forget("waiting")
