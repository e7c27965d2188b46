"""The identity of a node: a folder with its certificate, its two keys, and the numbers of its requests.

node.pem      certificate (P-256, for TLS; in it the name and the Ed25519 key)
ca.pem        certificate of the authority that it trusts
tls.key       private key of the certificate, mode 0600
signing.key   private Ed25519 key of its signatures, mode 0600
sequence.sqlite   the numbers of requests that are reserved
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from headway.federation.http_api import NODE
from headway.federation.identity.certificates import NodeCertificate, read_certificate
from headway.federation.identity.private_files import IdentityError, read_private
from headway.federation.identity.request_signature import SEQUENCE, SignedRequest, name_from_header, name_to_header
from headway.federation.identity.sequence_numbers import NodeSequence

CERTIFICATE, AUTHORITY, TLS_KEY, SIGNING_KEY, SEQUENCES = (
    "node.pem",
    "ca.pem",
    "tls.key",
    "signing.key",
    "sequence.sqlite",
)
SOON_DAYS = 30.0
EMPTY = hashlib.sha256(b"").hexdigest()  # of a request without a body


class Identity(Protocol):
    """What a node needs of its identity, with certificates or without."""

    @property
    def name(self) -> str:
        """The name of the node."""

    def sign_headers(
        self, method: str, path: str, body_sha256: str = EMPTY, run: str = "", round: int = 0
    ) -> dict[str, str]:
        """The headers of one request; a request that is sent again is signed again."""

    def catch_up(self, headers: Mapping[str, str]) -> bool:
        """Whether the headers of a refusal ask for higher numbers; the request is then signed and sent again."""

    def client_context(self, public_authorities: bool = False) -> ssl.SSLContext | None:
        """The TLS settings of connections that the node makes; `None` for plain HTTP."""

    def server_context(self) -> ssl.SSLContext | None:
        """The TLS settings of connections that the node accepts; `None` for plain HTTP."""

    def sign(self, data: bytes) -> str:
        """The signature of data in hexadecimal; empty without a key."""

    @property
    def certificate(self) -> str:
        """The certificate of the node, DER in base64; empty without one."""


class OpenIdentity:
    """A name without keys, for plain HTTP on one machine (`--insecure`)."""

    certificate = ""

    def __init__(self, name: str) -> None:
        try:
            self.name = name_from_header(name_to_header(name))
        except ValueError:
            raise IdentityError(f"{name!r} is not a name of 1 to 200 characters without slashes.") from None

    def sign_headers(
        self, method: str, path: str, body_sha256: str = EMPTY, run: str = "", round: int = 0
    ) -> dict[str, str]:
        """The header with the name."""
        return {NODE: name_to_header(self.name)}

    def catch_up(self, headers: Mapping[str, str]) -> bool:
        """Nothing: requests have no numbers."""
        return False

    def client_context(self, public_authorities: bool = False) -> ssl.SSLContext | None:
        """No TLS."""
        return None

    def server_context(self) -> ssl.SSLContext | None:
        """No TLS."""
        return None

    def sign(self, data: bytes) -> str:
        """No signature."""
        return ""


class NodeIdentity:
    """The identity of a node, read from its folder."""

    def __init__(self, folder: Path, certificate: NodeCertificate, key: Ed25519PrivateKey, sequence: Path) -> None:
        self.folder, self.facts, self._key = folder, certificate, key
        self._sequence = NodeSequence(sequence)
        self.authority = _read_authority(folder / AUTHORITY)

    @classmethod
    def load(cls, folder: str | Path, state: str | Path | None = None) -> NodeIdentity:
        """The identity in a folder.

        state: where the numbers of requests are kept, if not in the folder, which may then be read-only.

        Raises:
            IdentityError: if a file is missing, readable by others, or does not fit the others.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise IdentityError(
                f"there is no identity in {folder}: make one with `headway identity issue` where the authority is, or"
                f" with `headway identity enrol URL TOKEN --out {folder}` here."
            )
        try:
            facts = read_certificate((folder / CERTIFICATE).read_bytes())
        except OSError as error:
            reason = error.strerror or error
            raise IdentityError(f"{folder} is not an identity folder: cannot read {CERTIFICATE}: {reason}.") from error
        signing, tls = _private_key(folder / SIGNING_KEY), _private_key(folder / TLS_KEY)
        if not isinstance(signing, Ed25519PrivateKey) or public_hex(signing) != facts.key:
            raise IdentityError(
                f"{folder / SIGNING_KEY} is not the key in {CERTIFICATE}: the folder holds two identities."
            )
        own = x509.load_der_x509_certificate(facts.der).public_key()
        if not isinstance(tls, ec.EllipticCurvePrivateKey) or tls.public_key() != own:
            raise IdentityError(f"{folder / TLS_KEY} is not the key of {CERTIFICATE}: the folder holds two identities.")
        return cls(folder, facts, signing, Path(state or folder) / SEQUENCES)

    @property
    def name(self) -> str:
        """The name of the node, from its certificate."""
        return self.facts.name

    @property
    def certificate(self) -> str:
        """The certificate, DER in base64."""
        return base64.b64encode(self.facts.der).decode()

    def check_validity(self, now: float | None = None) -> None:
        """Refuses a certificate that is not valid at a time, by default by this machine's clock.

        Raises:
            IdentityError: with the dates.
        """
        check_dates(self.facts, f"the certificate of {self.name!r} in {self.folder}", now)

    def ends_soon(self, now: float | None = None) -> str | None:
        """A sentence on a certificate that ends within 30 days; `None` for one that lasts longer."""
        days = (self.facts.not_after - (time.time() if now is None else now)) / 86400
        if days > SOON_DAYS:
            return None
        return (
            f"The certificate of {self.name!r} ends at {moment(self.facts.not_after)}, in {max(days, 0):.0f} days: have"
            f" a new one issued (headway identity issue {self.name}) and start again with it."
        )

    def sign_headers(
        self, method: str, path: str, body_sha256: str = EMPTY, run: str = "", round: int = 0
    ) -> dict[str, str]:
        """The headers of one request, with a number that is used once.

        path: with its query.  body_sha256: of the whole body, in hexadecimal.

        Raises:
            IdentityError: if no number can be reserved on disk.
        """
        node, nonce = name_to_header(self.name), secrets.token_hex(16)
        number = self._sequence.take()
        request = SignedRequest(method, path, node, name_to_header(run), round, number, nonce, body_sha256)
        return request.headers(self.sign(request.signed_bytes))

    def catch_up(self, headers: Mapping[str, str]) -> bool:
        """Takes the number that a refusal asks for.

        A server that was restarted refuses numbers that it may have accepted before, and names the next.

        Returns:
            Whether there was one, so that the request is to be signed and sent again.
        """
        least = headers.get(SEQUENCE, "")
        if not least.isascii() or not least.isdigit() or len(least) > 16:
            return False
        return self._sequence.raise_to(int(least))

    def sign(self, data: bytes) -> str:
        """The Ed25519 signature of data, in hexadecimal."""
        return self._key.sign(data).hex()

    def verify(self, certificate: str, data: bytes, signature: str) -> NodeCertificate:
        """The signer of data, by its certificate in base64, which must be from the authority of this identity.

        Raises:
            IdentityError: if the certificate is another authority's, or the signature does not fit.
        """
        return verify_signed(self.authority, certificate, data, signature)

    def client_context(self, public_authorities: bool = False, own_certificate: bool = True) -> ssl.SSLContext:
        """TLS 1.3 with the node's certificate; servers are checked against the authority, and by name.

        public_authorities: also servers with a certificate that the operating system trusts, for a server behind a
        proxy that ends TLS.  own_certificate: whether the node shows its certificate.

        Raises:
            IdentityError: if the node's own certificate is not valid now.
        """
        self.check_validity()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2 if public_authorities else ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(self.folder / AUTHORITY)
        if public_authorities:
            context.load_default_certs()
        return self._with_own_certificate(context) if own_certificate else context

    def server_context(self) -> ssl.SSLContext:
        """TLS 1.3; certificates of callers are asked for and checked, and demanded later, where a call needs one.

        Raises:
            IdentityError: if the certificate is not valid now, or names no host under which the node may serve.
        """
        self.check_validity()
        if not self.facts.hosts:
            raise IdentityError(
                f"the certificate of {self.name!r} is a client's: a server needs the names under which it is reached:"
                f" headway identity issue {self.name} --host NAME --out FOLDER."
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(self.folder / AUTHORITY)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.num_tickets = 0  # each connection checks certificates anew, and costs less memory
        return self._with_own_certificate(context)

    def _with_own_certificate(self, context: ssl.SSLContext) -> ssl.SSLContext:
        try:
            context.load_cert_chain(self.folder / CERTIFICATE, self.folder / TLS_KEY)
        except (OSError, ssl.SSLError) as error:
            raise IdentityError(f"cannot use the certificate and key in {self.folder}: {error}.") from error
        return context


def verify_signed(authority: x509.Certificate, certificate: str, data: bytes, signature: str) -> NodeCertificate:
    """The signer of data, whose certificate must be from an authority; dates are not checked.

    Raises:
        IdentityError: if the certificate is another authority's, or the signature does not fit.
    """
    return check_signature(certificate, data, signature, authority)


def check_signature(
    certificate: str, data: bytes, signature: str, authority: x509.Certificate | None = None
) -> NodeCertificate:
    """The signer of data, by its certificate alone where no authority is given.

    Raises:
        IdentityError: if the signature does not fit, or the certificate is another authority's.
    """
    try:
        der = base64.b64decode(certificate, validate=True)
        facts = read_certificate(der)
        if authority is not None:
            x509.load_der_x509_certificate(der).verify_directly_issued_by(authority)
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(facts.key)).verify(bytes.fromhex(signature), data)
    except InvalidSignature as error:
        raise IdentityError(
            "the signature does not fit the data, or the certificate is another authority's."
        ) from error
    except (ValueError, TypeError) as error:
        raise IdentityError(f"the certificate or the signature is malformed: {error}.") from error
    return facts


