"""The identities of clients in a simulation: Ed25519 keys that are derived from the run's key."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from headway.numerics.keys import Key

PUBLIC_KEYS = 1 << 16  # that are remembered


@dataclass(frozen=True, slots=True)
class DerivedSigner:
    """The identity of one simulated client, which knows the others' public keys by deriving them too.

    key: from which all identities of the run are derived; a deployment has keys in files instead.

    >>> one = DerivedSigner("a", Key.root(7))
    >>> one.verify("a", b"data", one.sign(b"data")), one.verify("b", b"data", one.sign(b"data"))
    (True, False)
    """

    name: str
    key: Key

    def sign(self, data: bytes) -> bytes:
        """The client's signature of data, 64 bytes."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(_seed(self.key, self.name)).sign(data)

    def verify(self, name: str, data: bytes, signature: bytes) -> bool:
        """Whether the signature of data is that of the client of this name."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(_public(self.key, name)).verify(signature, data)
        except InvalidSignature:
            return False
        return True


def _seed(key: Key, name: str) -> bytes:
    return key.derive("identity", name).secret


@lru_cache(maxsize=PUBLIC_KEYS)
def _public(key: Key, name: str) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(_seed(key, name)).public_key().public_bytes_raw()
