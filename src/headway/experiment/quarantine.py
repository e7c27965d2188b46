"""The clients' standings in the rounds of a run: who may be drawn, and what a round changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from headway.core.algorithm import State
from headway.core.errors import ConfigError
from headway.experiment.federation import Federation
from headway.observe.round_report import RoundReport
from headway.protocol.messages import Answer
from headway.protocol.standings import Standings


class Quarantine:
    """Leaves clients in quarantine out of rounds, and moves their scores; without a reputation it changes nothing.

    What a round changes is kept apart until `settle`, so that a round that is interrupted has changed nothing.
    """

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self._next: Standings | None = None

    def drawable(self, before: State, available: Sequence[str]) -> tuple[Sequence[str], list[str]]:
        """The clients that may be drawn in the round that starts from a state; and a note on those that are drawn
        from in spite of their quarantine."""
        federation = self.federation
        if federation.standings is None:
            return available, []
        algorithm, least = federation.algorithm, federation.flows[-1].min_updates

        def enough(clients: Sequence[str]) -> bool:
            return len(clients) >= least and algorithm.enough(clients)

        drawable, released = federation.standings.now.drawable(available, before.round, enough)
        names = ", ".join(released)
        return drawable, [f"in quarantine, but needed to fill the round: {names}."] if released else []

    def judged(self, before: State, report: RoundReport, answers: Sequence[Answer]) -> RoundReport:
        """The report with the scores after the round, and the clients in quarantine.

        Raises:
            ConfigError: if updates were summed without being looked at one by one.
        """
        record = self.federation.standings
        if record is None:
            return report
        deltas = {client: delta for answer in answers for client, delta in answer.deltas.items()}
        if unseen := set(report.clients.with_status("counted").clients) - set(deltas):
            raise ConfigError(
                f"a reputation needs each client's update, and that of {min(unseen)!r} was summed without being "
                "compared: it came through a relay, or the sum takes more memory than federation.memory allows. Leave "
                "algorithm.reputation out, or the relay, or raise the memory."
            )
        after = record.now.after(before.round, report.clients, deltas)
        self._next = after
        return replace(
            report,
            notes=(*report.notes, *after.remarks(record.now, before.round)),
            reputation=after.scores_of(report.clients.clients),
            quarantine=after.until(before.round + 1),
        )

    def settle(self) -> None:
        """Takes over what the round changed."""
        if self.federation.standings is not None and self._next is not None:
            self.federation.standings.now, self._next = self._next, None
