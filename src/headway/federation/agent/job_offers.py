"""The jobs that a server offers, one after another: taken, declined, or left for the next one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from dataclasses import dataclass

from headway.core.errors import HeadwayError
from headway.federation import http_api as api
from headway.federation.agent.connection import Connection, ProblemAnswer, Unreachable

FIRST_S, LAST_S = 0.25, 30.0  # between two questions for another job, which doubles


@dataclass(frozen=True)
class JobOffers:
    """Asks a server for its job, for an agent or a relay.

    stay: whether the job after one that has ended is waited for.
    """

    connection: Connection
    stay: bool

    async def present(self) -> api.JobDescription:
        """The server's job, when it has one."""
        return await self.connection.call("GET", api.JOB, None, api.JobDescription)

    async def state_of(self, work: Awaitable[str], next_: str = "The next job is waited for.") -> str:
        """The state in which a job ends; "failed" for one in which this node does not take part, if it stays.

        next_: what follows then, as a sentence.

        Raises:
            HeadwayError: of the work, unless the next job is waited for.
        """
        try:
            return await work
        except HeadwayError as error:
            if not self.stay or isinstance(error, ProblemAnswer):
                raise
            self.connection.log.write("not taking part", f"{error} {next_}")
            return "failed"

    async def decline(self, why: str) -> None:
        """Lets the server show why this node takes no part in its job."""
        problem = api.Problem(kind="refused", message=why[:2000])
        with contextlib.suppress(Unreachable, ProblemAnswer):
            await self.connection.send_once("POST", api.DECLINE, problem)

    async def after(self, last: api.JobDescription) -> api.JobDescription | None:
        """The job after one; `None` if it is not waited for, and there is none yet or the server does not answer.

        Raises:
            HeadwayError: if it is waited for, and the server does not let this node take part any more.
        """
        wait_s = FIRST_S
        while True:
            try:
                if self.stay:
                    found = await self.present()
                else:
                    found = await self.connection.call_once("GET", api.JOB, None, api.JobDescription)
            except (Unreachable, ProblemAnswer):
                if self.stay:  # it would have waited for a server that cannot be reached
                    raise
                return None
            if found.job != last.job:
                return found
            if not self.stay:
                return None
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LAST_S)
