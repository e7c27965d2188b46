"""Keys that two clients have in common: X25519, and HKDF-SHA256 that binds them to what they are for."""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY, TAG = 32, 16  # bytes of a key, and of an authentication tag
_NONCE = bytes(12)  # a channel's key seals one message only


class PrivateKey:
    """An X25519 key of 32 private bytes."""

    def __init__(self, private: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(private)

    @property
    def public(self) -> bytes:
        """Its public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def agreed(self, public: bytes) -> bytes:
        """The secret that it has in common with another's public key.

        Raises:
            ValueError: for a public key of low order, whose secret anybody would know.
        """
        return self._key.exchange(X25519PublicKey.from_public_bytes(public))


def derived(secret: bytes, salt: bytes, *info: bytes) -> bytes:
    """HKDF-SHA256 of a secret: 32 bytes that are good for what `info` says, in the context that `salt` digests."""
    return hkdf(secret, salt, joined(*info))


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869), 32 bytes."""
    return HKDF(hashes.SHA256(), KEY, salt, info).derive(secret)


def joined(*parts: bytes) -> bytes:
    """Parts as bytes from which they can be told apart: each behind its length."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def digest(purpose: str, *parts: bytes) -> bytes:
    """The SHA-256 digest of parts, for one purpose."""
    return hashlib.sha256(joined(b"headway secure sum 1", purpose.encode(), *parts)).digest()


def sealed(key: bytes, plain: bytes, about: bytes) -> bytes:
    """AES-256-GCM of the one message of a key, bound to what it is about: 16 bytes longer."""
    return AESGCM(key).encrypt(_NONCE, plain, about)


def opened(key: bytes, message: bytes, about: bytes) -> bytes | None:
    """The message that was sealed; `None` if it is another one, or is about something else."""
    try:
        return AESGCM(key).decrypt(_NONCE, message, about)
    except InvalidTag:
        return None
