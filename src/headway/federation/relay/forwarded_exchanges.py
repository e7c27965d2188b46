"""The exchanges of a protocol at a relay, which go down to its clients and come back up unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from headway.core import stopping
from headway.core.errors import FrameError
from headway.core.update import Tensors
from headway.federation.http_api import Assignment
from headway.federation.serving.gathering import Gathered
from headway.federation.serving.network_engine import NetworkEngine
from headway.protocol.by_client import relayed_reply, split_by_client
from headway.protocol.messages import Ask, Exchange, ExchangeReply
from headway.protocol.wire_messages import Binding, read_request

Certificates = Callable[[], Mapping[str, str]]  # of all clients of the server, DER in base64, by name


class ForwardedExchanges:
    """Passes the requests of a protocol on to the clients of a relay, and their replies to its server.

    The protocol is one between the server and the clients themselves, of all relays together: requests and replies are
    bound to the run, the round and the whole cohort, and signed by the clients' own identities.  A relay reads nothing
    of them, makes nothing of its own, and keeps nothing: a client that is asked again, after a restart of the relay,
    gives the same bytes again.  It may withhold a message, which is a lost client; one that it changes, its clients or
    the server refuse.

    certificates: fetches those of all clients of the server, by which the clients here check one another's keys.
    """

    def __init__(self, engine: NetworkEngine, certificates: Certificates) -> None:
        self.engine, self.certificates = engine, certificates
        self._known: tuple[int, int] | None = None  # the attempt at a round for which certificates were fetched

    def reply(self, ask: Ask) -> ExchangeReply:
        """The replies of the clients to an exchange, and why others are missing."""
        assert isinstance(ask.request, Exchange)
        channel, attempt = self.engine.channel, (ask.round, ask.attempt)
        if self._known != attempt:
            channel.members.add_certificates(self.certificates())
            self._known = attempt
        gathered, replies = Gathered(), dict[str, Tensors]()
        name = f"{channel.assignments.job}-{ask.round}.{ask.attempt}.{ask.number}"
        try:
            self.engine.gathering.gather(ask, channel.encode(ask), gathered, None, name)
        except stopping.Interrupted:
            channel.assignments.withdraw(ask.cohort)
            raise
        for client, reply in gathered.replies.items():
            assert isinstance(reply, ExchangeReply)
            replies[client] = reply.tensors
        return relayed_reply(replies, gathered.missing, ask.cohort)


def tensors_for_clients(assignment: Assignment, file: Path, binding: Binding) -> dict[str, dict[str, Tensor]]:
    """The tensors that a request has for single clients of a relay, from the relay's own file of it.

    Raises:
        FrameError: if the file holds those of another request, or of no client that is asked.
    """
    own, found = read_request(file, max(1, assignment.private_size), checked=True)
    if found != binding:
        raise FrameError(f"tensors of {binding} were expected, found those of {found}.")
    return split_by_client(own.private, assignment.clients)
