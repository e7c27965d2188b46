"""A job of a server: an algorithm, a task, the clients, and how long they are waited for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from headway.core.algorithm import Algorithm
from headway.core.errors import ConfigError
from headway.data import RemoteData
from headway.data.sources.data_schema import DataSchema
from headway.engines.grouping import GROUP
from headway.federation.http_api import LONGEST_POLL_S, POLL_S, JobDescription, TaskFacts
from headway.federation.serving.members import LEASE_S
from headway.federation.serving.network_engine import NetworkOptions
from headway.federation.serving.server_setup import describe_job
from headway.federation.spool.round_manifests import KEEP_ROUNDS
from headway.model.task import Task
from headway.numerics.units import bytes_of
from headway.privacy.options import PrivacyOptions

MEMORY = "1 GB"  # of main memory that a round may take beside the model
FEWEST = 2  # clients of a federation, where nothing else is said


@dataclass(frozen=True)
class JobOptions:
    """The options of a job.

    min_clients: a round begins when at least so many clients are connected; by default all that are expected, or 2
    where no names are known.  wait_limit_s: seconds after which waiting for them ends the run; `None` waits without
    end.  lease_s: seconds without any contact after which a client counts as gone.  poll_s: seconds for which a waiting
    agent's request for work is held open, at most half of lease_s; by default 45, or that half.  keys: "derived" from
    the seed, or "private" to each client.  drift: whether to measure how far clients pull apart.  group: how many
    clients are summed together.  memory: the main memory that a round may take beside the model, in bytes or as a text
    such as "2 GB".  relays: nodes that may join for other clients.  keep_rounds: the updates of so many rounds stay on
    disk at least; 0 keeps all.  evaluate_every, keep, until_s, privacy: as in `Run`.

    Raises:
        ConfigError: for a number that is out of range.
    """

    min_clients: int | None = None
    wait_limit_s: float | None = None
    lease_s: float = LEASE_S
    poll_s: float | None = None
    keys: Literal["derived", "private"] = "derived"
    drift: bool = True
    group: int | None = None
    memory: int | str = MEMORY
    relays: tuple[str, ...] = ()
    keep_rounds: int = KEEP_ROUNDS
    evaluate_every: int | None = 1
    keep: int = 3
    until_s: float | None = None
    privacy: PrivacyOptions = PrivacyOptions()

    def __post_init__(self) -> None:
        if self.min_clients is not None and self.min_clients < 1:
            raise ConfigError(f"min_clients must be at least 1, found {self.min_clients}.")
        bytes_of(self.memory, "federation.memory")
        if self.keep_rounds < 0:
            raise ConfigError(f"keep_rounds must be at least 0, found {self.keep_rounds}.")
        for name in ("wait_limit_s", "lease_s", "poll_s"):
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ConfigError(f"{name} must be above 0 seconds, found {seconds}.")
        if self.poll_s is not None and self.poll_s > (most := min(self.lease_s / 2, LONGEST_POLL_S)):
            raise ConfigError(
                f"poll_s must be at most {most:g} s, half of lease_s, or waiting agents count as gone, found "
                f"{self.poll_s:g} s: lower it, or raise lease_s."
            )

    @property
    def held_s(self) -> float:
        """The seconds for which a waiting agent's request for work is held open."""
        return min(POLL_S, self.lease_s / 2) if self.poll_s is None else self.poll_s


@dataclass(frozen=True)
class ServerJob:
    """One run of a server, for the clients that join.

    name: of the run.  data: the form of an example, and the clients that are expected, if they are known by name.
    task: the model, with which the server evaluates nothing but a central test set, loss and metrics.  schema: of the
    clients' data, which they are offered; without it the first client that joins decides.  model, task_section: the
    sections of a run file that agents make the task of; empty where they have their own.  config: the text of the
    run's file, for its folder.
    """

    name: str
    algorithm: Algorithm
    data: RemoteData
    task: Task
    rounds: int
    seed: int = 0
    options: JobOptions = field(default_factory=JobOptions)
    schema: DataSchema | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    task_section: Mapping[str, Any] = field(default_factory=dict)
    config: str | None = None

    def network_options(self, files: Path) -> NetworkOptions:
        """The options of the engine; files: the folder of vectors that take more than the memory."""
        options, expected = self.options, frozenset[str]()
        if options.min_clients is None:
            expected = frozenset(self.data.expected)
        least = options.min_clients or len(expected) or FEWEST
        group = options.group or GROUP
        memory = bytes_of(options.memory, "federation.memory")
        return NetworkOptions(expected, least, options.wait_limit_s, options.drift, group, memory, files)

    def description(self, identifier: str, facts: TaskFacts | None = None) -> JobDescription:
        """The job as agents receive it; identifier: of this run.  facts: of the task, where they are known."""
        return describe_job(
            identifier,
            self.name,
            self.algorithm,
            self.task,
            self.rounds,
            facts=facts,
            seed=self.seed,
            keys=self.options.keys,
            poll_s=self.options.held_s,
            randomness=self.options.privacy.randomness or "system",
            client_metrics=self.options.privacy.client_metrics,
            population=self.data.population or 0,
            model=dict(self.model),
            task_section=dict(self.task_section),
            data_schema={} if self.schema is None else self.schema.to_config(),
        )
