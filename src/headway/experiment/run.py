"""Running an algorithm: rounds one after another, measured, journalled, resumable."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headway.client.central_test import CentralTest
from headway.client.constant_metrics import Constant, constant_metrics
from headway.client.evaluation import mean_metrics
from headway.client_state.sqlite_versions import check_saved
from headway.core import stopping
from headway.core.algorithm import Algorithm, State
from headway.core.errors import ConfigError, Diverged
from headway.data import FederatedData
from headway.data.dataset.labels import LabelCounts
from headway.engines import Engine, Job, LocalEngine
from headway.engines.preflight import try_once
from headway.experiment.identity import compare, identity_of, migrate_config
from headway.experiment.population import check_population
from headway.model.data_checks import check_data
from headway.model.flat_module import FlatModule
from headway.model.personal_model import initial_note, load_model
from headway.model.task import Task
from headway.model.undefined_metrics import deciding, undefined_metrics
from headway.numerics.keys import DRAWS, Key
from headway.observe.alarms import HORIZON, Figures, Watch
from headway.observe.data_notes import save_data_notes
from headway.observe.divergence import ProgressCheck, loss_before_training, odd_outputs
from headway.observe.journal import Journal
from headway.observe.learning import Learning
from headway.observe.round_report import RoundReport
from headway.observe.run_folder import JOURNAL, MEMORY, RunFolder, is_begun, read_identity, writing
from headway.protocol.client_history import ClientHistory
from headway.protocol.effects import EffectHandler, drive
from headway.protocol.messages import Answer, Ask, Evaluate, Message, Settle
from headway.training.trainer import Trainer

LOWER_IS_BETTER = ("loss", "mean_absolute_error")
ENGINE = "engine/"  # before the names of the tensors that the engine keeps in a checkpoint


class Run:
    """One run: iterate over it to train, a report per round.

    Between rounds `state` is the server's, and `model()` the global model.  With a folder, an interrupted run
    can be resumed, and ends with the same bits as an uninterrupted one.

    folder: where to keep the run; `None` keeps nothing.  resume: go on with the run that is in the folder.
    evaluate_every, checkpoint_every: in rounds; the last round always is evaluated and kept.  With
    `evaluate_every=None` no client is ever evaluated, and the central test set in the last round only: for populations
    that nobody wants to go through.
    keep: how many checkpoints stay.
    until_s: by a simulated clock, the seconds after which no round begins, however few have been.
    notices: what a user should know of how the model is used, and of going on with a run, such as a damaged checkpoint
        that was passed over.

    Raises:
        ConfigError, DataError, ChainRefused, RunFolderError: before any training.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        data: FederatedData,
        task: Task,
        *,
        rounds: int,
        seed: int = 0,
        engine: Engine | None = None,
        folder: Path | str | None = None,
        resume: bool = False,
        evaluate_every: int | None = 1,
        checkpoint_every: int = 10,
        keep: int = 3,
        until_s: float | None = None,
        config: str | None = None,
    ) -> None:
        for name, number, least in (
            ("rounds", rounds, 1),
            ("seed", seed, 0),
            ("evaluate_every", 1 if evaluate_every is None else evaluate_every, 1),
            ("checkpoint_every", checkpoint_every, 1),
            ("keep", keep, 1),
        ):
            if not isinstance(number, Integral):
                raise ConfigError(f"{name} must be a whole number, found {number!r}.")
            if number < least:
                raise ConfigError(f"{name} must be at least {least}, found {number}.")
        seed, data = int(seed), data.to(task.number)
        task = task if task.example is not None else replace(task, example=data.store.inputs[:1].clone())
        self.algorithm, self.data, self.task, self.rounds = algorithm, data, task, rounds
        self.evaluate_every, self.checkpoint_every, self.until_s = evaluate_every, checkpoint_every, until_s
        self.key = Key.root(seed)
        self.data = data = data.with_notes(check_data(task, data, self.key))
        self.engine = engine or LocalEngine()
        if until_s is not None and not (self.engine.facts.clock and until_s > 0):
            raise ConfigError(
                f"until_s is {until_s}: it needs a run with a simulated clock, and must be above 0 seconds."
            )
        if resume and folder is not None:
            self.engine.restore_settings(read_identity(Path(folder)).get("plan", {}))
        self.memory = self.engine.memory(data.clients, None if folder is None else Path(folder))
        self.flows = algorithm.flows(self.engine.facts, population=len(data.clients))
        check_population(algorithm, self.engine, data.clients)
        self.engine.open(Job(algorithm, task, data, self.key, self.memory, rounds))
        self.known = ClientHistory.of(algorithm.sampler.facts(None), self.engine.clients(), data.train_sizes)
        self.flat_module = flat_module = FlatModule(task, self.key, self.engine.site)
        self.central = None if data.central is None else CentralTest(flat_module, data.central, algorithm, self.key)
        buffers = None
        if task.buffers == "average" and self.flat_module.has_statistics:
            buffers = self.flat_module.statistics().cpu()
        self.state = algorithm.initial_state(self.flat_module.shared.cpu(), buffers)
        self.undefined = undefined_metrics(task, data)
        self.constant = constant_metrics(task, data) if evaluate_every is not None else Constant()
        self.headline = deciding(task, self.undefined)  # the metric that decides which model is best
        self.notes: dict[str, Any] = {"best": None, "first_loss": None}
        self.watch = Watch(LabelCounts(data))
        self.progress = ProgressCheck(algorithm, None if buffers is None else self.flat_module.statistics_layout)
        self.learning = Learning()
        self.notices: list[str] = []
        self._between = True  # whether state, memory and journal are those of one round
        self.folder: RunFolder | None = None
        try:
            if not resume:
                self.notices += self._tried()  # before there is a folder
            if folder is not None:
                self._open_folder(Path(folder), self.identity(seed), resume, keep, config)
                measured = {"headline": self.headline, "undefined": self.undefined, "constant": asdict(self.constant)}
                save_data_notes(Path(folder), data, measured)
            if resume and not self.finished:
                self.notices += self._tried()
        except BaseException:
            self.close()
            raise
        self._engine_saved = self.engine.saved()

    def identity(self, seed: int) -> dict[str, Any]:
        """What must be the same for a run to be the same run, and the versions that made it."""
        options = {"seed": seed, "evaluation": {"evaluate_every": self.evaluate_every}}
        return identity_of(self.algorithm, self.data, self.task, self.engine, self.flat_module, **options)

    def _tried(self) -> list[str]:
        notices = try_once(self.engine, self.central, self.state, self.evaluate_every is not None)
        self.learning = Learning(self.state.round)
        return [*notices, *odd_outputs(self.flat_module, self.data)]

    def model(self, client: str | None = None) -> nn.Module:
        """The global model as a module of its own; or the model of a client, with what stays there.

        Raises:
            ConfigError: if personal parameters or statistics stay with the clients, and no client is named.
        """
        flat_module = FlatModule(self.task, self.key)
        load_model(flat_module, self.state, client, self.data.clients, self.memory.get)
        return flat_module.release()

    def __iter__(self) -> Iterator[RoundReport]:
        """Trains until `rounds` are complete.  Stopping early (break, Ctrl-C) leaves the folder resumable."""
        journal = self._open_journal()
        # the module's names are gone when a program ends
        stops, held = (GeneratorExit, KeyboardInterrupt, stopping.Stopped, Diverged), stopping.held
        saved = self.state.round if self.folder is not None and self.folder.checkpoints() else -1
        try:
            while not self.finished:
                stopping.check()
                report = self._round()
                with held():
                    if journal is not None:
                        with writing(journal[0]):
                            journal[1].record(report)
                    self._between = True
                    if self.state.round % self.checkpoint_every == 0 or self.finished:
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
            if journal is not None:
                journal[1].close()

    def close(self) -> None:
        """Lets go of the engine and the folder."""
        with stopping.held():
            self.engine.close()
        if self.folder is not None:
            self.folder.close()
            self.folder = None

    @property
    def finished(self) -> bool:
        """Whether all rounds are complete, or the time is over."""
        over = self.until_s is not None and self.engine.now >= self.until_s
        return self.state.round >= self.rounds or over

    # one round ------------------------------------------------------------------------------------------

    def _round(self) -> RoundReport:
        begun = time.perf_counter()
        before = self.state
        there = self.engine.candidates(lambda clients: self.algorithm.enough(clients, self.engine.busy))
        measured = self._measured(before, there)
        cohort = self.algorithm.cohort(there, before.round, self.key, self.engine.busy, self.known)
        answers: list[Answer] = []

        def send(ask: Ask) -> Answer:
            answers.append(self.engine.ask(ask))
            return answers[-1]

        after = drive(
            self.algorithm.round(
                before,
                cohort,
                key=self.key,
                layout=self.flat_module.layout,
                flows=self.flows,
                population=len(self.engine.clients()),
            ),
            EffectHandler(send),
        )
        report = replace(RoundReport.of(after.round, answers, measured), lr=self._rate(before.round))
        report = self._checked(report, after)
        seen = self.learning.moved(after.round, before.params, after.params, report.count("counted"), report.lr)
        seen += self.learning.trained(report.train_loss, self.notes["first_loss"])
        counted = report.clients.that("counted").clients
        self._between = False
        settled = self.engine.ask(Ask(Settle(round=before.round), counted))
        self.state = after
        if self.known is not None:
            self.known.record_round(before.round, there, cohort, report.clients)
        spent = time.perf_counter() - begun
        notes = (*report.notes, *settled.notes, *seen)
        report = replace(report, seconds=spent, notes=notes, alarms=self.watch.see(Figures.of(report)))
        self._engine_saved = self.engine.saved()
        due = self.evaluate_every is not None and after.round % self.evaluate_every == 0
        if due or self.finished:
            with stopping.patient():
                report = self._evaluated(report)
        return report

    def _checked(self, report: RoundReport, after: State) -> RoundReport:
        """The report of a round that may count: the run goes on from its state.

        Raises:
            Diverged: with the round, the clients that lead, and what to try.
        """
        if self.notes["first_loss"] is None and report.train_loss is not None:
            start = loss_before_training(
                self.flat_module, self.data, self.algorithm.initial_state(self.flat_module.shared.cpu())
            )
            self.notes["first_loss"] = report.train_loss if start is None else start
        self.progress.check(report.round, after, report.clients, report.train_loss, self.notes["first_loss"])
        if (short := self.algorithm.too_few(report.count("counted"))) is None:
            return report
        return replace(report, clients=report.clients.uncounted(short), notes=(*report.notes, short))

    def _rate(self, round_: int) -> float | None:
        """The trainer's learning rate in a round."""
        trainer = self.algorithm.trainer
        return trainer.rate(round_) if isinstance(trainer, Trainer) else None

    def _measured(self, state: State, there: Sequence[str]) -> Answer:
        """Has the losses measured that the sampler wants to know before it draws."""
        ask = self.algorithm.measure(state, there, self.key, self.known)
        if ask is None or self.known is None:
            return Answer()
        answer = self.engine.ask(ask)
        self.known.set_fresh_losses(answer.reports)
        return answer

    def _evaluated(self, report: RoundReport) -> RoundReport:
        """The report with the metrics of every client and of the central test set; keeps the best model."""
        begun = time.perf_counter()
        answer = Answer()
        if self.evaluate_every is not None:
            message = Message(self.state.model, buffers=self.state.buffers)
            answer = self.engine.ask(Ask(Evaluate(message, self.state.round), tuple(self.engine.clients())))
        scores = {r.client: r.metrics for r in answer.reports}
        sizes = dict(zip(answer.reports.clients, answer.reports.examples, strict=True))
        central = {} if self.central is None else self.central.score(self.state)
        shown = {} if self.algorithm.protected else scores
        means = mean_metrics(scores, sizes) | dict(answer.figures)
        self.progress.check_evaluation(report.round, scores | ({"the central test set": central} if central else {}))
        notes = report.notes
        if (report.round == 1 or self.finished) and (note := initial_note(self.flat_module, list(scores), self.memory)):
            notes = (*notes, note)
        report = replace(report, metrics=means, central=central, evaluation=shown, notes=notes)
        constant = self.constant.central or self.constant.clients
        seen = self.learning.evaluated(self.headline, report.headline(self.headline), constant, self.constant.answer)
        report = replace(report, notes=(*report.notes, *seen))
        self._keep_best(report)
        return replace(report, evaluation_seconds=time.perf_counter() - begun)

    def _keep_best(self, report: RoundReport) -> None:
        name = self.headline
        value = report.headline(name)
        if value is None or value != value:
            return
        best = self.notes["best"]
        sign = -1 if name in LOWER_IS_BETTER else 1
        if best is None or best["metric"] != name or sign * value > sign * best["value"]:
            self.notes["best"] = {"round": report.round, "metric": name, "value": value}
            if self.folder is not None:
                self.folder.save_best(self._model_tensors(), self.notes["best"])

    # the folder -----------------------------------------------------------------------------------------

    def _open_folder(self, path: Path, identity: dict[str, Any], resume: bool, keep: int, config: str | None) -> None:
        if not resume:
            if is_begun(path):
                self.notices.append(f"{path} held a run that had trained no round; this one has taken its place.")
            self.folder = RunFolder.create(path, identity, config, keep)
            return
        folder = RunFolder.open(path, keep)
        try:
            torch.set_num_threads(folder.identity.get("plan", {}).get("threads", torch.get_num_threads()))
            identity["plan"]["threads"] = torch.get_num_threads()
            folder.identity["algorithm"] = migrate_config(folder.identity.get("algorithm"))
            self.notices += compare(folder.identity, identity, path)
            if folder.checkpoints():
                self._restore(folder)
            else:
                self.notices.append("the run was stopped before its first checkpoint, so it begins with round 1.")
        except BaseException:
            folder.close()
            raise
        self.folder = folder

    def _restore(self, folder: RunFolder) -> None:
        """State, engine and memory as they were at the newest checkpoint that can be read."""
        tensors, notes = folder.latest()
        self.state = State.from_tensors(int(notes["round"]), tensors)
        self.notes = {name: notes[name] for name in self.notes}
        if folder.passed:
            self.notices.append(f"{' '.join(folder.passed)} The run goes on from that of round {self.state.round}.")
        if self.state.round < self.rounds:
            folder.check_draws(DRAWS)
        own = {name.removeprefix(ENGINE): tensor for name, tensor in tensors.items() if name.startswith(ENGINE)}
        if self.known is not None:
            self.known.restore(tensors)
        if "engine" in notes:
            self.engine.restore(notes["engine"], own)
        path = folder.path / MEMORY
        expected = bool(self.state.round) and self.engine.keeps_memory
        check_saved(path, self.state.round, notes.get("memory", "unknown" if expected else None))
        self.memory.load(path, self.state.round)
        journal = folder.path / JOURNAL
        if journal.is_file():
            Journal(journal).close()  # refuses one that is damaged
        elif self.state.round:
            self.notices.append(
                f"{journal} is gone, and with it what it held of rounds 1 to {self.state.round}: reports "
                f"begin with round {self.state.round + 1}."
            )

    def _open_journal(self) -> tuple[Path, Journal] | None:
        if self.folder is None:
            return None
        path = self.folder.path / JOURNAL
        with writing(path):
            journal = Journal(path)
            journal.forget_after(self.state.round)
            self.watch.recall(journal.figures(after=self.state.round - HORIZON))
            if not self.folder.checkpoints():
                self._checkpoint()  # so that a run killed in its first rounds can be resumed
        return path, journal

    def _checkpoint(self) -> None:
        """The clients' memory first, then the checkpoint that refers to it."""
        if self.folder is None:
            return
        path = self.folder.path / MEMORY
        with writing(path):
            saved = self.memory.save(path, self.state.round, self.folder.oldest_kept(self.state.round))
        said, own = self._engine_saved  # as it was between two rounds
        tensors = self.state.tensors() | {f"{ENGINE}{name}": tensor for name, tensor in own.items()}
        tensors |= {} if self.known is None else self.known.tensors()
        notes = self.notes | {"memory": saved} | ({"engine": said} if said else {})
        self.folder.save(self.state.round, tensors, notes)

    def _model_tensors(self) -> dict[str, Tensor]:
        """The model alone, as a checkpoint holds it."""
        return State(self.state.round, self.state.model, buffers=self.state.buffers).tensors()


def rounds(
    algorithm: Algorithm, data: FederatedData, task: Task, *, rounds: int, seed: int = 0, **options: Any
) -> Iterator[RoundReport]:
    """Trains, and yields a report per round: `for report in headway.rounds(...)`.

    The options are those of `Run`, which is the same with the model at hand.

    Raises:
        What `Run` raises; and while training ClientFailed, Diverged, RunFolderError.
    """
    run = Run(algorithm, data, task, rounds=rounds, seed=seed, **options)
    try:
        yield from run
    finally:
        run.close()
