"""Random numbers from a cryptographic generator: uniform, Gaussian, and the exact discrete Gaussian distribution.

Noise that hides a client must not be predictable from other noise, so it is drawn from AES-256 in counter mode and not
from a simulation's generator.  Every draw is a pure function of the 256-bit key and of what was drawn before it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.numerics.keys import Key, Keys

AT_A_TIME = 1 << 18  # numbers that are made together, which bounds the memory
SINGLES = 1 << 15  # the same of numbers in single precision, of one or several keys
LARGEST_SCALE = 1 << 25  # of the discrete Gaussian distribution: squares of what is drawn then fit in 63 bits
LARGEST_MULTIPLE = (
    64  # of the scale that the discrete Laplace distribution is followed to; what lies beyond has e^-2000
)

Words = NDArray[np.uint64]


class SecureStream:
    """A stream of random bits: AES-256 in counter mode under a key, from a counter of 0.

    A key with an owner is first hashed together with it (BLAKE2b), so that each client has a stream of its own.  A
    key is for one stream: draw two things from one stream, or derive a key for each.

    Reference: NIST SP 800-38A, section 6.5.

    >>> stream = SecureStream(Key(bytes(range(32))))
    >>> stream.words(2).view("<u4").tolist()
    [3053490418, 3500099882, 1788539817, 2155294429]
    """

    def __init__(self, key: Key) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        secret = key.secret
        if key.owner is not None:
            owner = key.owner.to_bytes(8, "little")
            secret = hashlib.blake2b(owner, digest_size=32, key=secret, person=b"headway-stream").digest()
        self._cipher: Any = Cipher(algorithms.AES256(secret), modes.CTR(bytes(16))).encryptor()

    def bytes(self, count: int) -> NDArray[np.uint8]:
        """The next `count` bytes."""
        drawn = np.empty(count + 15, dtype=np.uint8)  # the cipher wants room for one more block
        self._cipher.update_into(bytes(count), drawn)
        return drawn[:count]

    def words(self, count: int) -> Words:
        """The next `count` uniform 64-bit words."""
        return self.bytes(8 * count).view("<u8")

    def uniform(self, count: int) -> Tensor:
        """`count` uniform multiples of 2^-53 in [0, 1), float64 `[count]`."""
        return torch.from_numpy((self.words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53)

    def gaussian(self, count: int) -> Tensor:
        """`count` numbers of the standard normal distribution, float64 `[count]`.

        Formula: `sqrt(-2 ln u) (cos 2 pi v, sin 2 pi v)` of uniform u in (0, 1], of 64 bits, and v in [0, 1), of 53.
        The distribution ends at 9.4.  Which floating-point numbers come out depends on rounding, so a release of
        `value + noise` may reveal the value in its lowest bits (arXiv 2107.10138) unless both are rounded to one grid
        first, as `stages.privacy` does.

        Reference: Box and Muller, 1958.
        """
        parts = [_normal(self.words(length)) for length in _lengths(count)]
        return torch.cat(parts)[:count] if parts else torch.empty(0, dtype=torch.float64)

    def below(self, limit: int, count: int) -> NDArray[np.int64]:
        """`count` uniform integers in `0..limit-1`, for a limit of at most 2^62: exactly uniform, by rejection."""
        assert 1 <= limit <= 1 << 62
        width = np.uint64(64 - max(1, (limit - 1).bit_length()))
        drawn = (self.words(count) >> width).view(np.int64)
        while len(wrong := np.flatnonzero(drawn >= limit)):
            drawn[wrong] = (self.words(len(wrong)) >> width).view(np.int64)
        return drawn

    def bits(self, count: int) -> NDArray[np.bool_]:
        """`count` fair coins."""
        coins = np.unpackbits(self.bytes((count + 7) // 8))[:count]
        return coins.view(np.bool_)

    def discrete_laplace(self, scale: int, count: int) -> NDArray[np.int64]:
        """`count` integers x with probability proportional to `exp(-|x| / scale)`, exactly.

        Reference: Canonne, Kamath and Steinke, arXiv 2004.00010, Algorithm 2, for a whole scale.
        """
        drawn = np.empty(count, dtype=np.int64)
        left = np.arange(count)
        while len(left):
            remainder = self.below(scale, len(left))
            kept = self._exponential(remainder, scale)
            multiple = self._geometric(len(left))
            negative = self.bits(len(left))
            size = remainder + scale * multiple
            kept &= ~(negative & (size == 0))
            drawn[left[kept]] = np.where(negative, -size, size)[kept]
            left = left[~kept]
        return drawn

    def discrete_gaussian(self, scale: int, count: int) -> Tensor:
        """`count` integers x with probability proportional to `exp(-x^2 / (2 scale^2))`, int64 `[count]`.

        Exact: only whole numbers are compared with uniform whole numbers, and no exponential is computed.  (What lies
        beyond 64 scales, which has a probability below e^-2000, is not drawn.)

        Reference: Canonne, Kamath and Steinke, arXiv 2004.00010, Algorithm 3, with t = scale.
        """
        assert 1 <= scale <= LARGEST_SCALE
        parts = [self._discrete_gaussian(scale, min(AT_A_TIME, count - start)) for start in range(0, count, AT_A_TIME)]
        return torch.from_numpy(np.concatenate(parts) if parts else np.empty(0, dtype=np.int64))

    def _discrete_gaussian(self, scale: int, count: int) -> NDArray[np.int64]:
        drawn = np.empty(count, dtype=np.int64)
        left = np.arange(count)
        while len(left):
            tried = self.discrete_laplace(scale, len(left))
            excess = (np.abs(tried) - scale) ** 2
            whole, part = np.divmod(excess, 2 * scale * scale)  # the acceptance is exp(-excess / (2 scale^2))
            kept = self._exponential(part, 2 * scale * scale)
            candidates = np.flatnonzero(kept)
            kept[candidates] = self._geometric(len(candidates)) >= whole[candidates]  # P(V >= n) = e^-n
            drawn[left[kept]] = tried[kept]
            left = left[~kept]
        return drawn

    def _exponential(self, numerators: NDArray[np.int64], denominator: int) -> NDArray[np.bool_]:
        """Coins that show True with probability `exp(-numerator / denominator)`, for numerators in `0..denominator`.

        Reference: Canonne, Kamath and Steinke, arXiv 2004.00010, Algorithm 1: K counts the coins of probability gamma /
        1, gamma / 2, gamma / 3, ... that show True in a row, and the result is whether K is even.
        """
        even = np.ones(len(numerators), dtype=np.bool_)
        going = np.arange(len(numerators))
        tries = 0
        while len(going):
            tries += 1
            shown = self.below(denominator, len(going)) < numerators[going]
            going = going[shown]
            if tries > 1:
                going = going[self.below(tries, len(going)) == 0]
            even[going] = tries % 2 == 0
        return even

    def _geometric(self, count: int) -> NDArray[np.int64]:
        """How many coins of probability 1/e show True before the first that does not, at most 64."""
        found = np.zeros(count, dtype=np.int64)
        going = np.arange(count)
        while len(going):
            going = going[self._exponential(np.ones(len(going), dtype=np.int64), 1)]
            found[going] += 1
            going = going[found[going] < LARGEST_MULTIPLE]
        return found


def normal(key: Key, count: int) -> Tensor:
    """The first `count` numbers of the standard normal distribution of a key's stream, float64 `[count]`."""
    return SecureStream(key).gaussian(count)


