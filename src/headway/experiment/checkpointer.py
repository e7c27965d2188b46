"""A run in its folder: begun, restored from the newest checkpoint, journalled and saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headway.client_state.sqlite_versions import check_saved
from headway.core import fault_points
from headway.core.algorithm import State
from headway.data import RemoteData
from headway.experiment.federation import Federation
from headway.experiment.identity import compare, identity_of, migrate_config
from headway.experiment.run_options import RunOptions
from headway.numerics.keys import DRAWS
from headway.observe.alarms import HORIZON, AlarmWatch
from headway.observe.data_notes import save_data_notes
from headway.observe.journal import Journal
from headway.observe.round_report import RoundReport
from headway.observe.run_folder import JOURNAL, MEMORY, RunFolder, is_begun, writing

ENGINE = "engine/"  # before the names of the tensors that the engine keeps in a checkpoint
EngineState = tuple[dict[str, Any], dict[str, Tensor]]


class Checkpointer:
    """Keeps a run in a folder, and restores it.

    notices: what a user should know of going on with the run, such as a damaged checkpoint that was passed over.
    """

    def __init__(self, folder: RunFolder, federation: Federation, notices: list[str]) -> None:
        self.folder, self.federation, self.notices = folder, federation, notices
        self._journal: Journal | None = None

    @classmethod
    def begin(cls, path: Path, federation: Federation, options: RunOptions) -> Checkpointer:
        """A new folder.

        Raises:
            RunFolderError: if the place is taken, or cannot be written.
        """
        identity = _identity(federation, options)
        held = f"{path} held a run that had trained no round; this one has taken its place."
        notices = [held] if is_begun(path) else []
        return cls(RunFolder.create(path, identity, options.config, options.keep), federation, notices)

    @classmethod
    def reopen(cls, path: Path, federation: Federation, options: RunOptions) -> Checkpointer:
        """The folder of a run that is gone on with.

        Raises:
            RunFolderError: if it is no run folder, or that of another run.
        """
        identity = _identity(federation, options)
        folder = RunFolder.open(path, options.keep)
        try:
            torch.set_num_threads(folder.identity.get("plan", {}).get("threads", torch.get_num_threads()))
            identity["plan"]["threads"] = torch.get_num_threads()
            folder.identity["algorithm"] = migrate_config(folder.identity.get("algorithm"))
            return cls(folder, federation, compare(folder.identity, identity, path))
        except BaseException:
            folder.close()
            raise

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return bool(self.folder.checkpoints())

    def restore(self, rounds: int) -> tuple[State, dict[str, Any]]:
        """Brings engine, history and memory to the newest checkpoint that can be read; its state and notes.

        rounds: how many the run is to have.

        Raises:
            RunFolderError: if no checkpoint, or not the memory, can be read.
        """
        federation, folder = self.federation, self.folder
        tensors, notes = folder.latest()
        state = State.from_tensors(int(notes["round"]), tensors)
        if folder.passed:
            self.notices.append(f"{' '.join(folder.passed)} The run goes on from that of round {state.round}.")
        if state.round < rounds:
            folder.check_draws(DRAWS)
        own = {name.removeprefix(ENGINE): tensor for name, tensor in tensors.items() if name.startswith(ENGINE)}
        if isinstance(federation.known, RemoteData):
            federation.known.from_state(notes.get("clients", {}))
        if federation.history is not None:
            federation.history.restore(tensors)
        if federation.standings is not None:
            federation.standings.from_state(notes.get("standings", {}), tensors)
        if "engine" in notes:
            federation.engine.restore(notes["engine"], own)
        path = folder.path / MEMORY
        expected = bool(state.round) and federation.engine.keeps_memory
        check_saved(path, state.round, notes.get("memory", "unknown" if expected else None))
        federation.memory.load(path, state.round)
        self._check_journal(state.round)
        return state, notes

    def open_journal(self, round_: int, alarms: AlarmWatch) -> None:
        """Opens the journal, without the rounds after this one, which are run again; alarms go on from the others.

        Raises:
            RunFolderError: if it is damaged, or cannot be written.
        """
        path = self.folder.path / JOURNAL
        with writing(path):
            self._journal = Journal(path)
            self._journal.forget_after(round_)
            alarms.restart(self._journal.figures(after=round_ - HORIZON))

    def record(self, report: RoundReport) -> None:
        """Adds a round to the journal.

        Raises:
            RunFolderError: if it cannot be written.
        """
        if self._journal is not None:
            with writing(self.folder.path / JOURNAL):
                self._journal.on_round(report)

    def close_journal(self) -> None:
        """Closes the journal, which may be opened again."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def save_data_notes(self, metrics: Mapping[str, Any]) -> None:
        """Writes how the data were read, and what is known of the metrics."""
        save_data_notes(self.folder.path, self.federation.known, dict(metrics))

    def save(self, state: State, engine: EngineState, notes: Mapping[str, Any]) -> None:
        """Writes the clients' memory first, then the checkpoint that refers to it.

        engine: what the engine kept between the two rounds.  notes: further plain values.
        """
        path, history = self.folder.path / MEMORY, self.federation.history
        with writing(path):
            saved = self.federation.memory.save(path, state.round, self.folder.oldest_kept(state.round))
        values, own = engine
        tensors = state.tensors() | {f"{ENGINE}{name}": tensor for name, tensor in own.items()}
        tensors |= {} if history is None else history.tensors()
        kept = {**notes, "memory": saved, **({"engine": values} if values else {})}
        if isinstance(known := self.federation.known, RemoteData):
            kept["clients"] = known.to_state()
        if (standings := self.federation.standings) is not None:
            kept["standings"], own = standings.to_state()
            tensors |= own
        fault_points.at("before a checkpoint is on disk")
        self.folder.save(state.round, tensors, kept)
        fault_points.at("after a checkpoint is on disk")

    def close(self) -> None:
        """Lets another process have the folder."""
        self.close_journal()
        self.folder.close()

    def _check_journal(self, round_: int) -> None:
        """Refuses a damaged journal, and notes one that is gone."""
        journal = self.folder.path / JOURNAL
        if journal.is_file():
            Journal(journal).close()
        elif round_:
            self.notices.append(
                f"{journal} is gone, and with it what it held of rounds 1 to {round_}: reports "
                f"begin with round {round_ + 1}."
            )


def _identity(federation: Federation, options: RunOptions) -> dict[str, Any]:
    """The facts that must be the same for a run to be the same run, and the versions that made it."""
    parts = (federation.algorithm, federation.known, federation.task, federation.engine, federation.flat_module)
    return identity_of(*parts, seed=options.seed, evaluation={"evaluate_every": options.evaluate_every})
