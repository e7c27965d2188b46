"""A checked run file: its sections and what they make, an algorithm, data, a task, and a run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from headway.core.algorithm import Algorithm
from headway.core.errors import ConfigError
from headway.data import FederatedData, load
from headway.data.dataset.dataset_view import View
from headway.engines import ClockEngine, Engine
from headway.experiment.identity import described
from headway.experiment.key_paths import key_path
from headway.experiment.presets import Applied
from headway.experiment.run import Run
from headway.experiment.runfile_schema import DataSection, Sections, none_as_text
from headway.experiment.target_scaling import scale_notes, scaled_task
from headway.experiment.task_section import task_of
from headway.model.task import Task
from headway.numerics.keys import Key
from headway.observe.observer import Observer


@dataclass(frozen=True)
class Experiment:
    """All that `Run` needs."""

    algorithm: Algorithm
    data: FederatedData
    task: Task


class LastData:
    """The data that were loaded last, for runs one after another that have the same, such as those of a comparison."""

    def __init__(self) -> None:
        self._held: tuple[str, FederatedData] | None = None

    def get(self, section: DataSection, seed: int, make: Callable[[], FederatedData]) -> FederatedData:
        """The data of this section and seed: those that are held, or new ones, which are held from now on."""
        name = json.dumps([section.model_dump(), seed], sort_keys=True, default=str)
        if self._held is None or self._held[0] != name:
            self._held = None  # before others are made, so that memory is not needed for both
            self._held = (name, make())
        return self._held[1]


@dataclass(frozen=True)
class RunFile:
    """A checked run file: its sections, the algorithm that they name, what a preset put into them, and how it looks
    at the data."""

    sections: Sections
    algorithm: Algorithm
    preset: Applied | None = None
    view: View = View()

    @property
    def name(self) -> str:
        """The run's name."""
        assert self.sections.run.name is not None
        return self.sections.run.name

    def with_seed(self, seed: int) -> RunFile:
        """The same run from another seed."""
        run = self.sections.run.model_copy(update={"seed": seed})
        return dataclasses.replace(self, sections=self.sections.model_copy(update={"run": run}))

    def resolved(self) -> dict[str, Any]:
        """Everything explicit: chain, trainer, sampler and quorum by names and numbers."""
        asides = {"compare", "methods", "algorithm", "advise", "attack_grid"}  # of other commands, or described below
        tables = self.sections.model_dump(exclude_none=True, exclude=asides)
        if not tables["engine"]:
            del tables["engine"]
        tables["algorithm"] = none_as_text(described(self.algorithm))
        if ":" in (own := str(self.sections.algorithm.trainer.get("trainer", ""))):
            tables["algorithm"]["trainer"]["trainer"] = own  # a class of one's own is found by its module
        return tables

    def to_toml(self) -> str:
        """The resolved run file; loading it gives the same run."""
        return tomli_w.dumps(self.resolved())

    def build(self, last: LastData | None = None) -> Experiment:
        """Reads the data and makes the task.

        last: what may hold the data already.

        Raises:
            DataError, ConfigError: if the data or the model cannot be had as asked.
        """
        data = self.load_data(last)
        task, section = task_of(self.sections, data), self.sections.task
        notes = scale_notes(task, section, data)
        return Experiment(self.algorithm, data.with_notes(notes), scaled_task(task, section, data))

    def start(
        self,
        folder: Path | None = None,
        resume: bool = False,
        last: LastData | None = None,
        observers: Sequence[Observer] = (),
    ) -> Run:
        """The run, ready to be iterated over; last: what may hold the data already.

        Raises:
            What `build` and `Run` raise, before any training.
        """
        experiment, section = self.build(last), self.sections.run
        return Run(
            experiment.algorithm,
            experiment.data,
            experiment.task,
            rounds=section.rounds,
            seed=section.seed,
            engine=self._engine(),
            folder=folder,
            resume=resume,
            evaluate_every=None if section.evaluate_every == "never" else section.evaluate_every,
            checkpoint_every=section.checkpoint_every,
            keep=section.keep,
            until_s=section.until_s,
            config=self.to_toml(),
            observers=observers,
            privacy=self.sections.privacy_options,
        )

    def _engine(self) -> Engine:
        """The engine of the sections, with its simulated clock."""
        if self.view.pooled:
            return self.sections.engine.pooled()
        engine = self.sections.engine.engine()
        if self.sections.attack is not None:
            return self.sections.attack.engine(engine, clock=self.sections.clock is not None)
        return engine if self.sections.clock is None else ClockEngine(engine, self.sections.clock.fleet())

    def load_data(self, last: LastData | None = None) -> FederatedData:
        """The data, divided by the run's seed, and seen as this run sees them."""
        seed = self.sections.run.seed
        data = (last or LastData()).get(self.sections.data, seed, self._divided)
        return self.view.of(data, Key.of(seed, "view"))

    def _divided(self) -> FederatedData:
        section = self.sections.data
        if "key" in (section.model_extra or {}):
            raise ConfigError("the run file has an unknown key 'data.key': what is drawn follows from 'run.seed'.")
        with key_path("data", given=section.model_extra):
            return load(
                section.source,
                key=self.sections.run.seed,
                partition=section.partition,
                clients=section.clients,
                test_share=section.test_share,
                shift=section.shift,
                **(section.model_extra or {}),
            )
