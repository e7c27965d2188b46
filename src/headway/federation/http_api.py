"""The HTTP interface of a server: paths, headers and JSON bodies, for both sides.

Control is JSON, checked against these models; tensors travel as frames of `protocol.wire`, in pieces of at most 4 MiB.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PROTOCOL = 1  # the version of this interface
CHUNK = 4 << 20  # the largest piece of an upload, in bytes
BODY = 1 << 20  # the largest JSON body, in bytes
POLL_S = 45.0  # how long a request for work is held open by default; proxies close what is idle for a minute
LONGEST_POLL_S = 3600.0
MOST_EXAMPLES = 1 << 40  # of a client: weights above it would be no counts
HEARTBEAT_S = 10.0  # between two heartbeats of an agent

HEALTH = "/health"
ENROL = "/v1/enrol"
JOB = "/v1/job"
JOIN = "/v1/join"
DECLINE = "/v1/decline"
LEAVE = "/v1/leave"
WORK = "/v1/work"
HEARTBEAT = "/v1/heartbeat"
MESSAGE = "/v1/messages/{digest}"
REPLY = "/v1/replies/{assignment}"
COMPLETE = "/v1/replies/{assignment}/complete"
CERTIFICATES = "/v1/certificates"
RECEIPTS = "/v1/receipts"
STATUS = "/v1/status"
METRICS = "/metrics"
DASHBOARD = "/"
EVENTS = "/v1/events"

NODE = "Headway-Node"  # the name of the client that calls
OFFSET = "Headway-Offset"  # of a piece, and in replies: how many bytes are there

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tabs and line feeds


def without_control(text: str) -> str:
    """A text whose control characters are replaced, since it may be shown in a terminal.

    >>> without_control("\\x1b[2Jloss 0.5")
    '?[2Jloss 0.5'
    """
    return _CONTROL.sub("?", text)


Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f/\\]+$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # SHA-256 in hexadecimal
Text = Annotated[str, Field(max_length=2000), AfterValidator(without_control)]


class Body(BaseModel):
    """A JSON body; unknown keys, wrong types and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Versions(Body):
    """The versions of a node: of headway and torch, this interface, the wire, and the draws from keys."""

    headway: Text
    torch: Text
    protocol: int
    wire: int
    draws: int


class TaskFacts(Body):
    """The facts of a task and its model on which both sides must agree.

    layout: the fingerprint of names, shapes and order of the shared parameters.  parameters: how many there are.
    statistics: the number of averaged statistics, 0 without any.  frozen: the digest of weights that are neither
    trained nor sent.
    """

    layout: Text
    parameters: int = Field(ge=0)
    statistics: int = Field(default=0, ge=0)
    frozen: Text = ""
    loss: Text
    metrics: tuple[Text, ...] = ()
    dtype: Text = "float32"
    buffers: Text | None = None


class DataFacts(Body):
    """The facts of a client's data that the server learns: sizes, the form of an example, a fingerprint.

    classes: the names of the classes in their order; `None` for values to predict.  notes: what reading the data took.
    hidden: of a chain that protects clients: the sizes stay with the client, and are 1 where there are examples.
    """

    train: int = Field(ge=1, le=MOST_EXAMPLES)
    test: int = Field(default=0, ge=0, le=MOST_EXAMPLES)
    input_shape: tuple[int, ...]
    classes: tuple[Text, ...] | None = None
    features: tuple[Text, ...] = ()
    fingerprint: Text = ""
    notes: tuple[Text, ...] = ()
    hidden: bool = False

    def without_sizes(self) -> DataFacts:
        """The facts without what is a figure of this client."""
        return self.model_copy(
            update={"train": 1, "test": min(self.test, 1), "fingerprint": "", "notes": (), "hidden": True}
        )


class JobDescription(Body):
    """The work of a server, as agents receive it: names and numbers, resolved in the agent's own registries.

    job: the identifier of the job, new for each run.  algorithm: chain, trainer, sampler and quorum by names and
    numbers (`experiment.identity.described`).  seed: of the run, from which keys are derived.  keys: "derived" from the
    seed, as in a simulation, or "private": each client draws from a secret of its own.  randomness: of noise, masks and
    rounding: "system", the operating system's at each client, or "derived", which the server can predict.  model, task:
    the sections of a run file, which an agent uses where its own configuration names neither.  schema: of tables,
    likewise.  client_metrics: of a chain that protects clients, whether each is asked for metrics on its own test part.
    poll_s: for how long a waiting agent's request for work is to be held open.
    """

    job: Name
    name: Text
    versions: Versions
    algorithm: dict[str, Any]
    task: TaskFacts
    seed: int = Field(ge=0)
    keys: Literal["derived", "private"] = "derived"
    randomness: Literal["system", "derived"] = "system"
    client_metrics: Literal["off", "released"] = "off"
    rounds: int = Field(ge=1)
    population: int = Field(default=0, ge=0)
    model: dict[str, Any] = Field(default_factory=dict)
    task_section: dict[str, Any] = Field(default_factory=dict)
    data_schema: dict[str, Any] = Field(default_factory=dict)
    poll_s: float = Field(default=POLL_S, gt=0, le=LONGEST_POLL_S)


