"""Randomness as an argument: a key per (run seed, round, client, stage, purpose), derived by hashing.

A draw is a pure function of its key, so it does not depend on the order of clients, on threads, on the
version of a generator, or on anything drawn before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import overload

import torch
from torch import Tensor

Part = str | int


def _encode(part: Part) -> bytes:
    """Unambiguous bytes of one part: its kind, its length, itself."""
    body = str(part).encode()
    number = type(part) is not str and isinstance(part, Integral)  # NumPy's integers are integers too
    kind = b"i" if number else b"s"
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
        return Key(_child(self.secret, b"".join(map(_encode, parts))))

    def for_each(self, *parts: Part, names: Sequence[Part]) -> Keys:
        """The keys `derive(*parts, name)` of many names."""
        return Keys(lambda: _children(self.secret, b"".join(map(_encode, parts)), names), len(names))

    def seed(self) -> int:
        """A 63-bit integer, for a library that must be seeded."""
        return int.from_bytes(self.secret[:8], "little") >> 1

    def bits(self, count: int) -> Tensor:
        """`count` uniform 63-bit integers, int64 `[count]`."""
        if count == 0:
            return torch.empty(0, dtype=torch.int64)
        return _bits(bytearray(hashlib.shake_128(self.secret).digest(8 * count)))

    def permutation(self, count: int) -> Tensor:
        """A uniform permutation of `0..count-1`, int64 `[count]`."""
        return torch.argsort(self.bits(count), stable=True)

    def uniform(self, count: int) -> Tensor:
        """`count` uniform numbers in [0, 1), float64 `[count]`."""
        return (self.bits(count) >> 10).double() / 2.0**53

    def integers(self, low: int, high: int, count: int) -> Tensor:
        """`count` uniform integers in `low..high` (both included), int64 `[count]`."""
        return low + self.bits(count) % (high - low + 1)


class Keys(Sequence[Key]):
    """Many keys, derived when one of them is looked at: what nobody draws from costs nothing.

    >>> keys = Key.root(7).for_each("client", 3, names=("a", "b"))
    >>> keys[1] == Key.root(7).derive("client", 3, "b"), keys.derive("x")[0] == keys[0].derive("x")
    (True, True)
    """

    def __init__(self, make: Callable[[], list[bytes]], count: int) -> None:
        self._make, self._count = make, count
        self._known: list[bytes] | None = None

    @classmethod
    def of(cls, keys: Sequence[Key]) -> Keys:
        """These keys."""
        return cls(lambda: [key.secret for key in keys], len(keys))

    def secrets(self) -> list[bytes]:
        """All keys as bytes."""
        if self._known is None:
            self._known = self._make()
        return self._known

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Key: ...

    @overload
    def __getitem__(self, index: slice) -> Keys: ...

    def __getitem__(self, index: int | slice) -> Key | Keys:
        if isinstance(index, slice):
            return Keys(lambda: self.secrets()[index], len(range(*index.indices(self._count))))
        return Key(self.secrets()[index])

    def chosen(self, index: Sequence[int]) -> Keys:
        """The keys at these places, in this order."""
        return Keys(lambda: [self.secrets()[i] for i in index], len(index))

    def derive(self, *parts: Part) -> Keys:
        """The child of each key."""
        data = b"".join(map(_encode, parts))
        return Keys(lambda: [_child(secret, data) for secret in self.secrets()], self._count)

    def permutations(self, counts: Tensor) -> Tensor:
        """Each key's `permutation` of its count, int64 `[C, n]`, n being the largest of the counts `[C]`.

        What follows a row's own permutation is padding: the places after it, in order.
        """
        lengths = [8 * count for count in counts.tolist()]
        longest = max(lengths, default=0)
        drawn = (
            hashlib.shake_128(secret).digest(length).ljust(longest, b"\xff")  # sorts after all that is drawn
            for secret, length in zip(self.secrets(), lengths, strict=True)
        )
        stream = bytearray().join(drawn)
        if not stream:
            return torch.empty(len(lengths), 0, dtype=torch.int64)
        return torch.argsort(_bits(stream).view(len(lengths), -1), dim=1, stable=True)


def _bits(stream: bytearray) -> Tensor:
    """The 63-bit integers of a stream that is not empty, int64 `[n]`."""
    return torch.frombuffer(stream, dtype=torch.int64) & 0x7FFF_FFFF_FFFF_FFFF


def _child(secret: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32, key=secret, person=b"headway-derive").digest()


def _children(secret: bytes, data: bytes, names: Sequence[Part]) -> list[bytes]:
    """The children by `data` and a name each; what they have in common is hashed once."""
    start = hashlib.blake2b(data, digest_size=32, key=secret, person=b"headway-derive")
    children = []
    for name in names:
        own = start.copy()
        own.update(_encode(name))
        children.append(own.digest())
    return children
