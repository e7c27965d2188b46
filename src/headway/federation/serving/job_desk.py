"""The desk at which clients ask for the job, and join it if their facts agree with it."""

from __future__ import annotations

from collections.abc import Callable, Collection

from headway.federation import http_api as api
from headway.federation.job_facts import task_differences, version_differences
from headway.federation.relay.relay_chain import refusal_of_names
from headway.federation.serving.assignments import Assignments
from headway.federation.serving.members import Members
from headway.federation.serving.refusals import Refused

Verdict = Callable[[str, api.Pending], api.RoundVerdict | None]


class JobDesk:
    """Describes the present job, and takes in clients.

    clients: the only ones that may take part; empty for all that are admitted.  relays: the nodes that may join for
    other clients.  check_data: refuses data that do not
    fit, by `Refused`.  verdict: on an update whose memory a client still holds as pending; `None` while it is open.
    """

    def __init__(
        self,
        members: Members,
        assignments: Assignments,
        clients: Collection[str] = (),
        check_data: Callable[[str, api.DataFacts], None] = lambda client, data: None,
        verdict: Verdict = lambda client, pending: None,
        relays: Collection[str] = (),
    ) -> None:
        self.members, self.assignments, self.clients = members, assignments, frozenset(clients)
        self.check_data, self.verdict, self.relays = check_data, verdict, frozenset(relays)
        self._job: api.JobDescription | None = None

    def offer(self, job: api.JobDescription) -> None:
        """The job that clients are offered from now on."""
        self._job, self.assignments.job = job, job.job

    def description(self) -> api.JobDescription | None:
        """The job; `None` while there is none."""
        return self._job

    def join(self, client: str, request: api.JoinRequest) -> None:
        """Takes in a client.

        Raises:
            Refused: if the job is another one by now, or does not list the client, or a fact differs.
        """
        job = self._job
        if job is None:
            raise Refused("busy", "the server has no job at present: ask again later.")
        if request.job != job.job:
            raise Refused("gone", "the job has ended: ask for the present one.", job.job, request.job)
        for each in self._behind(client, request):
            self._check_name(each.client, client)
        differing = list(version_differences(job.versions, request.versions))
        differing += task_differences(job.task, request.task)
        if differing:
            ours, theirs = differing[0]
            more = f" {len(differing) - 1} more facts differ." if len(differing) > 1 else ""
            why = f"client {client!r} cannot take part: it has {theirs}, and the server has {ours}.{more}"
            self.members.decline(client, why)
            raise Refused("mismatch", why, ours, theirs)
        try:
            for each in self._behind(client, request):
                self.check_data(each.client, each.data)
        except Refused as refused:
            self.members.decline(client, str(refused))
            raise
        self.members.join(client, request)
        for each in self._behind(client, request):
            if each.pending is not None and (verdict := self.verdict(each.client, each.pending)) is not None:
                self.assignments.add_verdicts({each.client: verdict}, self.members.node_of)

    def _behind(self, node: str, request: api.JoinRequest) -> tuple[api.RelayedClient, ...]:
        """The clients that a node joins for: those behind a relay, or itself.

        Raises:
            Refused: for a relay that the server does not list, or that names a client twice.
        """
        if not request.members:
            return (api.RelayedClient(client=node, data=request.data, pending=request.pending),)
        if (why := refusal_of_names(self._job.algorithm) if self._job is not None else None) is not None:
            self.members.decline(node, why)
            raise Refused("refused", f"the relay {node!r} cannot take part: {why}")
        if node not in self.relays:
            raise Refused(
                "refused",
                f"{node!r} would join for {len(request.members)} clients, and is not among the relays of this server: "
                "list it in federation.relays of the server's file.",
            )
        if len({each.client for each in request.members}) < len(request.members):
            raise Refused("malformed", f"the relay {node!r} names a client twice.")
        return request.members

    def _check_name(self, client: str, node: str) -> None:
        """Refuses a client that may not take part, or takes part by another node already.

        Raises:
            Refused: naming it.
        """
        if self.clients and client not in self.clients:
            raise Refused("refused", f"client {client!r} is not among the {len(self.clients)} clients of this job.")
        via = "" if client == node else node
        if (where := self.members.elsewhere(client, via)) is not None:
            raise Refused("refused", f"client {client!r} takes part {where} already: end that connection first.")
