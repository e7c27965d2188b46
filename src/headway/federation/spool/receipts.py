"""Receipts: signed by the server for each update, kept by the client, and compared with the server's manifests."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from headway.core.errors import ConfigError, HeadwayError
from headway.federation.http_api import Body, Digest, Receipt, Text
from headway.federation.spool.manifest import Manifest, UpdateEntry
from headway.federation.spool.manifest_folder import ManifestFolder, Signer
from headway.numerics.canonical import canonical, digest_of

ROUNDS_AT_A_TIME = 200  # in one answer of the server
Certificate = Annotated[str, Field(max_length=4000)]


class RoundExtract(Body):
    """A manifest as one client sees it.  manifest: in its canonical form.  updates: the entries of the client."""

    manifest: Annotated[str, Field(max_length=1 << 24)]
    updates: tuple[dict[str, Any], ...] = ()


class ReceiptsAnswer(Body):
    """The server's account of a client's updates: some rounds, and the signed head of the chain of manifests.

    round, digest: of the newest manifest; server, signature: over (job, round, digest), where the server has a key.
    start: the digest that the first manifest follows on.  more: whether there are later rounds.
    """

    job: Text
    start: Digest
    first: int = Field(ge=1)
    round: int = Field(ge=0)
    digest: Text = ""
    server: Certificate = ""
    signature: Text = ""
    rounds: tuple[RoundExtract, ...] = ()
    more: bool = False


def signer(identity: Signer | None) -> Callable[[Receipt], Receipt]:
    """Signs receipts with a server's identity; without one they stay as they are."""

    def sign(receipt: Receipt) -> Receipt:
        if identity is None or not identity.certificate:
            return receipt
        named = receipt.model_copy(update={"server": identity.certificate, "signature": ""})
        return named.model_copy(update={"signature": identity.sign(_signed_bytes(named))})

    return sign


def signer_of(certificate: str, data: bytes, signature: str, authority: Path | None = None) -> str:
    """The name of the signer of data; authority: the certificate file of the authority that it must be from.

    Raises:
        HeadwayError: if the signature does not fit, or the certificate is another authority's.
    """
    from cryptography import x509

    from headway.federation.identity.node_identity import check_signature, verify_signed

    if authority is None:
        return check_signature(certificate, data, signature).name
    try:
        trusted = x509.load_pem_x509_certificate(authority.read_bytes())
    except OSError as error:
        raise ConfigError(f"the authority's certificate {authority} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{authority} is no certificate: {error}.") from error
    return verify_signed(trusted, certificate, data, signature).name


def extract(run: Path, client: str, after: int) -> ReceiptsAnswer | None:
    """The account of a client's updates, or those in a relay's sums, after a round; `None` before the first is over.

    Raises:
        ManifestError: if a manifest is damaged.
    """
    folder = ManifestFolder(run)
    if not folder.exists or not (rounds := folder.rounds()):
        return None
    head, start = folder.head(), folder.start()
    wanted = [round_ for round_ in rounds if after < round_ <= int(head["round"])]
    found = []
    for round_ in wanted[:ROUNDS_AT_A_TIME]:
        document = folder.document(round_)
        own = tuple(entry.to_values() for entry in document.updates if client in (entry.client, entry.relay))
        found.append(RoundExtract(manifest=canonical(document.manifest.to_values()).decode(), updates=own))
    more = len(wanted) > ROUNDS_AT_A_TIME
    return ReceiptsAnswer(**head, start=digest_of(start), first=rounds[0], rounds=tuple(found), more=more)


@dataclass
class ReceiptsVerification:
    """The result of comparing receipts with the server's manifests.

    counted: the rounds in which an update was counted.  not_counted: the rounds of those that were not, with reasons.
    open: the rounds of accepted updates whose round is not over.  differences: what is wrong, in sentences.
    """

    counted: list[int] = field(default_factory=list)
    not_counted: list[tuple[int, str]] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    signed_by: str = ""


def read_receipts(folder: Path) -> list[Receipt]:
    """The receipts in a folder and those below it, by round.

    Raises:
        ConfigError: if there are none, or one cannot be read.
    """
    found = []
    for path in sorted(folder.rglob("*.json")):
        try:
            found.append(Receipt.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError) as error:
            raise ConfigError(f"{path} is no receipt: {str(error).splitlines()[0]}.") from error
    if not found:
        raise ConfigError(f"{folder} holds no receipts (files *.json): name the folder in which an agent keeps them.")
    return sorted(found, key=lambda receipt: (receipt.job, receipt.round, receipt.attempt))


