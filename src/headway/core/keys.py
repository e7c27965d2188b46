"""Randomness as an argument: a key per (run seed, round, client, stage, purpose), derived by hashing.

A draw is a pure function of its key, so it does not depend on the order of clients, on threads, on the
version of a generator, or on anything drawn before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from numbers import Integral

import torch
from torch import Tensor

Part = str | int


def _encode(part: Part) -> bytes:
    """Unambiguous bytes of one part: its kind, its length, itself."""
    body = str(part).encode()
    kind = b"i" if isinstance(part, Integral) else b"s"  # NumPy's integers are integers too
    return kind + len(body).to_bytes(4, "big") + body


@dataclass(frozen=True, slots=True)
class Key:
    """A 256-bit key, from which other keys and repeatable draws are derived.

    Formula: `child = BLAKE2b-256(parent, parts)`; draws read the stream `SHAKE-128(key)`.

    >>> root = Key.root(7)
    >>> root.derive("round", 3) == Key.root(7).derive("round", 3)
    True
    >>> root.derive("round", 3) == root.derive("round", 4)
    False
    >>> sorted(root.derive("shuffle").permutation(4).tolist())
    [0, 1, 2, 3]
    """

    secret: bytes = field(repr=False)

    @classmethod
    def root(cls, seed: int) -> Key:
        """The key of a whole run."""
        return cls(hashlib.blake2b(_encode(seed), digest_size=32, person=b"headway-root").digest())

    @classmethod
    def of(cls, seed: int | Key, purpose: str) -> Key:
        """The key itself, or that of a purpose under a run's seed."""
        return seed if isinstance(seed, Key) else cls.root(seed).derive(purpose)

    def derive(self, *parts: Part) -> Key:
        """A child key; different parts give unrelated keys."""
        data = b"".join(map(_encode, parts))
        return Key(hashlib.blake2b(data, digest_size=32, key=self.secret, person=b"headway-derive").digest())

    def seed(self) -> int:
        """A 63-bit integer, for a library that must be seeded."""
        return int.from_bytes(self.secret[:8], "little") >> 1

    def bits(self, count: int) -> Tensor:
        """`count` uniform 63-bit integers, int64 `[count]`."""
        if count == 0:
            return torch.empty(0, dtype=torch.int64)
        stream = bytearray(hashlib.shake_128(self.secret).digest(8 * count))
        return torch.frombuffer(stream, dtype=torch.int64) & 0x7FFF_FFFF_FFFF_FFFF

    def permutation(self, count: int) -> Tensor:
        """A uniform permutation of `0..count-1`, int64 `[count]`."""
        return torch.argsort(self.bits(count), stable=True)

    def uniform(self, count: int) -> Tensor:
        """`count` uniform numbers in [0, 1), float64 `[count]`."""
        return (self.bits(count) >> 10).double() / 2.0**53

    def integers(self, low: int, high: int, count: int) -> Tensor:
        """`count` uniform integers in `low..high` (both included), int64 `[count]`."""
        return low + self.bits(count) % (high - low + 1)
