"""Hashes of counters: random numbers of which each is a function of where it stands, for many streams at once.

They are good for simulation and training, and keep no secret.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15
SHIFTS, FACTORS = (30, 27), (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
LAST = 31
_MASK = 2**64 - 1


def mix(z: Tensor) -> Tensor:
    """In place, `z <- (z ^ (z >> s)) f` for each shift and factor; shifts are logical, products mod 2^64.

    It is SplitMix64's output function without its last exclusive or, which reaches only the lower 33 bits.

    Reference: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, as in Vigna's
    splitmix64.
    """
    for shift, factor in zip(SHIFTS, FACTORS, strict=True):
        z.bitwise_xor_(_shifted(z, shift)).mul_(signed(factor))
    return z


def mixed(z: Tensor) -> Tensor:
    """In place, all of SplitMix64's output function, of int64 of any shape."""
    return mix(z).bitwise_xor_(_shifted(z, LAST))


def mixed_number(z: int) -> int:
    """The same of one number in 0..2^64-1."""
    for shift, factor in zip(SHIFTS, FACTORS, strict=True):
        z = (z ^ (z >> shift)) * factor & _MASK
    return z ^ (z >> LAST)


def streams(starts: Tensor, count: int) -> Tensor:
    """`count` uniform 63-bit integers of each stream, int64 `[..., count]`: SplitMix64 from these states `[...]`.

    >>> streams(torch.tensor(1234567), 2).tolist() == [6457827717110365317 >> 1, 3203168211198807973 >> 1]
    True
    """
    counters = torch.arange(1, count + 1).mul_(signed(GAMMA)) + starts.unsqueeze(-1)
    return _shifted(mixed(counters), 1)


def stream(start: int, count: int) -> Tensor:
    """The same of one stream, int64 `[count]`."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GAMMA) + np.uint64(start)
    for shift, factor in zip(SHIFTS, FACTORS, strict=True):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return torch.from_numpy(((z ^ (z >> np.uint64(LAST))) >> np.uint64(1)).view(np.int64))


def number_of(name: str | int) -> int:
    """64 bits of a name; names of up to eight bytes have different ones if they are of one length."""
    raw = str(name).encode()
    number = len(raw)
    for place in range(0, len(raw), 8):
        number = mixed_number(number + int.from_bytes(raw[place : place + 8], "little") & _MASK)
    return number


def numbers_of(names: Sequence[str | int]) -> Tensor:
    """`number_of` many names, int64 `[C]`."""
    raw = [str(name).encode() for name in names]
    lengths = torch.tensor([len(each) for each in raw], dtype=torch.int64)
    if not bool(lengths.any()):
        return lengths
    width = -(-int(lengths.max()) // 8)
    padded = bytearray().join([each.ljust(8 * width, b"\0") for each in raw])
    words = torch.frombuffer(padded, dtype=torch.int64).view(len(raw), width)
    numbers = lengths
    for place, word in enumerate(words.unbind(1)):
        numbers = torch.where(lengths > 8 * place, mixed(numbers + word), numbers)
    return numbers


def power(base: int, exponent: int) -> int:
    """base^exponent mod 2^64, as torch holds it."""
    return signed(base**exponent)


def signed(number: int) -> int:
    """The int64 with these 64 bits."""
    return (number + 2**63) % 2**64 - 2**63


def _shifted(z: Tensor, shift: int) -> Tensor:
    """`z >> shift`, with zeros coming in."""
    return (z >> shift).bitwise_and_((1 << 64 - shift) - 1)
