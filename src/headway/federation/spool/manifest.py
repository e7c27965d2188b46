"""The manifest of a round: who was asked, what became of every update, and the model before and after, by digests.

Each manifest holds the digest of the one before, so that none can be changed, left out or put in later without a
change of all that follow.  What concerns one client is in an entry of its own, of which the manifest holds the digest:
a client that is shown its entries can check them without seeing those of others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from headway.core.algorithm import State
from headway.numerics.canonical import digest_of
from headway.protocol import wire

FORMAT = 1
Verdict = Literal["counted", "skipped", "refused", "lost"]


@dataclass(frozen=True, slots=True)
class UpdateEntry:
    """What became of one request to a client.

    number: of the request among all of the run.  asked, attempt: the round, from 0, and the attempt of the request.
    message: the digest of the frame that went out.  digest: of the update; empty if none came.
    verdict: "skipped" where the round had too few updates to change the model; "lost" where none came in time.
    relay: the relay in whose sum the update came; then the digest is that of the sum, and the weight as the relay
    reports it.
    examples, data: how many training examples the client had joined with, and the fingerprint of its data.
    """

    client: str
    number: int
    asked: int
    attempt: int
    message: str
    digest: str
    weight: float | None
    verdict: Verdict
    reason: str
    relay: str = ""
    examples: int = 0
    data: str = ""

    @property
    def in_sum(self) -> bool:
        """Whether the update is in the sum of the round."""
        return self.verdict in ("counted", "skipped")

    def to_values(self) -> dict[str, Any]:
        """The entry in plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ModelDigests:
    """The digests of the model that is kept, and of all that the server keeps between two rounds."""

    model: str
    state: str

    @classmethod
    def of(cls, state: State) -> ModelDigests:
        """The digests of a state."""
        each = {name: tensor_digest(tensor) for name, tensor in state.tensors().items()}
        return cls(tensor_digest(state.model), digest_of(each))


@dataclass(frozen=True, slots=True)
class Manifest:
    """The facts of a round in digests.

    round: from 1, as in the journal.  previous: the digest of the manifest before; of the start, for the first.
    at: the end of the round by the run's clock.  message: the digest of the frame that went out.
    population: how many clients there were.  planned: how many the run is for, on which the chain's facts depend, if
    that is fixed.  group: the clients that are summed together.  asked: the digest of the names of those asked.
    updates: the digests of the entries, sorted.  journal: the digest of the round's rows in the journal.
    """

    job: str
    round: int
    previous: str
    at: float
    message: str
    population: int
    planned: int | None
    group: int
    asked: str
    updates: tuple[str, ...]
    before: ModelDigests
    after: ModelDigests
    journal: str
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """The digest of the manifest, which the next one holds."""
        return digest_of(self.to_values())

    def to_values(self) -> dict[str, Any]:
        """The manifest in plain values."""
        return {**asdict(self), "updates": list(self.updates)}

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Manifest:
        """The manifest of what `to_values` gave.

        Raises:
            KeyError, TypeError, ValueError: for something else.
        """
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, and this headway reads format {FORMAT}")
        before, after = ModelDigests(**values["before"]), ModelDigests(**values["after"])
        return cls(**{**values, "updates": tuple(values["updates"]), "before": before, "after": after})


@dataclass(frozen=True, slots=True)
class RoundDocument:
    """A manifest with what it holds the digests of: the names of those asked, and the entries."""

    manifest: Manifest
    asked: tuple[str, ...]
    updates: tuple[UpdateEntry, ...]

    @property
    def complete(self) -> bool:
        """Whether the names and the entries are those of the manifest."""
        mine = self.manifest
        return digest_of(list(self.asked)) == mine.asked and entry_digests(self.updates) == mine.updates

    def to_values(self) -> dict[str, Any]:
        """The document in plain values."""
        entries = [entry.to_values() for entry in self.updates]
        return {"manifest": self.manifest.to_values(), "asked": list(self.asked), "updates": entries}

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> RoundDocument:
        """The document of what `to_values` gave.

        Raises:
            KeyError, TypeError, ValueError: for something else.
        """
        entries = tuple(UpdateEntry(**each) for each in values["updates"])
        return cls(Manifest.from_values(values["manifest"]), tuple(values["asked"]), entries)


def entry_digests(entries: Iterable[UpdateEntry]) -> tuple[str, ...]:
    """The digests of entries, sorted."""
    return tuple(sorted(digest_of(entry.to_values()) for entry in entries))


def tensor_digest(tensor: Tensor) -> str:
    """The SHA-256 of a tensor: its number type, its shape and its bytes."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)};".encode())
    digest.update(wire.raw(tensor))
    return digest.hexdigest()
