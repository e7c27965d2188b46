"""The relay: a client of one server, and a server of others, that sends the exact sum over its clients' updates."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from headway.core.errors import ConfigError, HeadwayError
from headway.federation import http_api as api
from headway.federation.agent.agent_log import AgentLog, Sink
from headway.federation.agent.agent_store import AgentStore
from headway.federation.agent.connection import Connection, ProblemAnswer
from headway.federation.agent.job_offers import JobOffers
from headway.federation.agent.job_session import JobSession
from headway.federation.agent.training_thread import TrainingThread
from headway.federation.identity.server_access import ServerAccess
from headway.federation.relay.relay_chain import refusal_of_names
from headway.federation.relay.relay_desk import RelayDesk
from headway.federation.relay.relay_server import RelayServer
from headway.federation.serving.assignments import State
from headway.federation.serving.members import LEASE_S
from headway.model.task import Task

GOODBYE_S = 10.0  # how long a relay waits at the end of a job for its clients to learn of it
FETCH_S = 60.0  # within which the certificates of the server's clients must come
LOOK_S = 0.1  # between two looks at what has changed
SERVER_S = 10.0  # between two looks at the server's job, while clients are waited for
TaskMaker = Callable[[api.JobDescription], Task]


@dataclass(frozen=True)
class RelayOptions:
    """How a relay works.

    host, port: where it listens for its clients; port 0 is a free one.  clients: how many it waits for before it joins
    its server.  proxy: of the connection to the server.  public_authorities: whether a server's certificate is trusted
    that the operating system trusts.  patience_s: how long a server is waited for that has not answered once; `None`
    without end.  lease_s: the seconds without contact after which a client counts as gone.  stay: whether it waits for
    the next job when one has ended.  sink: receives events of its work.
    """

    host: str = "127.0.0.1"
    port: int = 0
    clients: int = 1
    proxy: str | None = None
    public_authorities: bool = False
    patience_s: float | None = None
    lease_s: float = LEASE_S
    stay: bool = False
    sink: Sink | None = field(default=None, compare=False)


class Relay:
    """Takes part in a server's jobs for the clients that join it here.

    url: of the server.  access: its identity, with which it joins the server and is known to its clients, and whom it
    admits.  task: makes the model of a job, of which only the layout is used.  state: the folder of what it holds.

    Raises:
        ConfigError: if the URL is none, or plain HTTP to another machine.
    """

    def __init__(
        self, url: str, access: ServerAccess, task: TaskMaker, *, state: Path, options: RelayOptions | None = None
    ) -> None:
        self.options, self.access, self.task, self.state = options or RelayOptions(), access, task, Path(state)
        self.log = AgentLog(self.options.sink)
        self.connection = Connection(
            url,
            access.identity,
            self.log,
            patience_s=self.options.patience_s,
            proxy=self.options.proxy,
            public_authorities=self.options.public_authorities,
        )
        self.offers = JobOffers(self.connection, self.options.stay)
        if not self.connection.secure:
            self.connection.check_loopback()
        self.server = RelayServer(self.options.host, self.options.port, access, self.state)
        self.listening = threading.Event()
        self._main: asyncio.Task[str] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> str:
        """Works until the job has ended (with `stay`: until `stop`); the state of the last job: "finished", "failed" or
        "stopped".

        Raises:
            HeadwayError: if the server does not let it take part, or the job cannot be relayed.
        """
        with contextlib.suppress(asyncio.CancelledError), asyncio.Runner() as runner:
            return runner.run(self._run())
        return "stopped"

    def stop(self) -> None:
        """Ends `run` from another thread; what is on disk is kept, and the next `run` goes on."""
        if self._loop is not None and self._main is not None:
            with contextlib.suppress(RuntimeError):  # of a loop that has ended
                self._loop.call_soon_threadsafe(self._main.cancel)

    async def _run(self) -> str:
        self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        store, thread = AgentStore(self.state / "server"), TrainingThread()
        try:
            async with self.connection:
                return await self._jobs(store, thread)
        finally:
            self._main = None
            thread.close()
            store.close()
            await asyncio.shield(asyncio.to_thread(self.server.close))

    async def _jobs(self, store: AgentStore, thread: TrainingThread) -> str:
        """One job after another; the state of the last."""
        job: api.JobDescription | None = await self.offers.present()
        state = "stopped"
        while job is not None:
            state = await self.offers.state_of(self._one_job(job, store, thread))
            job = await self.offers.after(job) if self.options.stay else None
        return state

    async def _decline(self, why: str) -> None:
        """Lets the server show why there is no relay.

        Raises:
            ConfigError: always.
        """
        await self.offers.decline(why)
        raise ConfigError(f"this job cannot go through a relay: {why} Let the clients join the server itself.")

    async def _one_job(self, job: api.JobDescription, store: AgentStore, thread: TrainingThread) -> str:
        """One job, for the clients that join here."""
        if (why := refusal_of_names(job.algorithm)) is not None:
            await self._decline(why)
        store.begin(job.job)
        folder = self.state / hashlib.sha256(job.job.encode()).hexdigest()[:16]
        own = (folder, self.access.identity.name, self.options.lease_s, self._certificates)
        desk = await thread.run(lambda: RelayDesk.of(job, self.task(job), *own))
        desk.members.on_disk_trouble = lambda reason: self.log.once("disk", f"No update is taken at present: {reason}")
        state: State = "paused"  # the clients wait for this relay, unless the job has ended
        reason = ""
        try:
            self._offer(desk)
            await self._wait_for_clients(desk)
            end = await self._session(desk, store, thread)
            state, reason = end.state, end.reason
            self.log.write("ended", f"The job {job.name!r} has ended: {state}. {reason}".rstrip(), state=state)
            return state
        except HeadwayError as error:
            state, reason = "failed", str(error)
            raise
        finally:
            await asyncio.shield(asyncio.to_thread(self._goodbye, desk, state, reason))

    def _offer(self, desk: RelayDesk) -> None:
        """Lets clients join here for a job."""
        server, name = self.server, desk.description.name
        server.offer(desk)
        facts = {"address": server.url, "token_file": str(server.token_file)}
        self.log.write("listening", f"Clients of {name!r} may join at {server.url}.", **facts)
        self.listening.set()

    def _certificates(self) -> dict[str, str]:
        """The certificates of the server's clients, by name; called in the thread that answers it."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self.connection.certificates(), self._loop).result(FETCH_S)

    async def _wait_for_clients(self, desk: RelayDesk) -> None:
        """Waits until so many clients are here as the relay joins with.

        Raises:
            ConfigError: if the server has another job by then.
        """
        wanted, looked = self.options.clients, time.monotonic()
        self.log.write("waiting", f"Waiting for {wanted} of its own clients before joining {self.connection.url}.")
        while (missing := wanted - len(desk.present())) > 0:
            desk.status.wait(missing)
            await asyncio.sleep(LOOK_S)
            if time.monotonic() - looked >= SERVER_S:
                present = await self.offers.present()
                if present.job != desk.description.job:
                    raise ConfigError(
                        f"the server has gone over to {present.name!r}, and {len(desk.present())} of {wanted} clients "
                        f"were here for {desk.description.name!r}."
                    )
                looked = time.monotonic()
        desk.status.wait(0)

    async def _session(self, desk: RelayDesk, store: AgentStore, thread: TrainingThread) -> api.Work:
        """The work for the server, which learns of each client that joins or leaves here."""
        session = JobSession(self.connection, store, desk, thread, self.log, desk.answering.pass_on)
        following = asyncio.create_task(self._follow(desk, session))
        try:
            return await session.run()
        except ProblemAnswer as answer:
            raise ConfigError(f"the relay cannot take part in {desk.description.name!r}: {answer}") from answer
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following

    async def _follow(self, desk: RelayDesk, session: JobSession) -> None:
        """Joins again whenever other clients are here than the server knows; if none is, it answers for none of them
        until one is back."""
        while True:
            await asyncio.sleep(LOOK_S)
            here = desk.present()
            if here and desk.joined is not None and desk.joined != here:
                self.log.write("clients", f"{len(here)} clients are here now.")
                with contextlib.suppress(ProblemAnswer):
                    await session.join()

    def _goodbye(self, desk: RelayDesk, state: State, reason: str) -> None:
        """Lets the clients here learn of the end."""
        desk.assignments.set_state(state, reason[:2000])
        last = time.monotonic() + (GOODBYE_S if state == "finished" else 0.0)
        while time.monotonic() < last and not desk.all_know(state):
            time.sleep(LOOK_S)
        desk.answering.close()
