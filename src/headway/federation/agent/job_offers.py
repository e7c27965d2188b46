"""The jobs that a server offers, one after another."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from headway.federation import http_api as api
from headway.federation.agent.connection import Connection, ProblemAnswer, Unreachable

FIRST_S, LAST_S = 0.25, 30.0  # between two questions for another job, which doubles


@dataclass(frozen=True)
class JobOffers:
    """Asks a server for its job.

    stay: whether the job after one that has ended is waited for.
    """

    connection: Connection
    stay: bool

    async def present(self) -> api.JobDescription:
        """The server's job, when it has one."""
        return await self.connection.call("GET", api.JOB, None, api.JobDescription)

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