def issued_by(facts: NodeCertificate, authority: x509.Certificate) -> bool:
    """Whether a certificate was issued by an authority; dates are not checked."""
    try:
        x509.load_der_x509_certificate(facts.der).verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def check_dates(facts: NodeCertificate, what: str, now: float | None = None) -> None:
    """Refuses a certificate outside its dates.

    Raises:
        IdentityError: with the dates and the time of this machine.
    """
    now = time.time() if now is None else now
    if now > facts.not_after:
        raise IdentityError(
            f"{what} expired at {moment(facts.not_after)}, and this machine's clock is at {moment(now)}: have a new one"
            f" issued (headway identity issue {facts.name}), or set the clock."
        )
    if now < facts.not_before:
        raise IdentityError(
            f"{what} is valid from {moment(facts.not_before)} only, and this machine's clock is at {moment(now)}:"
            f" one of the two clocks is wrong, the authority's or this machine's."
        )


def moment(seconds: float) -> str:
    """A time in UTC, to the minute.

    >>> moment(0)
    '1970-01-01 00:00 UTC'
    """
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def public_hex(key: Ed25519PrivateKey) -> str:
    """The public half of a signing key, in hexadecimal."""
    return key.public_key().public_bytes_raw().hex()


def _private_key(path: Path) -> object:
    try:
        return serialization.load_pem_private_key(read_private(path), None)
    except (ValueError, TypeError) as error:
        raise IdentityError(f"{path} is not a private key: {error}.") from error


def _read_authority(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise IdentityError(f"cannot read the certificate of the authority in {path}: {error}.") from error
