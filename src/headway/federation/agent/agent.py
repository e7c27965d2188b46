"""The agent: one client of a federation, on the machine where its data are."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from headway.core.errors import ChainRefused, ConfigError, DataError
from headway.federation import http_api as api
from headway.federation.agent.agent_check import check_agent
from headway.federation.agent.agent_job import AgentJob
from headway.federation.agent.agent_log import AgentLog, Sink
from headway.federation.agent.agent_store import AgentStore
from headway.federation.agent.connection import Connection, ProblemAnswer
from headway.federation.agent.job_offers import JobOffers
from headway.federation.agent.job_session import JobSession
from headway.federation.agent.local_policy import LocalPolicy
from headway.federation.agent.machine_limits import MachineLimits
from headway.federation.agent.own_data import DataSource
from headway.federation.agent.surroundings import AgentAttack, Surroundings, TaskSource
from headway.federation.agent.training_thread import TrainingThread
from headway.federation.identity.node_identity import Identity, OpenIdentity

NEXT = "The next job is waited for; for this one, mend that and start the agent again."
FETCH_S = 60.0  # within which the certificates of the other clients must come


@dataclass(frozen=True)
class AgentOptions:
    """How an agent works.

    policy: what a job must offer.  limits: what it may use of this machine.  patience_s: how long a server is waited
    for that has not answered once; `None` without end.  proxy: the address of an HTTP proxy; by default what the
    environment names (HTTPS_PROXY, NO_PROXY).  public_authorities: whether a server's certificate is trusted that the
    operating system trusts.  stay: whether it waits for the next job when one has ended.  sink: receives events of its
    work, see `headway.federation.agent.agent_log`.  attack: of an agent that attacks a server of this machine, which
    no job can ask for: see `ColludingAgents`.
    """

    policy: LocalPolicy = field(default_factory=LocalPolicy)
    limits: MachineLimits = field(default_factory=MachineLimits)
    patience_s: float | None = None
    proxy: str | None = None
    public_authorities: bool = False
    stay: bool = False
    sink: Sink | None = None
    attack: AgentAttack | None = None


class Agent:
    """A client that takes part in a server's jobs with its own data.

    url: of the server.  data: of one client, or a function of the job's description that reads them when a job starts.
    state: the folder of its memory and its undelivered replies; a new folder is a client without memory.
    identity: the node's, with its certificate; or name: of the client, on a server without certificates.
    task: its own model, loss and metrics, or a function that makes them for the job's description and the data; by
    default what the job names.

    Raises:
        ConfigError: if the URL is none, or neither name nor identity is given; for an attack on another machine.

    Example::

        agent = Agent("https://server:8080", data, state=Path("state"), identity=NodeIdentity.load(Path("hospital")))
        agent.run()  # until the job has ended
    """

    def __init__(
        self,
        url: str,
        data: DataSource,
        *,
        state: Path,
        name: str | None = None,
        identity: Identity | None = None,
        task: TaskSource | None = None,
        options: AgentOptions | None = None,
    ) -> None:
        self.options = options or AgentOptions()
        self.log = AgentLog(self.options.sink)
        if (name is None) == (identity is None):
            raise ConfigError("an agent has a name or an identity: give exactly one of them.")
        identity = identity or OpenIdentity(name or "")
        self.connection = Connection(
            url,
            identity,
            self.log,
            patience_s=self.options.patience_s,
            proxy=self.options.proxy,
            public_authorities=self.options.public_authorities,
        )
        self.offers = JobOffers(self.connection, self.options.stay)
        if not self.connection.secure:
            self.connection.check_loopback()
        if self.options.attack is not None:
            self.connection.check_attackable()
            self.log.write("attack", self.options.attack.summary)
        self.surroundings = Surroundings(identity.name, data, task, self.options.policy, self.options.limits.place)
        self.surroundings = replace(self.surroundings, attack=self.options.attack)
        self.surroundings = self.surroundings.known_as(identity, self._certificates)
        self.state = Path(state)
        self.session: JobSession | None = None
        self._main: asyncio.Task[str] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()
        self.still_training = False  # after `run`: code of the user that does not look whether it is wanted

    def run(self) -> str:
        """Takes part until the job has ended (with `stay`: until `stop`); the state of the last job: "finished",
        "failed" or "stopped".

        Raises:
            HeadwayError: if the server does not let it take part, or its own policy, data or model do not.
        """
        with contextlib.suppress(asyncio.CancelledError), asyncio.Runner() as runner:
            return runner.run(self._run())
        return "stopped"

    def check(self) -> list[str]:
        """Tries the connection, the certificate, the versions, the data, the model and one local step; sends nothing.

        Returns:
            A sentence on each.

        Raises:
            HeadwayError: on the first of them that would keep this agent from taking part.
        """
        with asyncio.Runner() as runner:
            return runner.run(check_agent(self.connection, self.surroundings, self.options.limits))

    def stop(self) -> None:
        """Ends `run` from another thread; what was acknowledged and computed is kept, and the next `run` goes on."""
        self._stopping.set()
        loop, main = self._loop, self._main
        if loop is not None and main is not None:
            with contextlib.suppress(RuntimeError):  # of a loop that has ended
                loop.call_soon_threadsafe(main.cancel)

    async def _run(self) -> str:
        self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        if self._stopping.is_set():
            return "stopped"
        store, thread = AgentStore(self.state), TrainingThread(self.options.limits)
        try:
            async with self.connection:
                return await self._jobs(store, thread)
        finally:
            self._main = None
            self.still_training = not thread.close()
            store.close()

    def _certificates(self) -> dict[str, str]:
        """The certificates of the clients that have joined, by name; called in the thread that trains."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self.connection.certificates(), self._loop).result(FETCH_S)

    async def _jobs(self, store: AgentStore, thread: TrainingThread) -> str:
        """One job after another."""
        description: api.JobDescription | None = await self.offers.present()
        state = "stopped"
        while description is not None:
            state = await self.offers.state_of(self._one_job(description, store, thread), NEXT)
            description = await self.offers.after(description)
        return state

    async def _one_job(self, description: api.JobDescription, store: AgentStore, thread: TrainingThread) -> str:
        store.begin(description.job)
        job = await self._prepared(description, store, thread)
        facts = job.data
        self.log.write(
            "joining",
            f"Joining {description.name!r} as {self.surroundings.name!r}: {facts.train} training and {facts.test} test "
            f"examples, {job.task.parameters:,} shared parameters, {description.rounds} rounds.",
            job=description.job,
        )
        if job.exchanges_keys and self.surroundings.signer is None:
            self.log.write(
                "notice",
                "Without certificates nobody's keys are signed: the server could put clients of its own into the "
                "secure sum. Join with an identity (--identity) where that matters.",
            )
        self.session = JobSession(self.connection, store, job, thread, self.log)
        try:
            end = await self.session.run()
        except ProblemAnswer as answer:
            raise ConfigError(
                f"{self.surroundings.name!r} cannot take part in {description.name!r}: {answer}"
            ) from answer
        await asyncio.to_thread(store.forget_secret, description.job)
        why = f": {end.reason.rstrip('.')}" if end.reason else ""
        self.log.write("ended", f"The job {description.name!r} has {_ending(end.state)}{why}.", state=end.state)
        return end.state

    async def _prepared(self, description: api.JobDescription, store: AgentStore, thread: TrainingThread) -> AgentJob:
        """The job on the agent's data; the server learns why, if it does not fit."""

        def prepare() -> AgentJob:
            memory = store.memory(description.job, self.surroundings.name)
            known = partial(store.exchanges.known, description.job)
            return AgentJob.of(description, self.surroundings, store.private_key(), memory, known)

        try:
            return await thread.run(prepare)
        except (ConfigError, ChainRefused, DataError) as error:
            text = (
                "its data do not fit the job; the agent's log has the reason" if isinstance(error, DataError) else error
            )
            await self.offers.decline(str(text))
            raise


def _ending(state: str) -> str:
    return {"finished": "finished", "failed": "failed"}.get(state, "been stopped")
