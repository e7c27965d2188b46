"""The data of an agent: what `--data` names, read as the job's schema states it, as data of exactly one client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headway.core.errors import ConfigError, DataError, nearest
from headway.core.registry import convert
from headway.data import Examples, FederatedData, load
from headway.data.dataset.class_names import listed_names
from headway.data.sources.data_schema import DataSchema, schema_of
from headway.data.sources.missing import no_file
from headway.data.sources.schema_loading import load_with_schema
from headway.data.sources.schema_table import FileForm
from headway.data.sources.source_registry import SOURCES
from headway.data.sources.source_schema import SourceSchema
from headway.federation.agent.agent_file import AgentFile
from headway.federation.http_api import JobDescription

FORM = ("separator", "decimal", "encoding")


@dataclass(frozen=True)
class AgentData:
    """The data that an agent's file names.

    name: a file, or a packaged source with its client.  options: those of [data] beside it.
    """

    name: str
    client: str | None
    options: Mapping[str, Any]

    @classmethod
    def of(cls, file: AgentFile) -> AgentData:
        """The data of an agent's file: `source = "hospitals:cleveland"` is `client = "cleveland"` of `hospitals`.

        Raises:
            ConfigError: a key of [data] of the wrong type, or a packaged source without a client.
            DataError: there is no such file.
        """
        options = dict(file.data)
        source, client = options.pop("source"), options.pop("client", None)
        name, _, part = source.partition(":")
        if part and name in SOURCES and not name.startswith("."):
            source, client = name, part
        if source in SOURCES and not source.startswith("."):
            if not isinstance(client, str) or not client:
                raise ConfigError(f"{source!r} is a packaged source of several clients: name one, as {source}:CLIENT.")
            return cls(source, client, options)
        path = (file.folder / source).resolve()
        if not path.exists():
            raise DataError(no_file(path))
        if client is not None and "client_column" not in options:
            raise ConfigError(
                f"data.client is {client!r}, but {source} is a file of one client; leave data.client out."
            )
        return cls(str(path), client, options)

    @property
    def packaged(self) -> bool:
        """Whether the data are a client of a packaged source."""
        return self.name in SOURCES

    def read(self, job: JobDescription, client: str) -> FederatedData:
        """The examples, as those of the one client `client`; read anew at each call.

        Raises:
            ConfigError, DataError: they cannot be read, or do not fit the job's schema; in one sentence.
        """
        schema = schema_of(job.data_schema) if job.data_schema else None
        if self.packaged:
            return self._of_source(schema, job.seed, client)
        if schema is None:
            return self._without_schema(job.seed, client)
        unknown = [name for name in self.options if name not in (*FORM, "columns", "values")]
        if unknown:
            raise ConfigError(
                f"data.{unknown[0]} of this agent's file is not for a federation with a schema, which states it for "
                f"all clients{nearest(unknown[0], (*FORM, 'columns', 'values'))}; leave it out."
            )
        return load_with_schema(Path(self.name), schema, client, key=job.seed, form=self.form)

    def _of_source(self, schema: DataSchema | None, seed: int, client: str) -> FederatedData:
        """One client of a packaged source, with the examples that it has in a simulation of the same seed."""
        if isinstance(schema, SourceSchema):
            if schema.source != self.name:
                raise ConfigError(
                    f"the data of this agent are {self.name!r}, but those of the federation are of the source "
                    f"{schema.source!r}."
                )
            if self.options:
                raise ConfigError(
                    f"data.{next(iter(self.options))} is stated by the federation, for all clients alike; leave it out."
                )
            data = schema.load(seed)
        else:
            agreed = {} if schema is None else {"test_share": schema.to_config()["test_share"]}
            data = load(self.name, key=seed, **{**self.options, **agreed})
        assert self.client is not None
        if self.client not in data.train:
            raise DataError(f"{self.name!r} has no client {self.client!r}{nearest(self.client, data.clients[:1000])}.")
        if schema is not None:
            _check_alike(data, schema, self.name)
        return one_client(data, self.client, client)

    def _without_schema(self, seed: int, client: str) -> FederatedData:
        """A file as it is: what it holds decides the features and classes, and the server compares their names."""
        options = dict(self.options)
        if "client_column" in options:
            data = load(self.name, key=seed, **options)
            chosen = self.client or client
            if chosen not in data.train:
                raise DataError(f"{self.name} has no client {chosen!r}{nearest(chosen, data.clients[:1000])}.")
        else:
            if Path(self.name).suffix.lower() != ".npz" and "target" not in options:
                raise ConfigError(
                    "the federation has no schema of tables, so that this client's own columns decide: ask for one at "
                    "the server (headway schema), or name data.target in this agent's own file."
                )
            data = load(self.name, key=seed, partition={"kind": "iid"}, clients=1, **options)
            chosen = data.clients[0]
        note = "the federation has no schema: features and classes are those of this file, in its order"
        return one_client(data.with_notes([note]), chosen, client)

    @property
    def form(self) -> FileForm:
        """How the file is written, and its own names."""
        texts = {name: convert(self.options[name], str, f"data.{name}") for name in FORM if name in self.options}
        columns, values = self.options.get("columns", {}), self.options.get("values", {})
        for name, table in (("columns", columns), *((f"values.{each}", v) for each, v in _tables(values).items())):
            if not isinstance(table, Mapping) or not all(isinstance(each, str) for each in table.values()):
                raise ConfigError(f"data.{name} must be a table of texts, found {table!r}.")
        return FileForm(**texts, columns=columns, values=_tables(values))


def _tables(values: Any) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"data.values must be a table with a table for each column, found {values!r}.")
    return values


def _check_alike(data: FederatedData, schema: DataSchema, name: str) -> None:
    """Refuses a packaged source whose examples are of another form than the schema."""
    classes = data.class_names or tuple(map(str, range(data.classes or 0)))
    for what, needed, found in (
        ("features", schema.features, data.features),
        ("classes", schema.class_names, classes),
        ("input shape", tuple(map(str, schema.input_shape)), tuple(map(str, data.input_shape))),
    ):
        if needed != found:
            raise DataError(
                f"the {what} of {name!r} are {listed_names(found) or 'none'}, but the schema of the federation needs "
                f"{listed_names(needed) or 'none'}, in this order."
            )


def one_client(data: FederatedData, client: str, name: str) -> FederatedData:
    """The data of one of several clients alone, under a name of its own; its examples, parts and order stay."""
    train, test = data.train_of(client), data.test_of(client)
    parts = [part for part in (train, test) if len(part)]
    store = Examples(torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts]))
    place = torch.arange(len(store))
    return FederatedData(
        data.name,
        store,
        {name: place[: len(train)]},
        {name: place[len(train) :]},
        classes=data.classes,
        description=f"client {client!r} of {data.description or data.name}",
        features=data.features,
        shifts={name: data.shifts[client]} if client in data.shifts else {},
        class_names=data.class_names,
        notes=data.notes,
        split=data.split,
    )
