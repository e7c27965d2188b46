"""The identity of an agent in a protocol: its own signatures, and those of the others by their certificates."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from headway.federation.identity.certificates import read_certificate
from headway.federation.identity.node_identity import NodeIdentity, check_dates, issued_by
from headway.federation.identity.private_files import IdentityError


class NodeSigner:
    """Signs with the Ed25519 key of a node, and knows the others by certificates of its own authority.

    A certificate comes through the server, and is checked here: it must be issued by the authority that this node
    trusts, be valid now, and be of the name that signs.  So a server without the authority's key can insert no client.

    fetch: the certificates of the clients that have joined, DER in base64, by name.
    """

    def __init__(self, identity: NodeIdentity, fetch: Callable[[], Mapping[str, str]]) -> None:
        self.identity, self._fetch = identity, fetch
        self._keys: dict[str, Ed25519PublicKey] = {}

    def sign(self, data: bytes) -> bytes:
        """The node's signature of data, 64 bytes."""
        return bytes.fromhex(self.identity.sign(data))

    def verify(self, name: str, data: bytes, signature: bytes) -> bool:
        """Whether the signature of data is that of the node of this name."""
        key = self._keys.get(name) or self._fetched(name)
        if key is None:
            return False
        try:
            key.verify(signature, data)
        except InvalidSignature:
            return False
        return True

    def _fetched(self, name: str) -> Ed25519PublicKey | None:
        """The key of a node whose certificate was not there; with it those of all others."""
        for each, certificate in self._fetch().items():
            if each not in self._keys and (key := self._key(each, certificate)) is not None:
                self._keys[each] = key
        return self._keys.get(name)

    def _key(self, name: str, certificate: str) -> Ed25519PublicKey | None:
        """The key in a certificate; `None` for one of another name or authority, or out of its dates."""
        try:
            facts = read_certificate(base64.b64decode(certificate, validate=True))
            check_dates(facts, f"the certificate of {name!r}")
            known = facts.name == name and issued_by(facts, self.identity.authority)
            return Ed25519PublicKey.from_public_bytes(bytes.fromhex(facts.key)) if known else None
        except (IdentityError, binascii.Error, ValueError):
            return None
