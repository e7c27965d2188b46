"""The schema of a federation whose clients each hold one client of a packaged source, such as the four hospitals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from headway.core.errors import ConfigError
from headway.data.dataset.federated import FederatedData
from headway.data.sources.loading import load
from headway.data.sources.source_registry import SOURCES, source_names
from headway.numerics.keys import Key


@dataclass(frozen=True)
class SourceSchema:
    """A packaged source by name, with the options that `headway.data.load` takes: test_share, partition, clients ...

    Each agent has the source installed, and divides it by the run's seed as a simulation does, so that client
    `hungary` of a federation holds exactly the examples of client `hungary` of a simulation.

    Raises:
        ConfigError: no packaged source of that name is installed here.
    """

    section: Mapping[str, Any]

    def __post_init__(self) -> None:
        name = self.source
        if not isinstance(name, str) or name.startswith(".") or name not in SOURCES:
            raise ConfigError(f"there is no packaged data source {name!r}{SOURCES.near(str(name), source_names())}.")
        if "key" in self.section:
            raise ConfigError("the key 'key' is not for a schema: what is drawn follows from the run's seed.")

    @property
    def source(self) -> str:
        """The name of the source."""
        name: str = self.section.get("source", "")
        return name

    def load(self, key: Key | int) -> FederatedData:
        """The data of all clients; a seed stands for the key that a run of that seed draws its data by."""
        options = {name: value for name, value in self.section.items() if name not in ("kind", "source")}
        return load(self.source, key=key, **options)

    @cached_property
    def _data(self) -> FederatedData:
        return self.load(0)  # what is asked of it below does not depend on the draw

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self._data.input_shape

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in order; their numbers where the source has no names, none for a regression."""
        return self._data.class_names or tuple(map(str, range(self._data.classes or 0)))

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the inputs of a table."""
        return self._data.features

    def to_config(self) -> dict[str, Any]:
        """The section [data]."""
        return {"kind": "source", **self.section}