class ReceiptsCheck:
    """Compares a client's receipts of one job with the server's account.

    authority: the certificate file of the authority that the server's certificate must be from, if it is known.
    """

    def __init__(self, receipts: Sequence[Receipt], authority: Path | None = None) -> None:
        self.receipts, self.authority, self.result = receipts, authority, ReceiptsVerification()
        self._newest = ""  # the digest of the last manifest that the server has shown

    def check(self, answers: Sequence[ReceiptsAnswer]) -> ReceiptsVerification:
        """The result; answers: of the server, all parts."""
        signers = [self._signer(receipt) for receipt in self.receipts]
        entries = self._entries(answers)
        self._check_head(answers)
        for receipt, signer in zip(self.receipts, signers, strict=True):
            own = [entry for entry in entries if entry[1].digest == receipt.digest]
            self._compare(receipt, own or self._in_sums(receipt, signer, entries), answers[-1])
        return self.result

    def _entries(self, answers: Sequence[ReceiptsAnswer]) -> list[tuple[int, UpdateEntry]]:
        """The client's entries with their rounds, each of which a manifest of the chain holds."""
        found = []
        previous = answers[0].start
        for extracted in (each for answer in answers for each in answer.rounds):
            try:
                manifest = Manifest.from_values(json.loads(extracted.manifest))
                entries = [UpdateEntry(**values) for values in extracted.updates]
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self._differ(f"a manifest of the server cannot be read: {error}")
                continue
            if manifest.previous != previous:
                self._differ(f"the manifest of round {manifest.round} does not follow on the one before")
            previous = manifest.digest
            for entry in entries:
                if digest_of(entry.to_values()) not in manifest.updates:
                    self._differ(f"what the server shows of round {manifest.round} is not in its manifest")
                found.append((manifest.round, entry))
        self._newest = previous
        return found

    def _check_head(self, answers: Sequence[ReceiptsAnswer]) -> None:
        head = answers[-1]
        if head.digest != self._newest:
            self._differ("the newest manifest is not the one that the server has signed")
        if head.signature:
            signed = canonical({"job": head.job, "round": head.round, "digest": head.digest})
            with self._finding("the chain of manifests"):
                self.result.signed_by = signer_of(head.server, signed, head.signature, self.authority)

    def _compare(self, receipt: Receipt, entries: Sequence[tuple[int, UpdateEntry]], head: ReceiptsAnswer) -> None:
        """What became of the update of a receipt."""
        counted = sorted({round_ for round_, entry in entries if entry.verdict == "counted"})
        which = f"the update of round {receipt.round + 1}"
        if len(counted) > 1 or len({entry.client for _, entry in entries}) < len(entries):
            self._differ(f"{which} is listed more than once, in rounds {', '.join(map(str, counted))}")
        elif receipt.verdict != "accepted":
            if counted:
                self._differ(f"{which} was counted in round {counted[0]}, and its receipt says {receipt.verdict!r}")
            else:
                self.result.not_counted.append((receipt.round + 1, receipt.reason or receipt.verdict))
        elif counted:
            self.result.counted.append(counted[0])
        elif entries:
            self.result.not_counted.append((receipt.round + 1, entries[0][1].reason or entries[0][1].verdict))
        elif head.round <= receipt.round:
            self.result.open.append(receipt.round + 1)
        else:
            self._differ(f"{which} was accepted, and no manifest up to round {head.round} has it")

    def _in_sums(
        self, receipt: Receipt, signer: str, entries: Sequence[tuple[int, UpdateEntry]]
    ) -> list[tuple[int, UpdateEntry]]:
        """The entries of an update that a relay has acknowledged; the server's digest is that of the relay's sum."""
        found = [
            (round_, entry)
            for round_, entry in entries
            if entry.relay and entry.relay == (signer or entry.relay) and entry.client == receipt.client
            if entry.asked == receipt.round
        ]
        if found:
            self._note(
                f"updates went into sums of the relay {found[0][1].relay!r}: the server shows that these counted, with "
                "this client in them, and not which bytes the relay has added."
            )
        return [each for each in found if each[1].in_sum] or found[-1:]

    def _signer(self, receipt: Receipt) -> str:
        """The node that has signed a receipt; empty without a valid signature."""
        if not receipt.signature:
            self._note("the receipts are not signed: the server had no identity.")
            return ""
        with self._finding(f"the receipt of round {receipt.round + 1}"):
            data = _signed_bytes(receipt.model_copy(update={"signature": ""}))
            return signer_of(receipt.server, data, receipt.signature, self.authority)
        return ""

    @contextlib.contextmanager
    def _finding(self, what: str) -> Iterator[None]:
        """Notes a signature that does not fit as a difference."""
        try:
            yield
        except ConfigError:
            raise
        except HeadwayError as error:
            self._differ(f"{what} has no valid signature: {str(error).rstrip('.')}")

    def _differ(self, sentence: str) -> None:
        if sentence not in self.result.differences:
            self.result.differences.append(sentence)

    def _note(self, sentence: str) -> None:
        if sentence not in self.result.notes:
            self.result.notes.append(sentence)


def jobs_of(receipts: Iterable[Receipt]) -> dict[str, list[Receipt]]:
    """Receipts by job."""
    found: dict[str, list[Receipt]] = {}
    for receipt in receipts:
        found.setdefault(receipt.job, []).append(receipt)
    return found


def _signed_bytes(receipt: Receipt) -> bytes:
    """The bytes that are signed: all fields but the signature."""
    return canonical(receipt.model_dump(exclude={"signature"}))
