"""The folder of a run's manifests: one file a round, the signed head of the chain, and states to begin a replay with.

start.json      what a replay needs: algorithm, seed, layout; its digest is what the first manifest follows on
round-000001.json   the manifest of a round, the names of those asked, and the entries of updates
state-000000.safetensors   the server's state after a round
head.json       the digest of the newest manifest, signed where the server has an identity
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from headway.core.algorithm import State
from headway.core.errors import RunFolderError
from headway.federation.spool.manifest import Manifest, RoundDocument
from headway.numerics.canonical import canonical, digest_of
from headway.observe.run_folder import MANIFESTS, read_tensors, write_atomically, write_tensors, writing

START, HEAD = "start.json", "head.json"


class ManifestError(RunFolderError):
    """A manifest, or what belongs to it, is missing or is not what it was.  round: of it; 0 for the start."""

    def __init__(self, round: int, message: str) -> None:
        self.round = round
        super().__init__(message)


class Signer(Protocol):
    """A server's identity, as far as it signs: see `federation.identity`."""

    def sign(self, data: bytes) -> str:
        """The signature of data in hexadecimal; empty without a key."""
        ...

    @property
    def certificate(self) -> str:
        """The certificate, DER in base64; empty without one."""
        ...


class ManifestFolder:
    """Reads and writes the manifests of a run.  path: of the folder, which `write_start` makes."""

    def __init__(self, run: Path) -> None:
        self.path = Path(run) / MANIFESTS

    # writing --------------------------------------------------------------------------------------------

    def write_start(self, facts: dict[str, Any], state: State) -> str:
        """Begins a chain, in the place of another one; the digest of the start.

        Raises:
            RunFolderError: if it cannot be written.
        """
        with writing(self.path):
            self.path.mkdir(exist_ok=True)
            for each in self.path.iterdir():
                each.unlink()
        self.write_state(state)
        self._write(START, facts)
        return digest_of(facts)

    def write_round(self, document: RoundDocument, signer: Signer | None = None) -> None:
        """Writes the manifest of a round, and then the head.

        Raises:
            RunFolderError: if it cannot be written.
        """
        self._write(_round_name(document.manifest.round), document.to_values())
        self.write_head(document.manifest, signer)

    def write_head(self, manifest: Manifest, signer: Signer | None = None) -> None:
        """Writes which manifest is the newest, signed where there is a key.

        Raises:
            RunFolderError: if it cannot be written.
        """
        head = {"job": manifest.job, "round": manifest.round, "digest": manifest.digest}
        signature, server = ("", "") if signer is None else (signer.sign(canonical(head)), signer.certificate)
        self._write(HEAD, {**head, "server": server, "signature": signature})

    def write_state(self, state: State) -> None:
        """Writes the server's state after a round.

        Raises:
            RunFolderError: if it cannot be written.
        """
        path = self.path / f"state-{state.round:06d}.safetensors"
        with writing(path):
            write_tensors(path, state.tensors(), {"round": state.round})

    def forget_states(self, before: int) -> int:
        """Removes states that are older than the newest one of a round or before it; the round of the oldest left."""
        rounds = self.state_rounds()
        older = [round_ for round_ in rounds if round_ <= before]
        with writing(self.path):
            for round_ in older[:-1]:
                (self.path / f"state-{round_:06d}.safetensors").unlink()
        return min([*older[-1:], *(round_ for round_ in rounds if round_ > before)], default=0)

    def forget_after(self, round: int) -> None:
        """Removes manifests and states of later rounds, which are run again."""
        with writing(self.path):
            for pattern in ("round-*.json", "state-*.safetensors"):
                for path in self.path.glob(pattern):
                    if _round_of(path) > round:
                        path.unlink()

    # reading --------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether a chain has been begun."""
        return (self.path / START).is_file()

    def rounds(self) -> list[int]:
        """The rounds that have a manifest."""
        return sorted(_round_of(path) for path in self.path.glob("round-*.json"))

    def state_rounds(self) -> list[int]:
        """The rounds after which a state was kept."""
        return sorted(_round_of(path) for path in self.path.glob("state-*.safetensors"))

    def start(self) -> dict[str, Any]:
        """What a replay needs.

        Raises:
            ManifestError: if it is missing or damaged.
        """
        return self._read(START, 0)

    def head(self) -> dict[str, Any]:
        """The job, round and digest of the newest manifest, the server's certificate and signature.

        Raises:
            ManifestError: if it is missing or damaged.
        """
        return self._read(HEAD, 0)

    def document(self, round: int) -> RoundDocument:
        """The manifest of a round with its entries.

        Raises:
            ManifestError: if it is missing or damaged, or its entries are not those of its manifest.
        """
        values = self._read(_round_name(round), round)
        try:
            document = RoundDocument.from_values(values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ManifestError(round, f"the manifest of round {round} cannot be read: {error}.") from error
        if not document.complete:
            raise ManifestError(round, f"the manifest of round {round} has other entries than it was made with.")
        return document

    def state(self, round: int) -> State:
        """The server's state after a round.

        Raises:
            RunFolderError: if it is missing or damaged.
        """
        tensors, _ = read_tensors(self.path / f"state-{round:06d}.safetensors")
        return State.from_tensors(round, tensors)

    def _write(self, name: str, values: dict[str, Any]) -> None:
        with writing(self.path / name):
            write_atomically(self.path / name, canonical(values) + b"\n")

    def _read(self, name: str, round: int) -> dict[str, Any]:
        path = self.path / name
        try:
            values = json.loads(path.read_bytes())
        except OSError as error:
            raise ManifestError(round, f"{path} cannot be read: {error.strerror or error}.") from error
        except ValueError as error:
            raise ManifestError(round, f"{path} is damaged ({error}).") from error
        if not isinstance(values, dict):
            raise ManifestError(round, f"{path} is damaged: it holds no object.")
        return values


def _round_name(round: int) -> str:
    return f"round-{round:06d}.json"


def _round_of(path: Path) -> int:
    number = path.stem.partition("-")[2]
    return int(number) if number.isdecimal() else 0
