"""Integers of few bits as bytes, without gaps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

AT_A_TIME = 1 << 16  # integers whose single bits are made at a time: a multiple of 8, so that parts end with a byte


def packed_length(count: int, bits: int) -> int:
    """How many bytes so many integers take."""
    return (count * bits + 7) // 8


def pack(codes: Tensor, bits: int) -> Tensor:
    """The bytes of integers in `[0, 2^bits)`, the lowest bit of the first one first, uint8 `[packed_length]`.

    >>> pack(torch.tensor([1, 2, 3]), 4).tolist()
    [33, 3]
    """
    places = np.arange(bits, dtype=np.int64)
    numbers = codes.detach().cpu().to(torch.int64).reshape(-1).numpy()
    parts = [
        np.packbits((numbers[start : start + AT_A_TIME, None] >> places & 1).astype(np.uint8), bitorder="little")
        for start in range(0, len(numbers), AT_A_TIME)
    ]
    return torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0, dtype=torch.uint8)


def unpack(raw: Tensor, bits: int, count: int) -> Tensor:
    """The integers that `pack` has packed, int64 `[count]`.

    >>> unpack(pack(torch.tensor([1, 2, 3]), 20), 20, 3).tolist()
    [1, 2, 3]
    """
    places = np.arange(bits, dtype=np.int64)
    numbers = np.empty(count, dtype=np.int64)
    step = AT_A_TIME * bits // 8
    for place, start in enumerate(range(0, count, AT_A_TIME)):
        held = min(AT_A_TIME, count - start)
        part = np.unpackbits(raw[place * step : (place + 1) * step].numpy(), count=held * bits, bitorder="little")
        numbers[start : start + held] = (part.reshape(held, bits).astype(np.int64) << places).sum(1)
    return torch.from_numpy(numbers)
