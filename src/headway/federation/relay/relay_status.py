"""The status of a relay: its clients, what it does for its server, and the rounds as they were here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Self

from headway.core.algorithm import Algorithm
from headway.federation.http_api import JobDescription
from headway.federation.operations.run_facts import chain_status
from headway.federation.operations.server_status import ServerStatus
from headway.federation.serving.assignments import Assignments
from headway.federation.serving.members import Members
from headway.federation.serving.network_training import Progress
from headway.observe.round_report import RoundReport
from headway.protocol.messages import Answer


class RelayStatus(ServerStatus):
    """The board of a relay, which learns of the rounds by the requests of its server."""

    @classmethod
    def of_job(
        cls,
        description: JobDescription,
        relay: str,
        algorithm: Algorithm,
        parts: tuple[Members, Assignments],
        now: Callable[[], float],
    ) -> Self:
        """The status of a job.

        relay: the relay's name.  algorithm: of the job, as the relay has it.  parts: its clients and their requests.
        """
        name = f"{description.name}, at the relay {relay}"
        made = cls.of(*parts, name=name, rounds=description.rounds, now=now, kind="relay")
        made.board.describe("", chain_status(algorithm), 0)
        return made

    def show(self, progress: Progress) -> None:
        """Puts the progress of the engine on the board, and the round that it is about."""
        self.board.set_round(progress.round)
        super().show(progress)

    def wait(self, missing: int) -> None:
        """Clients are missing before the relay joins its server; or none, and its first request is waited for."""
        if missing > 0:
            clients = "client" if missing == 1 else "clients"
            self.board.set_phase("waiting for clients", f"for {missing} more {clients} before it joins its server")
        else:
            self.board.set_phase("waiting for its server")

    def add_answer(self, round_: int, answer: Answer, seconds: float) -> None:
        """A round of training with the clients here; the first is 0."""
        self.board.add_round(replace(RoundReport.of(round_ + 1, [answer], Answer()), seconds=seconds))
