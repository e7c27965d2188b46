"""The registry of a certificate authority: certificates issued and revoked, and enrolment tokens."""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headway.federation.identity.certificates import NodeCertificate, read_certificate
from headway.federation.identity.private_files import IdentityError
from headway.federation.identity.sequence_numbers import open_database

REGISTRY = "registry.sqlite"
SETTLED_S = 2.0  # times of files are coarse: one that is older changes when the file is written once more

_SCHEMA = """
CREATE TABLE IF NOT EXISTS certificates (
    fingerprint TEXT PRIMARY KEY, name TEXT NOT NULL, der BLOB NOT NULL, issued REAL NOT NULL, revoked REAL);
CREATE INDEX IF NOT EXISTS certificates_by_name ON certificates (name);
CREATE TABLE IF NOT EXISTS tokens (
    id TEXT PRIMARY KEY, secret BLOB NOT NULL, name TEXT NOT NULL, hosts TEXT NOT NULL, days REAL NOT NULL,
    key TEXT, expires REAL NOT NULL, used REAL, fingerprint TEXT);
"""


@dataclass(frozen=True)
class Issued:
    """A certificate in the registry; revoked: when it was revoked, if it was."""

    certificate: NodeCertificate
    issued: float
    revoked: float | None

    def state(self, now: float) -> str:
        """Whether the certificate is valid at a time, as one word."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if now > self.certificate.not_after else "valid"


@dataclass(frozen=True)
class EnrolmentToken:
    """A one-time enrolment token: for one name, and after its first use for one key.

    hosts, days: of the certificate.  key: the Ed25519 key that may use it, `None` until then for any.
    """

    id: str
    secret: bytes
    name: str
    hosts: tuple[str, ...]
    days: float
    key: str | None
    expires: float
    used: float | None = None
    fingerprint: str | None = None

    @property
    def text(self) -> str:
        """The token as it is handed to the node's owner."""
        return f"{self.id}.{self.secret.hex()}"


