"""Pooled training: what could be learned if all examples lay in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

from headway.core.algorithm import State
from headway.core.errors import ConfigError
from headway.core.flow import EngineFacts
from headway.data.dataset.dataset_view import pooled
from headway.engines.engine import Engine, Job
from headway.engines.local import LocalEngine
from headway.protocol.messages import Answer, Ask, Evaluate


@final
class PooledEngine(Engine):
    """A single client holds everyone's training examples; the model is still evaluated on each client's own test part.

    device, precision: as in `LocalEngine`.

    Raises:
        ConfigError: when it is opened, if a part of the model stays with each client.
    """

    def __init__(self, *, device: str = "cpu", precision: str = "float32") -> None:
        self.learner, self.testers = (LocalEngine(drift=False, device=device, precision=precision) for _ in range(2))
        self.site = self.learner.site

    @property
    def facts(self) -> EngineFacts:
        """The facts of the Local engine."""
        return self.learner.facts

    @property
    def recorded_name(self) -> str:
        """The name of the Local engine."""
        return self.learner.recorded_name

    @property
    def summary(self) -> str:
        """The summary of the engine that trains the one client."""
        return self.learner.summary

    @property
    def pinned_settings(self) -> dict[str, Any]:
        """The settings of the engine that trains."""
        return self.learner.pinned_settings

    def restore_settings(self, decided: Mapping[str, Any]) -> None:
        """Takes over the settings of the engine that trains."""
        self.learner.restore_settings(decided)

    def open(self, job: Job) -> None:
        """Pools the examples of all clients as one client's."""
        if job.task.shared is not None:
            raise ConfigError("pooled training needs a model that is shared whole: leave task.shared out.")
        together = pooled(job.data)
        job.memory.enrol(together.clients)
        self.learner.open(replace(job, known=together))
        self.testers.open(job)

    def try_once(self, state: State, evaluated: bool) -> Sequence[str]:
        """Tries the client that trains, and one that tests."""
        self.learner.try_once(state, False)
        return self.testers.try_once(state, evaluated)

    def clients(self) -> Sequence[str]:
        """The pooled client."""
        return self.learner.clients()

    def ask(self, ask: Ask) -> Answer:
        """Trains the pooled client, and evaluates every client."""
        if isinstance(ask.request, Evaluate):
            return self.testers.ask(replace(ask, cohort=tuple(self.testers.clients())))
        return self.learner.ask(ask)

    def close(self) -> None:
        """Puts process-wide settings back."""
        self.learner.close()
        self.testers.close()
