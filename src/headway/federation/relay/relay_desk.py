"""One job at a relay: the clients that joined there, and what its server is to know of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headway.federation import http_api as api
from headway.federation.agent.agent_memory import AgentMemory
from headway.federation.job_facts import own_versions
from headway.federation.relay.relay_answering import RelayAnswering
from headway.federation.relay.relay_chain import relay_job
from headway.federation.relay.relay_status import RelayStatus
from headway.federation.serving.agreed_data import AgreedData
from headway.federation.serving.assignments import Assignments, MembersChanged
from headway.federation.serving.job_desk import JobDesk
from headway.federation.serving.members import Members
from headway.federation.serving.network_engine import NetworkEngine, NetworkOptions
from headway.federation.serving.request_channel import RequestChannel
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool
from headway.model.task import Task


@dataclass
class RelayDesk:
    """The parts of a job at a relay.

    jobs: at which its clients ask for the job, and join it.  spool: of their replies.  joined: the clients with which
    the relay has joined its server last.
    """

    description: api.JobDescription
    members: Members
    assignments: Assignments
    log: EventLog
    jobs: JobDesk
    spool: Spool
    status: RelayStatus
    answering: RelayAnswering
    memory: AgentMemory = field(default_factory=lambda: AgentMemory("relay"))
    joined: frozenset[str] | None = None

    @classmethod
    def of(
        cls,
        description: api.JobDescription,
        task: Task,
        folder: Path,
        relay: str,
        lease_s: float,
        certificates: Callable[[], Mapping[str, str]],
    ) -> RelayDesk:
        """The desk of a job.

        folder: of its spool and its log of events.  relay: its name.  lease_s: without contact for so long, a client
        counts as gone.  certificates: of all clients of the server.

        Raises:
            ConfigError, ChainRefused: if a relay cannot take part in the job.
        """
        folder.mkdir(parents=True, exist_ok=True)
        assignments = Assignments()
        members = Members(lease_s, on_change=lambda: assignments.events.put(MembersChanged()))
        spool, log = Spool(folder / "spool"), EventLog(folder)
        channel = RequestChannel(members, assignments, spool)
        job = relay_job(description, task)
        desk = JobDesk(
            members,
            assignments,
            check_data=AgreedData().check,
            verdict=lambda client, pending: log.verdict(client, pending.round, pending.attempt),
        )
        desk.offer(description.model_copy(update={"poll_s": min(description.poll_s, lease_s / 2)}))
        assignments.set_state("running")
        parts = (members, assignments)
        status = RelayStatus.of_job(description, relay, job.algorithm, parts, channel.clock.now)
        options = NetworkOptions(drift=False, group=1, population=description.population or None)
        engine = NetworkEngine(channel, log, options, status.show)
        answering = RelayAnswering(description, job, engine, spool.forget, certificates, status.add_answer)
        return cls(description, members, assignments, log, desk, spool, status, answering)

    @property
    def task(self) -> api.TaskFacts:
        """The facts of the task, on which the server and the clients agree."""
        return self.description.task

    def present(self) -> frozenset[str]:
        """The clients that are here."""
        return frozenset(self.members.available())

    def join_request(self, pending: api.Pending | None) -> api.JoinRequest:
        """The request to join the server for all clients that are here; where none is left, for those that were."""
        self.joined = self.present() or self.joined or frozenset(self.members.names())
        known = {name: self.members.get(name) for name in sorted(self.joined)}
        facts = {name: member.facts for name, member in known.items() if member is not None}
        first = next(iter(facts.values())).data
        data = first.model_copy(
            update={
                "train": sum(each.data.train for each in facts.values()),
                "test": sum(each.data.test for each in facts.values()),
                "fingerprint": "",
                "notes": (),
            }
        )
        keys = self.answering.exchanges_keys
        clients = tuple(
            api.RelayedClient(
                client=name,
                data=each.data,
                pending=self._open(name, each.pending),
                certificate=each.certificate if keys else "",
            )
            for name, each in facts.items()
        )
        return api.JoinRequest(
            job=self.description.job, versions=own_versions(), task=self.task, data=data, members=clients
        )

    def all_know(self, state: str) -> bool:
        """Whether all clients that are here have been shown this state of the job."""
        return all(self.assignments.shown(name) == state for name in self.present())

    def close(self) -> None:
        """Closes the log; the replies of a job that is finished are not needed any more."""
        self.answering.close()
        self.log.close()
        if self.assignments.state == "finished":
            shutil.rmtree(self.spool.folder, ignore_errors=True)

    def _open(self, client: str, pending: api.Pending | None) -> api.Pending | None:
        """Memory of a client without a verdict, which the server is to give."""
        if pending is None or self.log.verdict(client, pending.round, pending.attempt) is not None:
            return None
        return pending