class NodeRegistry:
    """The certificates and tokens of an authority; several processes may use it at once.

    What another process revokes or issues counts from the next call: each look into the tables asks the file whether
    it changed, and whether a newer copy has taken its place.
    """

    def __init__(self, folder: Path) -> None:
        self._lock, self._path = threading.RLock(), folder / REGISTRY
        self._database = open_database(self._path, _SCHEMA, "DELETE")
        found = self._stat()
        self._seen = (found.st_dev, found.st_ino, -1, -1)
        self._version = -1
        self._by_name: dict[str, list[Issued]] = {}
        self._by_fingerprint: dict[str, Issued] = {}

    @classmethod
    def of(cls, folder: Path) -> NodeRegistry:
        """The registry of the authority in a folder.

        Raises:
            IdentityError: if there is none.
        """
        if not (folder / REGISTRY).is_file():
            raise IdentityError(
                f"there is no registry of nodes in {folder}: make an authority with `headway identity ca {folder}`."
            )
        return cls(folder)

    def close(self) -> None:
        """Closes the file; a call of another thread that is under way ends first."""
        with self._lock:
            self._database.close()

    def of_name(self, name: str) -> Sequence[Issued]:
        """The certificates of a node, the newest last."""
        with self._lock:
            self._refresh()
            return self._by_name.get(name, ())

    def of_fingerprint(self, fingerprint: str) -> Issued | None:
        """The certificate with this fingerprint, if the authority issued it."""
        with self._lock:
            self._refresh()
            return self._by_fingerprint.get(fingerprint)

    def all(self) -> list[Issued]:
        """All certificates, by name and time."""
        with self._lock:
            self._refresh()
            return [issued for name in sorted(self._by_name) for issued in self._by_name[name]]

    def check_key(self, name: str, key: str) -> None:
        """Refuses a second key for a name in use.

        Raises:
            IdentityError: if a valid certificate of the name holds another key.
        """
        now = time.time()
        if any(one.state(now) == "valid" and one.certificate.key != key for one in self.of_name(name)):
            raise IdentityError(
                f"the node {name!r} has a valid certificate with another key: revoke it first with"
                f" `headway identity revoke {name}`, or give the new node another name."
            )

    def add(self, certificate: NodeCertificate) -> None:
        """Adds a certificate that was issued."""
        with self._lock:
            self._take(certificate, self._insert(certificate))

    def revoke(self, name: str) -> int:
        """Revokes all certificates and unused tokens of a node.

        Returns:
            How many certificates were valid before.
        """
        with self._lock:
            now = time.time()
            valid = sum(one.state(now) == "valid" for one in self.of_name(name))
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute(
                "UPDATE certificates SET revoked = ? WHERE name = ? AND revoked IS NULL", (now, name)
            )
            self._database.execute("DELETE FROM tokens WHERE name = ? AND used IS NULL", (name,))
            self._database.execute("COMMIT")
            self._version = -1
            return valid

    def new_token(
        self, name: str, hosts: Sequence[str], days: float, hours: float, key: str | None = None
    ) -> EnrolmentToken:
        """Makes a token for a name, valid for some hours; key: the only Ed25519 key that may use it, if it is known."""
        if key is not None and not re.fullmatch("[0-9a-f]{64}", key):
            raise IdentityError(f"{key!r} is not an Ed25519 public key: it has 64 hexadecimal digits.")
        expires = time.time() + hours * 3600
        token = EnrolmentToken(secrets.token_hex(6), secrets.token_bytes(24), name, tuple(hosts), days, key, expires)
        with self._lock:
            self._database.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
                (token.id, token.secret, name, "\n".join(hosts), days, key, expires),
            )
        return token

    def token(self, token_id: str) -> EnrolmentToken | None:
        """The token with this identifier, used or not."""
        with self._lock:
            row = self._database.execute("SELECT * FROM tokens WHERE id = ?", (token_id,)).fetchone()
        if row is None:
            return None
        found, secret, name, hosts, days, key, expires, used, fingerprint = row
        return EnrolmentToken(
            found, secret, name, tuple(hosts.split("\n")) if hosts else (), days, key, expires, used, fingerprint
        )

    def tokens(self) -> list[EnrolmentToken]:
        """All tokens that were not used."""
        with self._lock:
            ids = self._database.execute("SELECT id FROM tokens WHERE used IS NULL ORDER BY name, id").fetchall()
        return [token for (token_id,) in ids if (token := self.token(token_id)) is not None]

    def use_token(self, token: EnrolmentToken, certificate: NodeCertificate) -> bool:
        """Adds the certificate and marks the token as used by its key, both or neither.

        Returns:
            False if the token was used meanwhile.
        """
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                done = self._database.execute(
                    "UPDATE tokens SET used = ?, key = ?, fingerprint = ? WHERE id = ? AND used IS NULL",
                    (time.time(), certificate.key, certificate.fingerprint, token.id),
                )
                issued = self._insert(certificate) if done.rowcount == 1 else None
            except sqlite3.Error:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
            if issued is not None:
                self._take(certificate, issued)
            return issued is not None

    def _insert(self, certificate: NodeCertificate) -> float:
        """Writes a certificate; the time of its issue."""
        issued = time.time()
        row = (certificate.fingerprint, certificate.name, certificate.der, issued, None)
        self._database.execute("INSERT INTO certificates VALUES (?, ?, ?, ?, ?)", row)
        return issued

    def _take(self, certificate: NodeCertificate, issued: float) -> None:
        """Adds an entry that this object has written, so that the next look does not read all others again."""
        last = next(reversed(self._by_fingerprint.values()), None)
        if last is not None and issued <= last.issued:
            self._version = -1  # the clock went back, and the order is that of a new reading
        if self._version >= 0:
            known = Issued(certificate, issued, None)
            self._by_name.setdefault(certificate.name, []).append(known)
            self._by_fingerprint[certificate.fingerprint] = known

    def _stat(self) -> os.stat_result:
        try:
            return self._path.stat()
        except OSError as error:
            raise IdentityError(f"the registry of nodes {self._path} is gone: {error.strerror or error}.") from error

    def _refresh(self) -> None:
        found = self._stat()
        seen = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if seen == self._seen and self._version >= 0 and found.st_mtime < time.time() - SETTLED_S:
            return
        if seen[:2] != self._seen[:2]:
            self._database.close()
            self._database = open_database(self._path, _SCHEMA, "DELETE")
            self._version = -1
        self._seen = seen
        (version,) = self._database.execute("PRAGMA data_version").fetchone()
        if version == self._version:
            return
        rows = self._database.execute(
            "SELECT fingerprint, issued, revoked FROM certificates ORDER BY issued, fingerprint"
        )
        parsed, self._by_name, self._by_fingerprint = self._by_fingerprint, {}, {}
        for fingerprint, issued, revoked in rows.fetchall():
            known = Issued(
                parsed[fingerprint].certificate if fingerprint in parsed else self._read(fingerprint), issued, revoked
            )
            self._by_name.setdefault(known.certificate.name, []).append(known)
            self._by_fingerprint[fingerprint] = known
        self._version = version

    def _read(self, fingerprint: str) -> NodeCertificate:
        query = "SELECT der FROM certificates WHERE fingerprint = ?"
        (der,) = self._database.execute(query, (fingerprint,)).fetchone()
        return read_certificate(der)
