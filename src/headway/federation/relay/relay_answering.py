"""A relay's answers to its server's requests: the same request to its own clients, and the exact sum over them.

Under a secure sum the clients' vectors are masked; a relay adds them as they are, and sees nothing else of an update.
The masks cancel in the sum over all clients of the server, whichever way these have come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch

from headway.core import stopping
from headway.core.errors import FrameError
from headway.core.update import Tensors
from headway.engines.engine import Job
from headway.federation.agent.answering import ROOM, Answered
from headway.federation.agent.whole_files import in_a_sentence, private_file
from headway.federation.http_api import Assignment, JobDescription, RoundVerdict
from headway.federation.relay.forwarded_exchanges import Certificates, ForwardedExchanges, tensors_for_clients
from headway.federation.serving.network_engine import NetworkEngine
from headway.federation.serving.request_channel import KINDS
from headway.protocol import wire
from headway.protocol.messages import Answer, Ask, Declined, Exchange, Reply, Request, SumReply, Train
from headway.protocol.reports import Reports
from headway.protocol.wire_messages import Binding, read_request, write_reply

CLOCK = ("asked_s", "ended_s", "age")  # metrics by the relay's own clock


class RelayAnswering:
    """Answers assignments with the clients of a relay.

    job: as `relay_job` makes it of the description.  engine: of the rounds with these clients.
    forget: drops the contents of the spool but for some.  certificates: of all clients of the server.
    trained: is given each round, its answer and its seconds.  most: the largest number of bytes of a request.
    """

    telemetry = True

    def __init__(
        self,
        description: JobDescription,
        job: Job,
        engine: NetworkEngine,
        forget: Callable[[Collection[str]], object],
        certificates: Certificates,
        trained: Callable[[int, Answer, float], None],
    ) -> None:
        self.job, self.engine, self.channel, self.log = job, engine, engine.channel, engine.log
        self.forget, self.trained = forget, trained
        self._open()
        self.exchanges = ForwardedExchanges(self.engine, certificates)
        self._go_on()
        layout = self.engine.training.setup.layout
        zeros = torch.zeros(layout.size, dtype=layout.dtype)
        broadcasts = job.algorithm.chain.broadcast(job.algorithm.chain.init(zeros))
        first = sum(wire.size(tensors) for tensors in broadcasts.values())
        self.most = 4 * (8 * (description.task.parameters + description.task.statistics) + first) + ROOM

    def check(self, assignment: Assignment) -> None:
        """Refuses an assignment that no relay can have, before anything is fetched.

        Raises:
            FrameError: naming what is wrong with it.
        """
        limits = (self.most, len(assignment.clients) * self.most)
        for size, most in zip((assignment.size, assignment.private_size), limits, strict=True):
            if size > most:
                raise FrameError(f"a request of {size} bytes was announced, and one of this job has at most {most}.")
        kinds = ("train", "evaluate", "measure", *(["exchange"] if self.exchanges_keys else []))
        if not assignment.clients or assignment.kind not in kinds:
            raise FrameError(f"a {assignment.kind} request to a relay must name clients, and be one of {kinds}.")
        if assignment.private is not None and assignment.kind != "exchange":
            raise FrameError(f"a {assignment.kind} request to a relay must have nothing for single clients.")

    def answer(
        self, assignment: Assignment, message: Path, private: Path | None, secret: Tensors, into: Path
    ) -> Answered:
        """The reply to an assignment, in a file.

        Raises:
            FrameError: if the file holds another request.
        """
        request, binding = read_request(message, max(1, assignment.size), checked=True)
        wanted = Binding(assignment.round, assignment.attempt, assignment.ask)
        if binding != wanted or KINDS.get(type(request)) != assignment.kind:
            raise FrameError(f"a {assignment.kind} request of {wanted} was expected, found another, of {binding}.")
        own = {} if private is None else tensors_for_clients(assignment, private, wanted)
        reply = self._reply(request, assignment, own)
        with in_a_sentence(into.parent), private_file(into) as file:
            written = write_reply(file, reply, binding, self.engine.training.setup.modulo)
        if written.size > assignment.limit:
            raise FrameError(f"the sum has {written.size} bytes, and the server takes {assignment.limit}.")
        return Answered(into, written)

    def pass_on(self, verdicts: Sequence[RoundVerdict]) -> None:
        """Gives clients the server's verdicts on their updates; they are on disk here before."""
        by_attempt = dict[tuple[int, int], dict[str, RoundVerdict]]()
        for verdict in verdicts:
            if verdict.client:
                own = verdict.model_copy(update={"client": ""})
                by_attempt.setdefault((verdict.round, verdict.attempt), {})[verdict.client] = own
        members = self.channel.members
        for tag, each in sorted(by_attempt.items()):  # a client may have one on several attempts
            for client, verdict in each.items():  # the server repeats one until it knows that it has arrived
                if verdict.counted and self.log.verdict(client, *tag) is None:
                    members.count(client, "counted")
            self.log.record_verdicts(each)
            self.channel.assignments.add_verdicts(each, members.node_of)

    def close(self) -> None:
        """Stops waiting for clients."""
        self.engine.close()

    @property
    def exchanges_keys(self) -> bool:
        """Whether the clients of the job agree on keys with one another."""
        protocol = self.job.algorithm.chain.protocol
        return protocol is not None and protocol[1].exchanges

    def _open(self) -> None:
        """Opens the engine, whose rounds have no protocol: that is between the server and the clients."""
        self.engine.open(self.job)
        self.engine.protocol = None

    def _reply(self, request: Request, assignment: Assignment, own: Mapping[str, Tensors]) -> Reply:
        """The sum over the clients, their reports alone, or the reply of each to an exchange; own: tensors for single
        clients."""
        cohort = assignment.clients if isinstance(request, Exchange) else tuple(sorted(assignment.clients))
        ask = Ask(request, cohort, self.job.algorithm.quorum, assignment.ask, own)
        if isinstance(request, Exchange):
            return self.exchanges.reply(ask)
        if isinstance(request, Train):
            self._forget_other_rounds(ask)
        else:
            self.channel.assignments.begin()  # of the training before it, which a restart here may have forgotten
        try:
            begun = time.monotonic()
            answer = self.engine.ask(ask)
        except stopping.Interrupted:
            self._begin_anew()
            raise
        self.engine.training.verdicts(())  # what was open here is over; the server gives the verdicts
        if isinstance(request, Train):
            self.forget(self._digests())
            self.trained(ask.round, answer, time.monotonic() - begun)
        return (
            SumReply(answer.total, _reports(answer, ask))
            if len(answer.reports)
            else Declined("dropped", "none of its clients has answered")
        )

    def _forget_other_rounds(self, ask: Ask) -> None:
        """Lets go of a round that was open before a restart, if the server asks for another one by now."""
        opened = self.engine.rounds.opened
        if self.engine.rounds.recorded and (
            opened is None
            or (opened.round, opened.attempt, tuple(opened.more["cohort"])) != (ask.round, ask.attempt, ask.cohort)
        ):
            self._begin_anew()

    def _go_on(self) -> None:
        """Goes back to just before the last round that was opened here, whose events are then fed again: its requests
        have the same names, so that clients send what they have computed, and its sum has the same updates."""
        events = self.log.after(0)
        opened = [(place, event) for place, event in events if event.kind == "opened"]
        if opened:
            place, event = opened[-1]
            self._set(place - 1, int(event.more["first"]), event.at)

    def _begin_anew(self) -> None:
        """A state in which nothing is open; requests get numbers that none had before."""
        events = self.log.after(0)
        begun = [int(event.more["first"]) + len(event.more["cohort"]) for _, event in events if event.kind == "opened"]
        number = max([*begun, *(event.number + 1 for _, event in events)], default=0)
        self.channel.assignments.withdraw(self.channel.members.names())
        self._open()
        self._set(events[-1][0] if events else 0, number + len(events), self.engine.now)

    def _digests(self) -> set[str]:
        """The contents that the last round here needs, should it be gone on with."""
        events = [event for _, event in self.log.after(0)]
        last = max(place for place, event in enumerate(events) if event.kind == "opened")
        return {event.digest for event in events[last:] if event.digest}

    def _set(self, last: int, number: int, now: float) -> None:
        """The state after an event, from which requests are numbered on."""
        pool = {"now": now, "number": number, "served": {}, "flying": [], "accepted": []}
        record = self.engine.rounds.record.to_state()
        notes = {"pool": pool, "steps": [], "record": record, "event": last, "now": now}
        self.engine.restore(notes, {})


def _reports(answer: Answer, ask: Ask) -> Reports:
    """The reports on the clients that were asked, without what the relay's own clock says."""
    reports = answer.reports
    metrics = {name: column for name, column in reports.metrics.items() if name not in CLOCK}
    plain = {name: getattr(reports, name) for name in Reports.PLAIN}
    return Reports(**plain, metrics=metrics)