def normals(keys: Key | Keys, count: int) -> Tensor:
    """`normal` of one key `[count]`, or of each of many, float64 `[C, count]`."""
    if isinstance(keys, Key):
        return normal(keys, count)
    streams = [SecureStream(key) for key in keys.each()]
    if not streams:
        return torch.empty(0, count, dtype=torch.float64)
    parts = [_normal(np.stack([stream.words(length) for stream in streams])) for length in _lengths(count)]
    return torch.cat([torch.empty(len(streams), 0, dtype=torch.float64), *parts], dim=-1)[:, :count]


def _lengths(count: int) -> Iterator[int]:
    """How many words, an even number, make each part of so many normal numbers."""
    for start in range(0, count, AT_A_TIME):
        yield (min(AT_A_TIME, count - start) + 1) // 2 * 2


def _normal(words: Words) -> Tensor:
    """As many normal numbers as there are words, of the first half the lengths and of the second the angles."""
    half = words.shape[-1] // 2
    lengths = torch.from_numpy((words[..., :half].astype(np.float64) + 1.0) * 2.0**-64).log_().mul_(-2).sqrt_()
    angles = torch.from_numpy((words[..., half:] >> np.uint64(11)).astype(np.float64)).mul_(2 * math.pi * 2.0**-53)
    return torch.cat([lengths * angles.cos(), lengths * angles.sin()], dim=-1)


def single_normals(keys: Key | Keys, count: int, scales: float | Sequence[float] = 1.0) -> Tensor:
    """`count` numbers of the normal distribution of a key, float32 `[count]`, or of each of many `[C, count]`.

    Formula: `s sqrt(-2 ln u) (cos pi v, sin pi v)` of uniform u in (0, 1], of 62 bits, rounded to 24 significant ones,
    and v in [-1, 1), of 32.  The distribution ends at 9.3 s; lengths below 0.001 s are multiples of some 0.0003 s.
    These are other numbers than those of `normals`, at a fraction of their cost, for noise on vectors that are in
    single precision themselves.

    scales: the standard deviation s, or that of each key.
    """
    each = [keys] if isinstance(keys, Key) else keys.each()
    drawn = torch.empty(len(each), count)
    sizes = [scales] * len(each) if isinstance(scales, int | float) else scales
    for key, scale, row in zip(each, sizes, drawn, strict=True):
        stream = SecureStream(key)
        for start in range(0, count, SINGLES):
            _fill_singles(stream, float(scale), row[start : start + SINGLES])
    return drawn[0] if isinstance(keys, Key) else drawn


def _fill_singles(stream: SecureStream, scale: float, room: Tensor) -> None:
    """Writes the next numbers of a stream."""
    count = len(room)
    half = (count + 1) // 2
    high, low, turn = torch.from_numpy(stream.bytes(12 * half).view(np.int32)).view(3, half).unbind()
    lengths, angles, along = torch.empty(3, half).unbind()
    lengths.copy_(high.bitwise_and_(0x7FFF_FFFF)).mul_(2.0**-31)
    lengths.add_(angles.copy_(low.bitwise_and_(0x7FFF_FFFF)).add_(1.0), alpha=2.0**-62)
    lengths.log_().mul_(-2.0 * scale * scale).sqrt_()
    angles.copy_(turn).mul_(math.pi * 2.0**-31)
    torch.mul(lengths, torch.cos(angles, out=along), out=room[:half])
    torch.mul(lengths[: count - half], angles.sin_()[: count - half], out=room[half:])
