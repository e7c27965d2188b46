"""Randomness as an argument: a key per (run seed, round, client, stage, purpose), derived by hashing.

A draw is a pure function of its key, so it does not depend on the order of clients, on threads, on the
version of a generator, or on anything drawn before.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from numbers import Integral
from typing import overload

import torch
from torch import Tensor

from headway.numerics.counters import mixed, mixed_number, number_of, numbers_of, signed, stream, streams

Part = str | int
CACHED = 256  # children that are remembered
DRAWS = 2  # the version of what is drawn from a key: another one gives other runs


def _encode(part: Part) -> bytes:
    """Unambiguous bytes of one part: its kind, its length, itself."""
    body = str(part).encode()
    number = type(part) is not str and isinstance(part, Integral)  # NumPy's integers are integers too
    kind = b"i" if number else b"s"
    return kind + len(body).to_bytes(4, "big") + body


@dataclass(frozen=True, slots=True)
class Key:
    """A 256-bit key, from which other keys and repeatable draws are derived; one client's, if it has an owner.

    Formula: `child = BLAKE2b-256(parent, parts)`, its owner's if the parent has one.  Draws read the stream
    `SHAKE-128(key)`; of a key with an owner, whose name has the number n, SplitMix64's stream from
    `mixed(first 64 bits of the key + n)` (see `counters`), which many clients draw from at once.

    >>> root = Key.root(7)
    >>> root.derive("round", 3) == Key.root(7).derive("round", 3)
    True
    >>> root.derive("round", 3) == root.derive("round", 4)
    False
    >>> sorted(root.derive("shuffle").permutation(4).tolist())
    [0, 1, 2, 3]
    """

    secret: bytes = field(repr=False)
    owner: int | None = None

    @classmethod
    def root(cls, seed: int) -> Key:
        """The key of a whole run."""
        return cls(hashlib.blake2b(_encode(seed), digest_size=32, person=b"headway-root").digest())

    @classmethod
    def system(cls) -> Key:
        """A fresh key of the operating system's randomness, which nobody can derive again."""
        return cls(os.urandom(32))

    @classmethod
    def of(cls, seed: int | Key, purpose: str) -> Key:
        """The key itself, or that of a purpose under a run's seed."""
        return seed if isinstance(seed, Key) else cls.root(seed).derive(purpose)

    def derive(self, *parts: Part) -> Key:
        """A child key; different parts give unrelated keys."""
        return Key(_child(self.secret, *parts), self.owner)

    def owned(self, name: Part) -> Key:
        """This key for one of many, by name; all its children are that one's."""
        return Key(self.secret, number_of(name))

    def for_each(self, *parts: Part, names: Sequence[Part]) -> Keys:
        """The keys `derive(*parts).owned(name)` of many names."""
        return Keys([self.derive(*parts).secret], _Owners(names=names))

    def seed(self) -> int:
        """A 63-bit integer, for a library that must be seeded."""
        return (_head(self.secret) if self.owner is None else self._start) >> 1

    def bits(self, count: int) -> Tensor:
        """`count` uniform 63-bit integers, int64 `[count]`."""
        if self.owner is not None:
            return stream(self._start, count)
        if count == 0:
            return torch.empty(0, dtype=torch.int64)
        drawn = bytearray(hashlib.shake_128(self.secret).digest(8 * count))
        return torch.frombuffer(drawn, dtype=torch.int64) & 0x7FFF_FFFF_FFFF_FFFF

    def permutation(self, count: int) -> Tensor:
        """A uniform permutation of `0..count-1`, int64 `[count]`."""
        return torch.argsort(self.bits(count), stable=True)

    def uniform(self, count: int) -> Tensor:
        """`count` uniform numbers in [0, 1), float64 `[count]`."""
        return _unit(self.bits(count))

    def unit(self) -> float:
        """The first of the `uniform` numbers, without a tensor.

        >>> Key.root(7).unit() == float(Key.root(7).uniform(1))
        True
        """
        if self.owner is not None:
            return float(self.uniform(1))
        bits = int.from_bytes(hashlib.shake_128(self.secret).digest(8), "little") & 0x7FFF_FFFF_FFFF_FFFF
        return (bits >> 10) / 2.0**53

    def integers(self, low: int, high: int, count: int) -> Tensor:
        """`count` uniform integers in `low..high` (both included), int64 `[count]`."""
        return low + self.bits(count) % (high - low + 1)

    @property
    def _start(self) -> int:
        """The state in which an owner's stream begins."""
        assert self.owner is not None
        return mixed_number((_head(self.secret) + self.owner) % 2**64)


