"""The record of a job in the folder of its run: its identifier, and how it ended."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from headway.core.errors import RunFolderError
from headway.federation.serving.assignments import State
from headway.observe.run_folder import JOB, write_atomically, writing


@dataclass(frozen=True)
class JobRecord:
    """The record of a job in its run's folder: its identifier, which agents know it by, and how it ended."""

    job: str
    state: State = "waiting"
    reason: str = ""

    @classmethod
    def of(cls, folder: Path, name: str) -> JobRecord:
        """The record in a folder; a new one where there is none.

        Raises:
            RunFolderError: if it is damaged.
        """
        path = folder / JOB
        if not path.is_file():
            made = cls(f"{name}-{secrets.token_hex(6)}")
            made.write(folder)
            return made
        try:
            values: Any = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(values["job"]), values["state"], str(values["reason"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{path} is damaged ({error}); restore it from a copy, or run anew.") from error

    def ended(self, folder: Path, state: State, reason: str = "") -> JobRecord:
        """The record with a state, which is written."""
        made = replace(self, state=state, reason=reason)
        made.write(folder)
        return made

    def write(self, folder: Path) -> None:
        """Writes the record."""
        with writing(folder / JOB):
            write_atomically(folder / JOB, json.dumps(asdict(self), ensure_ascii=False, indent=2).encode())
