"""The file of a federation: a TOML text with the jobs of a server, checked before anything is done."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tomli_w
import torch
from pydantic import BaseModel, ConfigDict, Field

from headway.core.errors import ConfigError
from headway.data import RemoteData
from headway.data.sources.data_schema import DataSchema, schema_of
from headway.experiment.algorithm_section import algorithm_of
from headway.experiment.identity import described
from headway.experiment.key_paths import key_path
from headway.experiment.presets import apply_preset
from headway.experiment.runfile_check import check_tables
from headway.experiment.runfile_schema import (
    AlgorithmSection,
    ModelSection,
    PrivacySection,
    RunSection,
    Sections,
    TaskSection,
    none_as_text,
)
from headway.experiment.runfile_text import plain_name, read_runfile
from headway.experiment.target_scaling import scaled_task
from headway.experiment.task_section import task_of
from headway.experiment.user_modules import importable
from headway.federation.server_job import JobOptions, ServerJob
from headway.model.task import Task


class FederationSection(BaseModel):
    """The table [federation]: who takes part, and when a round begins.

    clients: the names of all clients that may take part; a round begins when all of them are connected, unless
    min_clients is given.  min_clients: a round begins when at least so many are connected; 2 by default. wait_limit_s:
    seconds after which waiting for them ends the run; no limit by default.  lease_s: seconds without any contact after
    which a client counts as gone.  poll_s: seconds for which a waiting agent's request for work is held open, at most
    half of lease_s; longer where there are thousands of agents and no proxy cuts what is idle.  keys: "derived" from
    the seed, as in a simulation, or "private": each client draws from a secret of its own.  drift: whether to measure
    how far clients pull apart.  group: how many clients are summed together.  memory: the main memory that a round may
    take beside the model, such as "2 GB"; the vectors of larger models lie in files.  relays: the nodes that may join
    for other clients.  keep_rounds: the updates of so many rounds stay on disk at least; 0 keeps all.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    clients: list[str] | None = None
    min_clients: int | None = Field(default=None, ge=1)
    wait_limit_s: float | None = Field(default=None, gt=0)
    lease_s: float = Field(default=JobOptions.lease_s, ge=5)
    poll_s: float | None = Field(default=None, ge=1)
    keys: Literal["derived", "private"] = "derived"
    drift: bool = True
    group: int | None = Field(default=None, ge=1)
    memory: int | str = JobOptions.memory
    relays: list[str] = Field(default_factory=list)
    keep_rounds: int = Field(default=20, ge=0)


class FederationSections(BaseModel):
    """The whole file, for one job."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    run: RunSection
    data: dict[str, Any]
    model: ModelSection
    task: TaskSection = Field(default_factory=TaskSection)
    algorithm: AlgorithmSection = Field(default_factory=AlgorithmSection)
    federation: FederationSection = Field(default_factory=FederationSection)
    privacy: PrivacySection = Field(default_factory=PrivacySection)


@dataclass(frozen=True)
class FederationFile:
    """A checked file: its title, and its jobs in their order, one at least."""

    title: str
    jobs: tuple[ServerJob, ...]


def load_federation(name: str, *, rounds: int | None = None) -> FederationFile:
    """The file at a path; rounds: of each job, instead of the file's.

    A list `[[jobs]]` has a table for each of several jobs; what a table does not say is as in the rest of the file.

    Raises:
        ConfigError: in one sentence, with the path of the value at fault.
    """
    tables, folder, title = read_runfile(name)
    given = tables.pop("jobs", None)
    if given is None:
        return FederationFile(title, (_job(tables, folder, title, rounds),))
    if not isinstance(given, list) or not given or not all(isinstance(each, dict) for each in given):
        raise ConfigError("jobs must be a list of tables, [[jobs]], one for each job.")
    jobs = []
    for number, table in enumerate(given, start=1):
        merged = merge(tables, table)
        own = table.get("run", {})
        if isinstance(run := merged.setdefault("run", {}), dict) and not (isinstance(own, dict) and "name" in own):
            run["name"] = f"{run.get('name', title)}-{number}"
        jobs.append(_job(merged, folder, title, rounds))
    names = [job.name for job in jobs]
    if twice := sorted({each for each in names if names.count(each) > 1}):
        raise ConfigError(f"two jobs have the name {twice[0]!r}, and each has a folder of its name: rename one.")
    return FederationFile(title, tuple(jobs))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables with the values of others put over theirs.

    >>> merge({"run": {"rounds": 3, "seed": 1}}, {"run": {"rounds": 5}})
    {'run': {'rounds': 5, 'seed': 1}}
    """
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        there = merged.get(key)
        both = isinstance(there, dict) and isinstance(value, Mapping)
        merged[key] = merge(there, value) if both and isinstance(there, dict) else copy.deepcopy(value)
    return merged


