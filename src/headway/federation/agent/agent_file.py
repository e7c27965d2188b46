"""The file of an agent: its own data, model, task, policy and limits, which stay on its machine."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.core.errors import ConfigError, DataError, nearest
from headway.core.registry import Plain, build

SECTIONS = ("data", "model", "task", "policy", "limits")


@dataclass(frozen=True)
class AgentLimits(Plain):
    """What an agent takes of its machine: threads, the device ("cpu", "cuda:0"), and how much it gives way (nice)."""

    threads: int | None = None
    device: str | None = None
    nice: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise ConfigError(f"limits.threads must be between 1 and 1024, found {self.threads}.")
        if self.nice is not None and not 0 <= self.nice <= 19:
            raise ConfigError(f"limits.nice must be between 0 and 19, found {self.nice}.")


@dataclass(frozen=True)
class AgentFile:
    """The sections of an agent's file; empty ones where the server's are used, or nothing is required.

    data: `source`, a file, or the name of a packaged source with `client`; and how the file is written, with the
    client's own names of columns and values.  model, task: as in a run file, in the place of the server's.
    policy: the conditions on a job.  limits: on the machine.  folder: from which relative paths begin.
    """

    data: Mapping[str, Any]
    model: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    limits: AgentLimits = AgentLimits()
    folder: Path = Path()

    @classmethod
    def of(cls, spec: str | Path) -> AgentFile:
        """The file at a path that ends in .toml; of any other text, one whose data are what it names.

        Raises:
            ConfigError: the file has an unknown section or key, or no data.
            DataError: it cannot be read.
        """
        path = Path(spec)
        if path.suffix.lower() != ".toml":
            return cls({"source": str(spec)})
        sections = _read(path)
        for name, value in sections.items():
            if name not in SECTIONS or not isinstance(value, dict):
                raise ConfigError(
                    f"{path}: {name!r} is not a section of an agent's file{nearest(name, SECTIONS)}: its sections are "
                    f"{', '.join(f'[{each}]' for each in SECTIONS)}."
                )
        data = sections.get("data", {})
        if not isinstance(data.get("source"), str):
            raise ConfigError(f'{path} needs [data] with source = "FILE", or the name of a packaged source.')
        try:
            limits = build(AgentLimits, sections.get("limits", {}))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        rest = {name: sections.get(name, {}) for name in ("model", "task", "policy")}
        return cls(data, **rest, limits=limits, folder=path.resolve().parent)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"the agent's file {path} cannot be read: {error.strerror or error}.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the agent's file {path} is not TOML: {error}.") from error
