"""A small certificate authority: one folder with its key, its certificate and the registry of what it issued."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headway.federation.identity.certificates import (
    BACKDATED,
    CertificateRequest,
    NodeCertificate,
    common_name,
    key_usage,
    private_pem,
    sign_certificate,
)
from headway.federation.identity.node_identity import (
    AUTHORITY,
    CERTIFICATE,
    SIGNING_KEY,
    TLS_KEY,
    NodeIdentity,
    public_hex,
)
from headway.federation.identity.node_registry import NodeRegistry
from headway.federation.identity.private_files import (
    IdentityError,
    make_folder,
    read_private,
    write_private,
    write_public,
)

AUTHORITY_KEY = "ca.key"


class Authority:
    """A certificate authority with its key: it issues certificates and writes each into its registry."""

    def __init__(self, folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.folder, self._certificate, self._key = folder, certificate, key
        self.registry = NodeRegistry(folder)

    @classmethod
    def create(cls, folder: str | Path, name: str = "Headway federation", days: float = 3650.0) -> Authority:
        """A new authority in a folder that holds none.

        Raises:
            IdentityError: if the folder holds an authority, whose nodes would no longer be admitted.
        """
        folder = Path(folder)
        if (folder / AUTHORITY_KEY).exists() or (folder / AUTHORITY).exists():
            raise IdentityError(
                f"{folder} holds an authority (or an identity) already: a new one there would shut out its nodes; name"
                f" another folder."
            )
        make_folder(folder)
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(common_name(name))
            .issuer_name(common_name(name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(signs=False, authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_private(folder / AUTHORITY_KEY, private_pem(key))
        write_public(folder / AUTHORITY, certificate.public_bytes(serialization.Encoding.PEM))
        return cls(folder, certificate, key)

    @classmethod
    def load(cls, folder: str | Path) -> Authority:
        """The authority in a folder.

        Raises:
            IdentityError: if there is none, or its key is missing or readable by others.
        """
        folder = Path(folder)
        if not (folder / AUTHORITY).is_file() or not (folder / AUTHORITY_KEY).is_file():
            raise IdentityError(
                f"there is no certificate authority in {folder}: make one with `headway identity ca {folder}`."
            )
        try:
            key = serialization.load_pem_private_key(read_private(folder / AUTHORITY_KEY), None)
            certificate = x509.load_pem_x509_certificate((folder / AUTHORITY).read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise IdentityError(f"cannot read the certificate authority in {folder}: {error}.") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise IdentityError(f"{AUTHORITY_KEY} and {AUTHORITY} in {folder} are of two authorities.")
        return cls(folder, certificate, key)

    @property
    def der(self) -> bytes:
        """The certificate of the authority, in binary."""
        return self._certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        """The certificate of the authority, which nodes trust."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def not_after(self) -> float:
        """The end of the authority's own certificate, in seconds since 1970."""
        return self._certificate.not_valid_after_utc.timestamp()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the registry."""
        self.registry.close()

    def sign(self, request: CertificateRequest) -> NodeCertificate:
        """A certificate that is not yet in the registry, and so is not yet admitted.

        Raises:
            IdentityError: if the name is in use with another key, or the authority has expired.
        """
        self.registry.check_key(request.name, request.signing_key)
        return sign_certificate(request, self._certificate, self._key)

    def issue(self, name: str, out: str | Path, hosts: tuple[str, ...] = (), days: float = 365.0) -> NodeIdentity:
        """A new identity in a folder, with keys made here; in the folder of the node's old one, a new certificate.

        hosts: names and addresses under which the node serves; none for a client, and at a renewal those that it has.

        Raises:
            IdentityError: if the folder holds another node, or the name is in use with another key.
        """
        out = Path(out)
        keys = node_keys(out, name)
        if not hosts and (out / CERTIFICATE).exists():
            hosts = NodeIdentity.load(out).facts.hosts
        request = CertificateRequest(name, keys[0].public_key(), public_hex(keys[1]), hosts, days)
        certificate = self.sign(request)
        write_identity(out, keys, certificate, self.pem)
        self.registry.add(certificate)
        return NodeIdentity.load(out)


NodeKeys = tuple[ec.EllipticCurvePrivateKey, Ed25519PrivateKey]


def node_keys(folder: Path, name: str | None) -> NodeKeys:
    """The keys of the identity in a folder, or new ones where there is none.

    name: that the identity must have; `None` for any.

    Raises:
        IdentityError: if the folder holds another node or an authority.
    """
    if (folder / AUTHORITY_KEY).exists():
        raise IdentityError(f"{folder} holds a certificate authority: name another folder for the node.")
    if (folder / CERTIFICATE).exists():
        identity = NodeIdentity.load(folder)
        if name not in (None, identity.name):
            raise IdentityError(f"{folder} holds the identity of {identity.name!r}: name another folder for {name!r}.")
    elif not (folder / TLS_KEY).exists() or not (folder / SIGNING_KEY).exists():
        return ec.generate_private_key(ec.SECP256R1()), Ed25519PrivateKey.generate()
    tls = serialization.load_pem_private_key(read_private(folder / TLS_KEY), None)
    signing = serialization.load_pem_private_key(read_private(folder / SIGNING_KEY), None)
    if not isinstance(tls, ec.EllipticCurvePrivateKey) or not isinstance(signing, Ed25519PrivateKey):
        raise IdentityError(f"the keys in {folder} are not those of a node: name another folder.")
    return tls, signing


def write_keys(folder: Path, keys: NodeKeys) -> None:
    """Writes the keys of a node; they are an identity when a certificate is added.

    Raises:
        IdentityError: if the folder cannot be written.
    """
    make_folder(folder)
    write_private(folder / TLS_KEY, private_pem(keys[0]))
    write_private(folder / SIGNING_KEY, private_pem(keys[1]))


def write_identity(folder: Path, keys: NodeKeys, certificate: NodeCertificate, authority: bytes) -> None:
    """Writes an identity folder; the certificate last, so that a folder with one is whole.

    Raises:
        IdentityError: if the folder cannot be written.
    """
    write_keys(folder, keys)
    write_public(folder / AUTHORITY, authority)
    write_public(folder / CERTIFICATE, certificate.pem)