def _job(tables: dict[str, Any], folder: Path, title: str, rounds: int | None) -> ServerJob:
    """The job of a file's tables; folder: of the file, in which code of one's own is found."""
    tables = copy.deepcopy(tables)
    if isinstance(run := tables.get("run"), dict):
        run.setdefault("name", title)
        run |= {} if rounds is None else {"rounds": rounds}
    if isinstance(algorithm := tables.setdefault("algorithm", {}), dict):
        trainer = algorithm.get("trainer")
        if isinstance(trainer, dict) and "kind" in trainer and "trainer" not in trainer:
            trainer["trainer"] = trainer.pop("kind")
        with key_path("algorithm.preset"):
            apply_preset(algorithm)
    sections = check_tables(tables, FederationSections)
    _check(sections)
    schema = schema_of(sections.data)
    name = plain_name(sections.run.name or title)
    data = remote_data(name, schema, sections.federation.clients or ())
    resolved = _resolved(sections)
    algorithm = algorithm_of(sections.algorithm, ())
    resolved["algorithm"] = described(algorithm)
    return ServerJob(
        name,
        algorithm,
        data,
        _task(sections, data, folder),
        sections.run.rounds,
        seed=sections.run.seed,
        options=_options(sections),
        schema=schema,
        model={} if _is_own(resolved["model"]) else resolved["model"],
        task_section={} if _is_own(resolved.get("task", {})) else resolved.get("task", {}),
        config=tomli_w.dumps(none_as_text(resolved)),
    )


def remote_data(name: str, schema: DataSchema, clients: list[str] | tuple[str, ...]) -> RemoteData:
    """The clients of a federation whose data have this form."""
    names = schema.class_names
    tokens = getattr(schema, "inputs", None) == "tokens"
    example = torch.zeros(1, *schema.input_shape, dtype=torch.int64 if tokens else torch.float32)
    return RemoteData(
        name,
        schema.input_shape,
        classes=len(names) or None,
        class_names=names,
        features=schema.features,
        expected=clients,
        example=example,
        form=schema.to_config(),
    )


def _task(sections: FederationSections, data: RemoteData, folder: Path) -> Task:
    """The task at the server."""
    if _is_own(sections.model.model_dump()) or _is_own(sections.task.model_dump()):
        importable(str(folder))
    both = Sections.model_construct(model=sections.model, task=sections.task)
    return scaled_task(task_of(both, data), sections.task, data)


def _check(sections: FederationSections) -> None:
    """Refuses what contradicts itself, or cannot be at a server."""
    federation, run = sections.federation, sections.run
    if federation.clients is not None:
        if len(set(federation.clients)) < len(federation.clients):
            raise ConfigError("federation.clients names a client twice.")
        if not federation.clients:
            raise ConfigError("federation.clients is empty: list the clients, or leave it out so that any may join.")
        if federation.min_clients is not None and federation.min_clients > len(federation.clients):
            raise ConfigError(
                f"federation.min_clients is {federation.min_clients}, but federation.clients lists "
                f"{len(federation.clients)}: lower it."
            )
    if both := sorted(set(federation.relays) & set(federation.clients or ())):
        raise ConfigError(
            f"{both[0]!r} is in federation.relays and in federation.clients, and a node is one of them: no round would "
            "begin without its data, of which a relay has none."
        )
    if run.imports or run.imports_from:
        raise ConfigError(
            "run.imports is not for a federation: agents take only names that are installed on their own machine. "
            "Install the package that registers them, with an entry point, at both sides."
        )
    if run.checkpoint_every not in (1, RunSection.model_fields["checkpoint_every"].default):
        raise ConfigError("run.checkpoint_every is 1 at a server, so that no round is lost: leave it out.")


def _options(sections: FederationSections) -> JobOptions:
    federation, run = sections.federation, sections.run
    return JobOptions(
        min_clients=federation.min_clients,
        wait_limit_s=federation.wait_limit_s,
        lease_s=federation.lease_s,
        poll_s=federation.poll_s,
        keys=federation.keys,
        drift=federation.drift,
        group=federation.group,
        memory=federation.memory,
        relays=tuple(federation.relays),
        keep_rounds=federation.keep_rounds,
        evaluate_every=None if run.evaluate_every == "never" else run.evaluate_every,
        keep=run.keep,
        until_s=run.until_s,
        privacy=sections.privacy.options,
    )


def _resolved(sections: FederationSections) -> dict[str, Any]:
    return sections.model_dump(mode="json", exclude_none=True, exclude={"algorithm"})


def _is_own(table: Mapping[str, Any]) -> bool:
    """Whether a section names code that only the server has."""
    texts = [text for value in table.values() for text in (value if isinstance(value, list | tuple) else [value])]
    return table.get("path") is not None or any(isinstance(text, str) and ":" in text for text in texts)