class Pending(Body):
    """Memory at a client that waits for the verdict on an update."""

    round: int
    attempt: int
    digest: Digest | None = None


class RelayedClient(Body):
    """A client for which a relay joins, the facts of its data, and its memory without a verdict, if any.

    certificate: of the client, where the clients of the job agree on keys with one another.
    """

    client: Name
    data: DataFacts
    pending: Pending | None = None
    certificate: Text = ""


class JoinRequest(Body):
    """A client's request to take part in a job.

    pending: its memory without a verdict, if any.  memory: whether it has committed memory of this job.  members: the
    clients for which a relay joins, all of them in each request; `data` are then counts over them.  certificate: of the
    client, DER in base64, by which the others know its signatures; each checks it against the authority itself.
    """

    job: Name
    versions: Versions
    task: TaskFacts
    data: DataFacts
    pending: Pending | None = None
    memory: bool = False
    members: tuple[RelayedClient, ...] = Field(default=(), max_length=10_000)
    certificate: Text = ""


class Certificates(Body):
    """The certificates of some clients that have joined, sorted by name, DER in base64; and whether there are more."""

    certificates: dict[Name, Text]
    more: bool = False


class Problem(Body):
    """A refusal: the sentence, its kind, and both sides where they differ."""

    kind: Literal[
        "unknown", "refused", "mismatch", "late", "busy", "gone", "too_large", "unauthorised", "malformed", "failed"
    ]
    message: Text
    needed: Text = ""
    found: Text = ""


class Assignment(Body):
    """A request for one client: the frame of the request to download, and what the reply must be bound to.

    assignment: its identifier.  message: the digest of the common frame, `encode_request` of a request without private
    tensors.  private: the digest of a frame with the client's own tensors, if there are some.  steps: the number of
    local steps, where it is not the trainer's.  limit: the largest number of bytes of the reply.  clients: of a request
    to a relay, those of its clients that are asked; it answers with the sum over them, an exchange with the reply of
    each.
    """

    assignment: Name
    job: Name
    kind: Literal["train", "evaluate", "measure", "exchange", "settle"]
    round: int = Field(ge=0)
    attempt: int = Field(default=0, ge=0)
    ask: int = Field(default=0, ge=0)
    message: Digest
    size: int = Field(ge=0)
    private: Digest | None = None
    private_size: int = Field(default=0, ge=0)
    steps: int | None = None
    limit: int = Field(ge=0)
    clients: tuple[Name, ...] = ()


class RoundVerdict(Body):
    """Whether the update of a client in a round was counted; its pending memory is committed or dropped by it.

    client: one of those behind the relay that receives the verdict; empty for the receiver itself.
    """

    round: int
    attempt: int
    counted: bool
    reason: Text = ""
    client: Text = ""


class Work(Body):
    """The answer to a request for work, and to a heartbeat.

    state: of the job; agents stop working on it when it is finished, failed or stopped.  withdrawn: assignments whose
    reply is no longer wanted.  verdicts: on the client's updates that are decided and that it has not acknowledged
    by `settled`.
    """

    job: Name
    state: Literal["waiting", "running", "finished", "failed", "stopped", "paused"]
    reason: Text = ""
    assignment: Assignment | None = None
    withdrawn: tuple[Name, ...] = ()
    verdicts: tuple[RoundVerdict, ...] = ()


class WorkRequest(Body):
    """A request for work, or a heartbeat.

    wait_s: how long to hold the request open, 0 for a heartbeat.  working: the assignments in hand.  settled: the
    rounds and attempts whose verdict has been carried out.  activity: what the client does now, as a phrase; done: the
    share of it, from 0 to 1.
    """

    job: Name
    wait_s: float = Field(default=0.0, ge=0, le=LONGEST_POLL_S)
    working: tuple[Name, ...] = ()
    settled: tuple[tuple[int, int], ...] = ()
    activity: Text = ""
    done: float | None = Field(default=None, ge=0, le=1)


class Complete(Body):
    """The end of an upload: all bytes have been sent.

    message: the digest of the request's frame, which binds the reply to the model that it was computed from.
    """

    size: int = Field(ge=0)
    digest: Digest
    message: Digest


class Receipt(Body):
    """The server's statement, signed where it has an identity, that it holds an update on disk.

    verdict: "accepted", or why it does not count.
    """

    job: Name
    client: Name
    round: int
    attempt: int
    assignment: Name
    digest: Digest
    size: int
    verdict: Literal["accepted", "late", "stale", "refused", "answered"]
    reason: Text = ""
    at: float = 0.0
    server: Text = ""
    signature: Text = ""
