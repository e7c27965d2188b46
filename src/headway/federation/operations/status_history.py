"""The rounds of a run in bounded memory: thinned evenly where there are many, with the newest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headway.federation.operations.status_snapshot import RoundStatus, Totals
from headway.observe.journal import Journal
from headway.observe.round_report import RoundReport
from headway.privacy.spends import ACCOUNTS

MOST_ROUNDS = 400


class StatusHistory:
    """Keeps every round until they are more than `most`, then every second, every fourth and so on.

    totals: the sums over all rounds, kept or not.

    >>> history = StatusHistory(most=4)
    >>> for round_ in range(1, 12):
    ...     history.add(RoundStatus(round=round_, bytes_up=1))
    >>> [each.round for each in history.rounds()], history.totals.bytes_up
    ([4, 8, 11], 11)
    """

    def __init__(self, most: int = MOST_ROUNDS) -> None:
        self.most = most
        self.totals = Totals()
        self._stride = 1
        self._kept: list[RoundStatus] = []
        self._last: RoundStatus | None = None

    def add(self, done: RoundStatus) -> None:
        """Adds a round."""
        old = self.totals
        self.totals = Totals(
            bytes_up=old.bytes_up + done.bytes_up,
            bytes_down=old.bytes_down + done.bytes_down,
            seconds=old.seconds + (done.seconds or 0.0) + (done.evaluation_seconds or 0.0),
            counted=old.counted + done.counted,
            rejected=old.rejected + done.rejected,
            dropped=old.dropped + done.dropped,
        )
        self._last = done
        if done.round % self._stride:
            return
        self._kept.append(done)
        while len(self._kept) > self.most:
            self._stride *= 2
            self._kept = [each for each in self._kept if each.round % self._stride == 0]

    def rounds(self) -> tuple[RoundStatus, ...]:
        """The rounds that are kept, and the newest."""
        if self._last is None or (self._kept and self._kept[-1] is self._last):
            return tuple(self._kept)
        return (*self._kept, self._last)


def round_status(report: RoundReport, metric: str) -> RoundStatus:
    """A finished round; metric: the deciding one."""
    where = report.central if metric in report.central else report.metrics
    return RoundStatus(
        round=report.round,
        asked=len(report.clients),
        counted=report.count("counted"),
        rejected=report.count("rejected"),
        dropped=report.count("dropped"),
        train_loss=report.train_loss,
        value=where.get(metric),
        loss=where.get("loss"),
        bytes_up=report.bytes_up,
        bytes_down=report.bytes_down,
        seconds=report.seconds,
        evaluation_seconds=report.evaluation_seconds,
        headway=report.drift.get("headway"),
        leeway=report.drift.get("leeway"),
        epsilon={name: spent for name, spent in report.privacy.items() if name != "delta"},
    )


def journal_rounds(journal: Journal, metric: str) -> list[RoundStatus]:
    """The rounds of a journal, of a run that goes on."""
    central, clients = dict(journal.series("central", metric)), dict(journal.series("clients", metric))
    scope = "central" if central else "clients"
    found: Mapping[str, dict[int, float]] = {
        "value": central or clients,
        "loss": dict(journal.series(scope, "loss")),
        "headway": dict(journal.series("drift", "headway")),
        "leeway": dict(journal.series("drift", "leeway")),
    }
    spent = {account: dict(journal.series("privacy", account)) for account in ACCOUNTS}
    rounds = []
    for row in journal.rows("rounds"):
        more: dict[str, Any] = {name: series.get(row["round"]) for name, series in found.items()}
        more["epsilon"] = {name: curve[row["round"]] for name, curve in spent.items() if row["round"] in curve}
        row["asked"] = row.pop("cohort")
        rounds.append(RoundStatus(**row, **more))
    return rounds