class _Owners:
    """The owners of many keys: the numbers of their names, found at the first draw."""

    def __init__(self, names: Sequence[Part] = (), numbers: Tensor | None = None) -> None:
        self.names = names
        if numbers is not None:
            self.numbers = numbers

    @cached_property
    def numbers(self) -> Tensor:
        """int64 `[C]`."""
        return numbers_of(self.names)

    def __len__(self) -> int:
        return len(self.names) or len(self.numbers)


class Keys(Sequence[Key]):
    """Many keys, an owner's each: what is common to them is derived once, and all draw at once.

    secrets: the different ones among them; which: the place of each key's secret, int64 `[C]`, if there are several.

    >>> keys = Key.root(7).for_each("client", 3, names=("a", "b"))
    >>> keys[1] == Key.root(7).derive("client", 3).owned("b"), keys.derive("x")[0] == keys[0].derive("x")
    (True, True)
    """

    def __init__(self, secrets: Sequence[bytes], owners: _Owners, which: Tensor | None = None) -> None:
        self._secrets, self._owners, self._which = secrets, owners, which

    @classmethod
    def of(cls, keys: Sequence[Key]) -> Keys:
        """These keys, each of which has an owner."""
        places = {secret: place for place, secret in enumerate(dict.fromkeys(key.secret for key in keys))}
        owners = torch.tensor([signed(key.owner) for key in keys if key.owner is not None], dtype=torch.int64)
        assert len(owners) == len(keys)
        return cls(list(places), _Owners(numbers=owners), torch.tensor([places[key.secret] for key in keys]))

    def __len__(self) -> int:
        return len(self._owners)

    @overload
    def __getitem__(self, index: int) -> Key: ...

    @overload
    def __getitem__(self, index: slice) -> Keys: ...

    def __getitem__(self, index: int | slice) -> Key | Keys:
        which = None if self._which is None else self._which[index]
        if isinstance(index, slice):
            return Keys(self._secrets, _Owners(numbers=self._owners.numbers[index]), which)
        return Key(self._secrets[0 if which is None else int(which)], int(self._owners.numbers[index]) % 2**64)

    def each(self) -> list[Key]:
        """The keys, one by one."""
        numbers = [number % 2**64 for number in self._owners.numbers.tolist()]
        places = [0] * len(numbers) if self._which is None else self._which.tolist()
        return [Key(self._secrets[place], number) for place, number in zip(places, numbers, strict=True)]

    def chosen(self, index: Sequence[int]) -> Keys:
        """The keys at these places, in this order."""
        places = torch.tensor(index, dtype=torch.int64)
        which = None if self._which is None else self._which[places]
        return Keys(self._secrets, _Owners(numbers=self._owners.numbers[places]), which)

    def derive(self, *parts: Part) -> Keys:
        """The child of each key."""
        return Keys([_child(secret, *parts) for secret in self._secrets], self._owners, self._which)

    def seeds(self) -> Tensor:
        """Each key's `seed`, int64 `[C]`."""
        return self._starts() >> 1 & 0x7FFF_FFFF_FFFF_FFFF

    def uniform(self, count: int) -> Tensor:
        """Each key's `uniform` numbers, float64 `[C, count]`."""
        return _unit(streams(self._starts(), count))

    def permutations(self, counts: Tensor) -> Tensor:
        """Each key's `permutation` of its count, int64 `[C, n]`, n being the largest of the counts `[C]`.

        What follows a row's own permutation is padding: the places after it, in order.
        """
        longest = int(counts.max()) if len(counts) else 0
        beyond = torch.arange(longest) >= counts.unsqueeze(1)
        bits = streams(self._starts(), longest).masked_fill_(beyond, 2**63 - 1)  # which sorts after all that is drawn
        return torch.argsort(bits, dim=1, stable=True)

    def _starts(self) -> Tensor:
        """The states in which the streams begin, int64 `[C]`."""
        heads = torch.tensor([signed(_head(secret)) for secret in self._secrets], dtype=torch.int64)
        return mixed((heads if self._which is None else heads[self._which]) + self._owners.numbers)


def _head(secret: bytes) -> int:
    """The first 64 bits."""
    return int.from_bytes(secret[:8], "little")


def _unit(bits: Tensor) -> Tensor:
    """63-bit integers as numbers in [0, 1), float64."""
    return (bits >> 10).double() / 2.0**53


@lru_cache(maxsize=CACHED, typed=True)
def _child(secret: bytes, *parts: Part) -> bytes:
    """The secret of a key's child; that of a round and a purpose is the same for all clients."""
    data = b"".join(map(_encode, parts))
    return hashlib.blake2b(data, digest_size=32, key=secret, person=b"headway-derive").digest()
