"""A job while it is served: its clients, its run in a folder, and what is written about both."""

from __future__ import annotations

import time
from pathlib import Path

from headway.experiment.run import Run
from headway.federation.operations.run_facts import describe_run
from headway.federation.operations.server_status import ServerStatus
from headway.federation.run_stores import JobRecord, RunFiles, RunLog
from headway.federation.server_job import ServerJob
from headway.federation.server_log import ServerLog
from headway.federation.serving.agreed_data import AgreedData
from headway.federation.serving.assignments import Assignments, MembersChanged, State
from headway.federation.serving.job_desk import JobDesk
from headway.federation.serving.members import Members
from headway.federation.serving.network_engine import NetworkEngine
from headway.federation.serving.network_training import Progress
from headway.federation.serving.request_channel import RequestChannel
from headway.observe.run_folder import IDENTITY

FAREWELL_S = 15.0  # how long clients are given to learn that a job has ended: more than between two heartbeats
TURN_S = 0.05


class ServedJob:
    """A job with its run, in a folder of its own; a run that is there already is gone on with.

    run: to be iterated over.  record: how the job stands.  desk, members, assignments, files: for the HTTP server.

    Raises:
        What `Run` raises.
    """

    def __init__(self, job: ServerJob, folder: Path, log: ServerLog) -> None:
        self.job, self.folder, self.log = job, folder, log
        self.assignments = Assignments()
        self._present: frozenset[str] = frozenset()
        self.members = Members(job.options.lease_s, on_change=self._members_changed)
        self.run_log, self.files = RunLog(folder), RunFiles(folder)
        channel = RequestChannel(self.members, self.assignments, self.files)
        self.engine = NetworkEngine(channel, self.run_log, job.network_options(), self._show)
        agreed = AgreedData(job.schema)
        expected = job.data.expected
        self.desk = JobDesk(
            self.members, self.assignments, expected, agreed.check, self.engine.verdict, job.options.relays
        )
        now = channel.clock.now
        self.status = ServerStatus.of(self.members, self.assignments, name=job.name, rounds=job.rounds, now=now)
        options, resume = job.options, (folder / IDENTITY).is_file()
        self.run = Run(
            job.algorithm,
            job.data,
            job.task,
            rounds=job.rounds,
            seed=job.seed,
            engine=self.engine,
            folder=folder,
            resume=resume,
            evaluate_every=options.evaluate_every,
            checkpoint_every=1,
            keep=options.keep,
            until_s=options.until_s,
            config=job.config,
            observers=[self.status.observer],
        )
        try:
            self.record = JobRecord.of(folder, job.name)
            describe_run(self.status.board, self.run)
        except BaseException:
            self.close()
            raise

    def offer(self) -> None:
        """Offers the job to clients."""
        self.desk.offer(self.job.description(self.record.job))
        self.assignments.set_state("running")
        self.record = self.record.ended(self.folder, "running")

    def end(self, state: State, reason: str = "", *, patience_s: float = FAREWELL_S) -> None:
        """Ends the job, and gives the clients that are connected time to learn it."""
        self.record = self.record.ended(self.folder, state, reason)
        self.status.board.set_state(state, reason)
        self.assignments.set_state(state, reason[:2000])
        until = time.monotonic() + patience_s
        while time.monotonic() < until and not self.assignments.all_shown(self.members.available()):
            time.sleep(TURN_S)
        time.sleep(2 * TURN_S)  # for the last answers to leave

    def close(self) -> None:
        """Lets go of the run and its files."""
        self.run.close()
        self.run_log.close()

    # what happens ---------------------------------------------------------------------------------------

    def _members_changed(self) -> None:
        """Writes who is connected, where that has changed; called by the HTTP server's thread."""
        present = frozenset(self.members.available())
        for client in sorted(present - self._present):
            self.log.write("connected", f"{client} is connected ({len(present)} now)", client=client)
        for client in sorted(self._present - present):
            member = self.members.get(client)
            why = "has left" if member is not None and member.left else "takes no part any more"
            why += f": {member.declined}" if member is not None and member.declined else ""
            self.log.write("gone", f"{client} {why} ({len(present)} are connected)", client=client)
        self._present = present
        for row in self.members.snapshot():
            if row.get("declined") and row["name"] not in present:
                sentence = f"{row['name']} does not take part: {row['declined']}"
                self.log.change(f"declined {row['name']}", sentence, client=row["name"], reason=row["declined"])
        self.assignments.events.put(MembersChanged())

    def _show(self, progress: Progress) -> None:
        """Takes the engine's progress to the status, and writes for whom it waits."""
        self.status.show(progress)
        if progress.phase == "waiting for clients":
            sentence = f"round {progress.round + 1} waits {progress.note}"
            self.log.change("waiting", sentence, round=progress.round + 1, clients=list(progress.waiting_for))
        else:
            self.log.forget("waiting")
