"""The certificates of nodes: P-256 for TLS, and in them the node's name and its Ed25519 key for signatures.

The two stand as URIs among the certificate's names: `urn:headway:node:NAME` and `urn:headway:ed25519:KEY`.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from headway.federation.identity.private_files import IdentityError

_NODE, _KEY = "urn:headway:node:", "urn:headway:ed25519:"
BACKDATED = datetime.timedelta(minutes=10)  # certificates are valid from a little earlier, for clocks that differ


@dataclass(frozen=True)
class NodeCertificate:
    """The facts of a node's certificate.

    key: the Ed25519 public key in hexadecimal.  hosts: the names under which it may serve; none for a client.
    fingerprint: SHA-256 of the certificate, in hexadecimal.
    """

    der: bytes
    name: str
    key: str
    hosts: tuple[str, ...]
    serial: str
    not_before: float
    not_after: float

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def pem(self) -> bytes:
        """The certificate as a text file holds it."""
        return x509.load_der_x509_certificate(self.der).public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class CertificateRequest:
    """What a certificate is made for: a name, its two public keys, the hosts it serves under, and how long it lasts."""

    name: str
    tls_key: ec.EllipticCurvePublicKey
    signing_key: str
    hosts: Sequence[str] = ()
    days: float = 365.0


def read_certificate(data: bytes) -> NodeCertificate:
    """The facts of a node's certificate, from DER or PEM; its signature is not checked.

    Raises:
        IdentityError: if it is not a certificate of a node.
    """
    try:
        pem = data.lstrip().startswith(b"-----")
        certificate = x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound) as error:
        raise IdentityError(f"this is not the certificate of a node: {error}.") from error
    nodes = [unquote(uri.removeprefix(_NODE)) for uri in uris if uri.startswith(_NODE)]
    keys = [uri.removeprefix(_KEY) for uri in uris if uri.startswith(_KEY)]
    if len(nodes) != 1 or len(keys) != 1:
        raise IdentityError("this is not the certificate of a node: it was not made by `headway identity`.")
    hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return NodeCertificate(
        der=certificate.public_bytes(serialization.Encoding.DER),
        name=nodes[0],
        key=keys[0],
        hosts=tuple(hosts),
        serial=f"{certificate.serial_number:x}",
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
    )


def sign_certificate(
    request: CertificateRequest, authority: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> NodeCertificate:
    """A certificate for a node, signed by the authority; it ends no later than the authority's own.

    Raises:
        IdentityError: if the authority's own certificate has ended, or a host is not a name or an address.
    """
    now = datetime.datetime.now(datetime.UTC)
    end = min(now + datetime.timedelta(days=request.days), authority.not_valid_after_utc)
    start = max(now - BACKDATED, authority.not_valid_before_utc)
    if end <= now:
        when = f"{authority.not_valid_after_utc:%Y-%m-%d}"
        raise IdentityError(f"the certificate authority expired on {when}: make a new one with `headway identity ca`.")
    names = [_general_name(host) for host in request.hosts]
    uris = (f"{_NODE}{quote(request.name, safe='')}", f"{_KEY}{request.signing_key}")
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if names else [])]
    builder = (
        x509.CertificateBuilder()
        .subject_name(common_name(request.name))
        .issuer_name(authority.subject)
        .public_key(request.tls_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(
            x509.SubjectAlternativeName([*names, *map(x509.UniformResourceIdentifier, uris)]), critical=False
        )
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs=True, authority=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(request.tls_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    signed = builder.sign(key, hashes.SHA256())
    return read_certificate(signed.public_bytes(serialization.Encoding.DER))


def common_name(name: str) -> x509.Name:
    """The subject of a certificate; names longer than the 64 bytes that it may hold are cut there only."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name.encode()[:64].decode(errors="ignore"))])


def key_usage(*, signs: bool, authority: bool) -> x509.KeyUsage:
    """What a key may be used for: signatures, or certificates and revocation lists."""
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def private_pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    """A private key as its file holds it, without a passphrase: the file's mode protects it."""
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        if not host or any(character in host for character in "/: "):
            raise ValueError("a name of a host has neither a scheme nor a port")
        return x509.DNSName(host.encode("idna").decode() if not host.isascii() else host)
    except ValueError as error:
        raise IdentityError(f"{host!r} is not the name or address of a host: {error}.") from error
