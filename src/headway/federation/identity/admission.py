"""The admission of requests at a server: who calls, and whether the call is to be carried out."""

from __future__ import annotations

import hashlib
import math
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from headway.core.errors import HeadwayError
from headway.federation.http_api import NODE
from headway.federation.identity.node_identity import moment
from headway.federation.identity.node_registry import Issued, NodeRegistry
from headway.federation.identity.private_files import IdentityError
from headway.federation.identity.request_signature import (
    BODY_DIGEST,
    SEQUENCE,
    SignedRequest,
    name_from_header,
    request_of,
)
from headway.federation.identity.sequence_numbers import SequenceRefused, SequenceWindows
from headway.federation.identity.token_bucket import TokenBuckets

SERVER_SEQUENCES = "accepted.sqlite"


class NotAdmitted(HeadwayError):
    """A request that is refused for who makes it, or how often.

    status: of the answer.  kind: of its `Problem`.  headers: that the answer carries.  ended: the node whose
    certificate was revoked or has expired, if that is why.
    """

    def __init__(
        self,
        message: str,
        status: Literal[401, 403, 429, 503] = 401,
        *,
        ended: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.ended, self.headers = status, ended, dict(headers or {})
        self.kind: Literal["unauthorised", "refused", "busy"] = (
            "unauthorised" if status == 401 else "refused" if status == 403 else "busy"
        )


class Admission(Protocol):
    """The rule by which a server knows the node that makes a request."""

    def authenticate(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body_sha256: str | None,
        peer_certificate: bytes | None,
    ) -> str:
        """The name of the node that makes the request; called once for each request.

        path: with its query, as received.  headers: in which names are found whatever their case.  body_sha256: of the
        body, or `None` before the body is read, which is then compared with `check_body` before use.
        peer_certificate: DER, from the TLS connection, if the node sent one.

        Raises:
            NotAdmitted: if it is refused.
        """

    def close(self) -> None:
        """Closes its files."""


def check_body(headers: Mapping[str, str], body_sha256: str) -> None:
    """Refuses a body that is not the one that was signed; a request without a signature is left alone.

    Raises:
        NotAdmitted: if the digests differ.
    """
    signed = headers.get(BODY_DIGEST)
    if signed is not None and signed != body_sha256:
        raise NotAdmitted(f"the body has the digest {body_sha256}, and {signed} was signed: it was changed on its way.")


class OpenAdmission:
    """Whoever calls has the name that it gives: for plain HTTP on one machine (`--insecure`)."""

    def __init__(self, rate: float = 100.0, burst: float = 400.0) -> None:
        self._buckets = TokenBuckets(rate, burst)

    def authenticate(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body_sha256: str | None,
        peer_certificate: bytes | None,
    ) -> str:
        """The name in the header `Headway-Node`."""
        try:
            name = name_from_header(headers.get(NODE, ""))
        except ValueError as error:
            raise NotAdmitted(f"{error}.") from error
        _take(self._buckets, name)
        return name

    def close(self) -> None:
        """Nothing is open."""


class CertifiedAdmission:
    """Nodes with a certificate of the authority whose registry is in a folder, and requests that they signed.

    A call is admitted if the certificate of its connection is in the registry, valid now and not revoked, and the
    request is signed by the key in it, with a number that was not used.  Behind a proxy that ends TLS there is no
    certificate of a connection: the signature alone shows who calls.

    behind_proxy: whether a proxy ends TLS.  state: the folder of the accepted numbers, by default the registry's.
    """

    def __init__(
        self,
        registry_folder: str | Path,
        behind_proxy: bool = False,
        state: str | Path | None = None,
        *,
        rate: float = 100.0,
        burst: float = 400.0,
    ) -> None:
        self._behind_proxy = behind_proxy
        self._registry = NodeRegistry.of(Path(registry_folder))
        self._windows = SequenceWindows(Path(state or registry_folder) / SERVER_SEQUENCES)
        self._buckets = TokenBuckets(rate, burst)
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Closes the registry and the file of accepted numbers."""
        self._registry.close()
        self._windows.close()

    def authenticate(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body_sha256: str | None,
        peer_certificate: bytes | None,
    ) -> str:
        """The name of the node whose certificate and signature the request has."""
        try:
            request, signature = request_of(method, path, headers)
            name = name_from_header(request.node)
        except ValueError as error:
            raise NotAdmitted(f"the request is not signed: {error}.") from error
        try:
            with self._lock:
                self._check(name, request, signature, body_sha256, peer_certificate)
        except (sqlite3.Error, IdentityError) as error:
            message = f"the server cannot use its registry of nodes or the numbers that it accepted: {error}"
            raise NotAdmitted(message, 503, headers={"Retry-After": "10"}) from error
        return name

    def _check(
        self,
        name: str,
        request: SignedRequest,
        signature: bytes,
        body_sha256: str | None,
        peer_certificate: bytes | None,
    ) -> None:
        if self._behind_proxy:
            issued = self._of_name(name)
            self._check_state(name, issued)
            self._check_signature(name, issued, request, signature, body_sha256)
            _take(self._buckets, name)  # after the signature: nobody else uses up the requests of a node
        else:
            issued = self._of_connection(name, peer_certificate)
            self._check_state(name, issued)
            _take(self._buckets, name)
            self._check_signature(name, issued, request, signature, body_sha256)
        try:
            self._windows.accept(name, request.sequence)
        except SequenceRefused as refused:
            raise NotAdmitted(f"{refused}.", headers={SEQUENCE: str(refused.least)}) from refused

    def _of_connection(self, name: str, peer_certificate: bytes | None) -> Issued:
        if peer_certificate is None:
            raise NotAdmitted(
                "the connection has no client certificate: join with --identity FOLDER, and where a proxy ends TLS,"
                " start the server with --behind-proxy."
            )
        issued = self._registry.of_fingerprint(hashlib.sha256(peer_certificate).hexdigest())
        if issued is None:
            raise NotAdmitted("the certificate of the connection is not in the server's registry of nodes.", 403)
        if issued.certificate.name != name:
            raise NotAdmitted(
                f"the request is in the name of {name!r}, and the certificate of its connection is that of"
                f" {issued.certificate.name!r}.",
                403,
            )
        return issued

    def _of_name(self, name: str) -> Issued:
        known = self._registry.of_name(name)
        if not known:
            raise NotAdmitted(f"no node {name!r} is in the server's registry.", 403)
        return max((one for one in known if one.revoked is None), key=_end, default=known[-1])

    @staticmethod
    def _check_state(name: str, issued: Issued) -> None:
        now, facts = time.time(), issued.certificate
        if issued.revoked is not None:
            raise NotAdmitted(f"the certificate of {name!r} was revoked at {moment(issued.revoked)}.", 403, ended=name)
        if now > facts.not_after:
            raise NotAdmitted(
                f"the certificate of {name!r} expired at {moment(facts.not_after)}; the server's clock is at"
                f" {moment(now)}.",
                403,
                ended=name,
            )

    def _check_signature(
        self, name: str, issued: Issued, request: SignedRequest, signature: bytes, body_sha256: str | None
    ) -> None:
        hexadecimal = issued.certificate.key
        key = self._keys.get(hexadecimal)
        if key is None:
            key = self._keys[hexadecimal] = Ed25519PublicKey.from_public_bytes(bytes.fromhex(hexadecimal))
        try:
            key.verify(signature, request.signed_bytes)
        except InvalidSignature as error:
            raise NotAdmitted(f"the signature of the request is not that of {name!r}.") from error
        if body_sha256 is not None:
            check_body({BODY_DIGEST: request.body}, body_sha256)


def _end(issued: Issued) -> float:
    return issued.certificate.not_after


def _take(buckets: TokenBuckets, name: str) -> None:
    wait = buckets.take(name)
    if wait > 0:
        message = f"{name!r} makes more than {buckets.rate:g} requests in a second; the next in {wait:.2f} s."
        raise NotAdmitted(message, 429, headers={"Retry-After": str(math.ceil(wait))})
