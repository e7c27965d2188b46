"""Integers of few bits as bytes, without gaps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[Any]
CACHE = 1 << 18  # bytes of integers that are packed at a time, so that they stay in a processor's cache


def packed_length(count: int, bits: int) -> int:
    """How many bytes so many integers take."""
    return (count * bits + 7) // 8


def pack(codes: Tensor, bits: int) -> Tensor:
    """The bytes of integers in `[0, 2^bits)`, the lowest bit of the first one first, uint8 `[packed_length]`; of an
    integer with more bits, the lower ones.

    >>> pack(torch.tensor([1, 2, 3]), 4).tolist()
    [33, 3]
    """
    word, period, words, step = _plan(bits)
    numbers = codes.detach().cpu().to(torch.int64).reshape(-1).numpy().astype(word)
    length, groups = packed_length(len(numbers), bits), -(-len(numbers) // period)
    if words == period:  # a whole word for each
        return torch.from_numpy(numbers.view(np.uint8))
    packed = np.empty((groups, words), dtype=word)
    for first in range(0, groups, step):
        columns = _columns(numbers[first * period : (first + step) * period], period)
        columns &= word.type((1 << bits) - 1)
        packed[first : first + step] = _joined(columns, bits, words).T
    return torch.from_numpy(packed.reshape(-1).view(np.uint8)[:length])


def unpack(raw: Tensor, bits: int, count: int) -> Tensor:
    """The integers that `pack` has packed, int64 `[count]`.

    >>> unpack(pack(torch.tensor([1, 2, 3]), 20), 20, 3).tolist()
    [1, 2, 3]
    """
    word, period, words, step = _plan(bits)
    length, groups = packed_length(count, bits), -(-count // period)
    whole = np.zeros(groups * words * word.itemsize, dtype=np.uint8)
    whole[:length] = raw[:length].numpy()
    packed = whole.view(word)
    numbers = np.empty((groups, period), dtype=np.int64)
    for first in range(0, groups, step):
        columns = _columns(packed[first * words : (first + step) * words], words)
        numbers[first : first + step] = (columns if words == period else _parted(columns, bits, period)).T
    return torch.from_numpy(numbers.reshape(-1)[:count])


def _plan(bits: int) -> tuple[np.dtype[Any], int, int, int]:
    """The type of word to work with; after how many integers a word begins with one again, how many words that are,
    and how many such groups are packed at a time."""
    size = next(size for size in (8, 16, 32, 64) if bits <= size)
    period = size // math.gcd(bits, size)
    return np.dtype(f"<u{size // 8}"), period, period * bits // size, max(1, CACHE * 8 // size // period)


def _columns(numbers: Words, width: int) -> Words:
    """A copy of the numbers in groups of this width, filled up with zeros: `[width, groups]`."""
    if missing := -len(numbers) % width:
        numbers = np.concatenate([numbers, np.zeros(missing, dtype=numbers.dtype)])
    return np.array(numbers.reshape(-1, width).T, order="C")


def _joined(columns: Words, bits: int, words: int) -> Words:
    """The words `[words, groups]` of integers `[period, groups]`."""
    size, number = columns.itemsize * 8, columns.dtype.type
    packed, shifted = np.zeros((words, columns.shape[1]), dtype=columns.dtype), np.empty_like(columns[0])
    for place, column in enumerate(columns):
        word, shift = divmod(place * bits, size)
        packed[word] |= np.left_shift(column, number(shift), out=shifted)
        if shift + bits > size:  # the upper bits are in the next word
            packed[word + 1] |= np.right_shift(column, number(size - shift), out=shifted)
    return packed


def _parted(columns: Words, bits: int, period: int) -> Words:
    """The integers `[period, groups]` of words `[words, groups]`."""
    size, number = columns.itemsize * 8, columns.dtype.type
    parted, shifted = np.empty((period, columns.shape[1]), dtype=columns.dtype), np.empty_like(columns[0])
    for place, part in enumerate(parted):
        word, shift = divmod(place * bits, size)
        np.right_shift(columns[word], number(shift), out=part)
        if shift + bits > size:
            part |= np.left_shift(columns[word + 1], number(size - shift), out=shifted)
    parted &= number((1 << bits) - 1)
    return parted
