"""The privacy ledger of a run, as an observer: it reserves releases, and ends the run before a round that would pass
the budget."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headway.core.errors import ConfigError, RunFolderError
from headway.experiment.federation import Federation
from headway.experiment.replay import RoundReplay
from headway.observe.observer import Observer
from headway.observe.round_report import RoundReport
from headway.privacy.ledger import Ledger
from headway.privacy.ledger_file import LEDGER, LedgerFile
from headway.privacy.options import PrivacyOptions
from headway.privacy.terms import PrivacyTerms
from headway.protocol.effects import Reserve


class RunLedger(Observer):
    """The ledger of a run whose chain adds noise; of every other chain it does nothing.

    folder: of the run; without one the ledger is in memory alone.  rounds: how many the run is for.
    start: the round that the run goes on from.  replay: has the releases of rounds that are gone through again.

    Raises:
        ConfigError: for a budget without noise, or one that does not allow the first round.
        RunFolderError: if the file of a resumed run is gone, damaged, or its chain is broken.
    """

    def __init__(
        self,
        federation: Federation,
        options: PrivacyOptions,
        replay: RoundReplay,
        *,
        folder: Path | None,
        rounds: int,
        start: int,
    ) -> None:
        self.rounds, self.replay = rounds, replay
        self.ledger: Ledger | None = None
        terms = PrivacyTerms.of(
            federation.algorithm,
            federation.flows,
            options,
            federation.population or None,
            federation.central is not None,
        )
        if not terms.events:
            if options.limited:
                raise ConfigError(
                    "privacy.epsilon is a budget, and no stage of the chain adds noise that could keep it: add one, "
                    "such as GaussianNoise, or leave the budget out."
                )
            return
        path = None if folder is None else folder / LEDGER
        if path is not None and start and not path.exists():
            raise RunFolderError(
                f"{path} is gone: what the run has spent in rounds 1 to {start} is not known. Restore the file from a "
                "copy; a run whose spent budget is not known cannot go on."
            )
        self.ledger = Ledger(terms, options, LedgerFile(path))
        if not start and (reason := self.refusal(0)) is not None and not self.ledger.spent().releases:
            raise ConfigError(f"{reason[0].upper()}{reason[1:]}")

    @property
    def notices(self) -> list[str]:
        """What a user should know of the ledger's file."""
        return [] if self.ledger is None else self.ledger.file.notices

    def figures(self, round_: int) -> dict[str, float]:
        """The epsilon of each account with the rounds up to this one, and the delta, for the report of the round."""
        if self.ledger is None:
            return {}
        spent = self.ledger.spent(round_)
        return {str(account): found for account, found in spent.epsilons.items()} | {"delta": spent.delta}

    def reserve(self, effect: Reserve, asked: int, population: int) -> None:
        """Writes the events of a release before it is made.

        Raises:
            PrivacyBudgetSpent: if a budget would be passed.
            RunFolderError: if the disk refuses.
        """
        if self.ledger is not None:
            self.ledger.reserve(effect, asked=asked, population=population)

    def refusal(self, round_: int) -> str | None:
        """Why no round may follow on `round_`, as a sentence; `None` if one may, or none is due.

        A round whose release is kept costs nothing more: it is used again, and not drawn again.
        """
        if self.ledger is None or round_ >= self.rounds or self.replay.has_release(round_):
            return None
        return self.ledger.refusal(round_)

    def on_round(self, report: RoundReport) -> str | None:
        """Ends the run where its budget does not allow the next round."""
        return self.refusal(report.round)

    def to_state(self) -> Mapping[str, Any]:
        """How many entries the ledger has, and the digest of the last."""
        if self.ledger is None:
            return {}
        return {"ledger": {"entries": len(self.ledger.file.entries), "digest": self.ledger.file.head}}

    def from_state(self, kept: Mapping[str, Any]) -> None:
        """Refuses a ledger from which entries are missing that were there at the checkpoint.

        Raises:
            RunFolderError: naming the line.
        """
        if self.ledger is not None and (held := kept.get("ledger")) is not None:
            self.ledger.file.check_prefix(int(held["entries"]), str(held["digest"]))
