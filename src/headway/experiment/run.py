"""Running an algorithm: rounds one after another, measured, journalled, resumable."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Unpack

from torch import nn

from headway.core import stopping
from headway.core.algorithm import Algorithm
from headway.core.errors import Diverged
from headway.data import ClientData, FederatedData, examples_of
from headway.experiment.checkpointer import Checkpointer
from headway.experiment.dry_run import dry_run
from headway.experiment.evaluator import Evaluator, MetricFacts
from headway.experiment.federation import Federation
from headway.experiment.round_driver import RoundDriver
from headway.experiment.run_observers import Ledger, RunObservers
from headway.experiment.run_options import PrivacyOptions as PrivacyOptions
from headway.experiment.run_options import RunArguments, RunOptions
from headway.experiment.trained_model import trained_model
from headway.model.task import Task
from headway.observe.round_report import RoundReport
from headway.observe.run_folder import REPLAY, RunFolder


class Run:
    """One run: iterate over it to train, a report per round.

    data: `FederatedData`; or `RemoteData`, for an engine that reaches clients elsewhere.

    Between rounds `state` is the server's, and `model()` the global model.  With a folder, an interrupted run
    can be resumed, and ends with the same bits as an uninterrupted one.

    options: see `RunOptions`, which lists all of them: seed, engine, folder, resume, evaluate_every, checkpoint_every,
        keep, until_s, config, observers, privacy.
    notices: what a user should know of how the model is used, and of going on with a run, such as a damaged checkpoint
        that was passed over.
    stopped_because: why an observer, or the privacy budget, has ended the run; empty if none has.

    Raises:
        ConfigError, DataError, ChainRefused, RunFolderError: before any training.
    """

    def __init__(
        self, algorithm: Algorithm, data: ClientData, task: Task, *, rounds: int, **options: Unpack[RunArguments]
    ) -> None:
        self.options = given = RunOptions(rounds, **options)
        self.federation = parts = Federation.open(algorithm, data, task, given)
        self.algorithm, self.known, self.task, self.engine = parts.algorithm, parts.known, parts.task, parts.engine
        self.rounds, self.until_s, self.key, self.memory = rounds, given.until_s, parts.key, parts.memory
        self.flat_module = parts.flat_module  # the model that the server evaluates with
        self.notices: list[str] = []
        self.stopped_because = ""
        self._checkpointer: Checkpointer | None = None
        self._between = True  # whether state, memory and journal are those of one round
        self._driver = RoundDriver(parts)
        try:
            self.state = parts.initial_state()
            self._evaluator = Evaluator(parts, given.evaluate_every, given.privacy.client_metrics == "released")
            kept = self._begin()
            self.state = parts.kept(self.state)
            self._observers = RunObservers(
                parts,
                self._evaluator.facts,
                start=self.state.round,
                folder=self.folder,
                options=given,
                replay=self._driver.replay,
            )
            if kept is not None:
                self._observers.from_state(kept)
            self.notices += [*self._evaluator.notices, *self._observers.ledger.notices]
            self._driver.reserve = self._observers.ledger.reserve
            self.stopped_because = self._observers.ledger.refusal(self.state.round) or ""
        except BaseException:
            self.close()
            raise
        self._engine_state = self.engine.saved()

    def _begin(self) -> dict[str, Any] | None:
        """Tries the path of an update, and opens the folder; what a checkpoint kept, where the run goes on from one."""
        path, kept = self.options.place, None
        if not self.options.resume:
            self.notices += self._try_once()  # before there is a folder
        if path is not None:
            if self.options.resume:
                self._checkpointer = Checkpointer.reopen(path, self.federation, self.options)
                kept = self._restore(self._checkpointer)
            else:
                self._checkpointer = Checkpointer.begin(path, self.federation, self.options)
            self.notices += self._checkpointer.notices
            self._driver.replay.folder = path / REPLAY
            self._checkpointer.save_data_notes(self.facts.record())
        if self.options.resume and not self.finished:
            self.notices += self._try_once()
        return kept

    def _restore(self, checkpointer: Checkpointer) -> dict[str, Any] | None:
        """The state of the newest checkpoint, and its notes; `None` if there is no checkpoint yet."""
        if not checkpointer.has_checkpoint:
            checkpointer.notices.append("the run was stopped before its first checkpoint, so it begins with round 1.")
            return None
        self.state, kept = checkpointer.restore(self.rounds)
        return kept

    def _try_once(self) -> list[str]:
        return dry_run(self.federation, self.state, self.options.evaluate_every is not None)

    def model(self, client: str | None = None) -> nn.Module:
        """The global model as a module of its own; or the model of a client, with what stays there.

        Raises:
            ConfigError: if personal parameters or statistics stay with the clients, and no client is named.
        """
        return trained_model(self.federation, self.state, client)

    def __iter__(self) -> Iterator[RoundReport]:
        """Trains until `rounds` are complete.  Stopping early (break, Ctrl-C) leaves the folder resumable."""
        self._open_journal()
        # the module's names are gone when a program ends
        stops, held = (GeneratorExit, KeyboardInterrupt, stopping.Stopped, Diverged), stopping.held
        saved = self.state.round if self._checkpointer is not None and self._checkpointer.has_checkpoint else -1
        try:
            while not self.finished:
                stopping.check()
                report = self._round()
                with held():
                    if self._checkpointer is not None:
                        self._checkpointer.record(report)
                        self._observers.on_recorded(report)
                    self._between = True
                    due = self.state.round % self.options.checkpoint_every == 0
                    if due or self.finished:
                        self._checkpoint()
                        saved = self.state.round
                yield report
        except stops:
            # a round that was interrupted after its updates were counted is neither whole nor undone: what is saved
            # already stands, and it is run again from there
            if saved < self.state.round and self._between:
                with held():
                    self._checkpoint()
            raise
        finally:
            if self._checkpointer is not None:
                self._checkpointer.close_journal()

    def close(self) -> None:
        """Lets go of the engine and the folder."""
        with stopping.held():
            self.engine.close()
        if self._checkpointer is not None:
            self._checkpointer.close()
            self._checkpointer = None

    @property
    def finished(self) -> bool:
        """Whether all rounds are complete, the time is over, or an observer has ended the run."""
        over = self.until_s is not None and self.engine.now >= self.until_s
        return self.state.round >= self.rounds or over or bool(self.stopped_because)

    # one round ------------------------------------------------------------------------------------------

    def _round(self) -> RoundReport:
        begun = time.perf_counter()
        trained = self._driver.train(self.state)
        remarks, alarms = self._observers.on_trained(trained)
        self._between = False
        settled = self._driver.settle(trained)
        self.state = trained.after
        self._driver.record(trained)
        report = trained.report
        spent, notes = time.perf_counter() - begun, (*report.notes, *settled, *remarks)
        privacy = self._observers.ledger.figures(report.round)
        report = replace(report, seconds=spent, notes=notes, alarms=alarms, privacy=privacy)
        self._engine_state = self.engine.saved()
        evaluated = self._evaluator.is_due(report.round) or self.finished
        if evaluated:
            report = self._evaluate(report)
        if reasons := self._observers.on_round(report):
            self.stopped_because = " ".join(reasons)
            report = replace(report, notes=(*report.notes, f"the run ends with this round: {self.stopped_because}"))
            report = report if evaluated else self._evaluate(report)
        return report

    def _evaluate(self, report: RoundReport) -> RoundReport:
        """The report with the metrics of every client and of the central test set."""
        with stopping.patient():
            begun = time.perf_counter()
            report = self._observers.on_evaluated(self._evaluator.evaluate(report, self.state, self.finished))
            return replace(report, evaluation_seconds=time.perf_counter() - begun)

    # the folder -----------------------------------------------------------------------------------------

    def _open_journal(self) -> None:
        if self._checkpointer is None:
            return
        self._checkpointer.open_journal(self.state.round, self._observers.alarms)
        if not self._checkpointer.has_checkpoint:
            self._checkpoint()  # so that a run killed in its first rounds can be resumed

    def _checkpoint(self) -> None:
        if self._checkpointer is not None:
            self._checkpointer.save(self.state, self._engine_state, self._observers.to_state())
            self._driver.replay.forget_before(self.state.round)

    # its parts ------------------------------------------------------------------------------------------

    @property
    def data(self) -> FederatedData:
        """The data with their examples.

        Raises:
            ConfigError: if the examples lie with the clients, of which `known` has the sizes.
        """
        return examples_of(self.known, "what is asked for here")

    @property
    def facts(self) -> MetricFacts:
        """Which metrics are defined, and which one decides."""
        return self._evaluator.facts

    @property
    def notes(self) -> Mapping[str, Any]:
        """The values of the observers that a checkpoint keeps: "best" (round, metric and value of the best model so
        far), "first_loss" (before training), and "observers" (the values of the user's)."""
        return self._observers.to_state()

    @property
    def ledger(self) -> Ledger | None:
        """The privacy ledger; `None` if the chain adds no noise."""
        return self._observers.ledger.ledger

    @property
    def folder(self) -> RunFolder | None:
        """The run's folder, if it has one."""
        return None if self._checkpointer is None else self._checkpointer.folder


def rounds(
    algorithm: Algorithm, data: ClientData, task: Task, *, rounds: int, **options: Unpack[RunArguments]
) -> Iterator[RoundReport]:
    """Trains, and yields a report per round: `for report in headway.rounds(...)`.

    The options are those of `Run`, which is the same with the model at hand.

    Raises:
        What `Run` raises; and while training ClientFailed, Diverged, RunFolderError.
    """
    run = Run(algorithm, data, task, rounds=rounds, **options)
    try:
        yield from run
    finally:
        run.close()
