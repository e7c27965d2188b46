"""An agent's answers to requests: bytes in, bytes out, with the memory and the secrets that belong to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from headway.client.participant import Participant
from headway.client_state.store import Memory, Tag
from headway.core.errors import ClientFailed, FrameError
from headway.core.update import Tensors
from headway.federation.agent.agent_memory import AgentMemory
from headway.federation.agent.exchange_record import TRAINING, Known, Step
from headway.federation.agent.whole_files import in_a_sentence, private_file
from headway.federation.http_api import Assignment
from headway.protocol import wire
from headway.protocol.messages import (
    Declined,
    Evaluate,
    Exchange,
    Measure,
    Message,
    Reply,
    Request,
    Scores,
    Train,
    UpdateReply,
)
from headway.protocol.wire_files import WrittenFrame
from headway.protocol.wire_messages import Binding, read_request, write_reply

KINDS: dict[str, type[Request]] = {"train": Train, "evaluate": Evaluate, "measure": Measure, "exchange": Exchange}
KnownSteps = Callable[[Step], Known | None]  # what a step of a protocol has had before
ChangedUpdate = Callable[[Train, UpdateReply], UpdateReply]  # of an agent that attacks
ROOM = 1 << 20  # bytes of a request beyond the model and the broadcasts


@dataclass(frozen=True, slots=True)
class Answered:
    """A reply in a file, with the memory that training proposes and the next secret of an exchange.

    failure: of the client's work, for the agent's own log.  step: of a protocol, which is answered once.  again: the
    reply was made before, and is in no new file.
    """

    file: Path
    written: WrittenFrame
    proposed: tuple[Tag, Memory] | None = None
    secret: Tensors | None = None
    failure: ClientFailed | None = None
    step: Step | None = None
    again: bool = False


class Answering:
    """Answers assignments with a participant.

    memory: of the participant.  first: a message of the first round; a request has four times its bytes at most.
    telemetry: whether figures of training and evaluation are sent.  known: what a step of a protocol has had before.
    changed: the updates that an agent sends which attacks.
    """

    def __init__(
        self,
        participant: Participant,
        memory: AgentMemory,
        first: Message,
        telemetry: bool = True,
        known: KnownSteps = lambda step: None,
        changed: ChangedUpdate | None = None,
    ) -> None:
        self.participant, self.memory, self.telemetry, self.known = participant, memory, telemetry, known
        self.changed = changed
        self.most = 4 * wire.size(first.tensors()) + ROOM

    def check(self, assignment: Assignment) -> None:
        """Refuses an assignment that this job cannot have, before anything is fetched.

        Raises:
            FrameError: naming what is wrong with it.
        """
        for size in (assignment.size, assignment.private_size):
            if size > self.most:
                raise FrameError(
                    f"a request of {size} bytes was announced, and one of this job has at most {self.most}."
                )
        if assignment.kind not in KINDS:
            raise FrameError(f"a {assignment.kind} request is no assignment.")

    def answer(
        self, assignment: Assignment, message: Path, private: Path | None, secret: Tensors, into: Path
    ) -> Answered:
        """The reply to an assignment, whose request lies in a file.

        private: the file of the client's own tensors.  secret: of the exchanges before.  into: the file of the reply.

        Raises:
            FrameError: if the files hold another request.
        """
        request = self._request(assignment, message, private)
        binding = Binding(assignment.round, assignment.attempt, assignment.ask)
        step, failure = self._step(request, assignment), None
        known = None if step is None else self.known(step)
        if known is not None and not known.refusal:
            return Answered(into, WrittenFrame(known.size, known.digest), step=step, again=True)
        self.participant.secret = secret
        self.memory.take()
        try:
            reply = Declined("rejected", known.refusal) if known is not None else self._reply(request)
        except ClientFailed as failed:
            failure, kind = failed, type(failed.__cause__).__name__
            reply = Declined("rejected", f"its work failed in {failed.where} with {kind}; the agent's log has the rest")
        with in_a_sentence(into.parent), private_file(into) as file:
            written = write_reply(file, reply, binding, self.participant.algorithm.flows[-1].packed)
        if written.size > assignment.limit:
            raise FrameError(f"the reply has {written.size} bytes, and the server takes {assignment.limit}.")
        proposed = self.memory.take() if isinstance(reply, UpdateReply) else None
        following = self.participant.secret if step is not None and not isinstance(reply, Declined) else None
        self.participant.secret = {}
        return Answered(into, written, proposed, following, failure, None if isinstance(reply, Declined) else step)

    def _step(self, request: Request, assignment: Assignment) -> Step | None:
        """The step of the protocol that a request is; `None` if it is none, or there is no protocol."""
        if self.participant.algorithm.algorithm.chain.protocol is None or not isinstance(request, Train | Exchange):
            return None
        name = request.name if isinstance(request, Exchange) else TRAINING
        digests = f"{assignment.message} {assignment.private or ''}"
        return Step((assignment.round, assignment.attempt), name, digests)

    def _request(self, assignment: Assignment, message: Path, private: Path | None) -> Request:
        """The request in the files, which must be the one that was assigned."""
        request, binding = read_request(message, max(1, assignment.size), checked=True)
        wanted = Binding(assignment.round, assignment.attempt, assignment.ask)
        if binding != wanted or not isinstance(request, KINDS[assignment.kind]):
            raise FrameError(
                f"a {assignment.kind} request of {wanted} was expected, found a {type(request).__name__} of {binding}."
            )
        if private is not None:
            own, bound = read_request(private, max(1, assignment.private_size), checked=True)
            if bound != wanted:
                raise FrameError(f"tensors of {wanted} were expected, found those of {bound}.")
            request = replace(request, private=own.private)
        if isinstance(request, Train) and assignment.steps is not None:
            request = replace(request, steps=assignment.steps)
        return request

    def _reply(self, request: Request) -> Reply:
        if not self.telemetry and isinstance(request, Evaluate | Measure):
            return Scores({}, 0)
        reply = self.participant.answer(request)
        if self.changed is not None and isinstance(request, Train) and isinstance(reply, UpdateReply):
            reply = self.changed(request, reply)
        if not self.telemetry and isinstance(reply, UpdateReply):
            figures = {name: number for name, number in reply.figures.items() if name in ("examples", "steps")}
            return replace(reply, figures=figures)
        return reply
