"""Memory that worker processes and their parent both see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from headway.client_state.shared_memory import shared_array
from headway.core.update import unflat_names
from headway.numerics.exact_sum import ExactSum
from headway.protocol.messages import Message

BINS = 8  # of an exact sum: 256 bits of exponent, more than float32 has; the parent makes a sum with more itself


def shared(shape: tuple[int, ...], number: torch.dtype) -> Tensor:
    """A tensor of zeros that processes forked later see as the same memory; untouched, it costs nothing."""
    held = torch.from_numpy(shared_array((prod(shape) * number.itemsize,), np.uint8))
    return held.view(number).view(shape)


class Broadcast:
    """A message, written once by the parent and read by every worker.  written: which, in the parent."""

    def __init__(self, message: Message) -> None:
        self.tensors = {name: shared(tuple(t.shape), t.dtype) for name, t in message.tensors().items()}
        self.written: Message | None = None

    def fits(self, message: Message) -> bool:
        """Whether the message has the same tensors as the one that this was made for."""
        named = message.tensors()
        return named.keys() == self.tensors.keys() and all(
            t.shape == self.tensors[name].shape and t.dtype == self.tensors[name].dtype for name, t in named.items()
        )

    def write(self, message: Message) -> None:
        """Makes this the message."""
        for name, tensor in message.tensors().items():
            self.tensors[name].copy_(tensor)
        self.written = message

    def message(self) -> Message:
        """The message as it is now, without copying."""
        params, buffers, stages = unflat_names(self.tensors)
        return Message(params, stages, buffers)


class Sums:
    """The exact sums that one worker has made in a round, where the parent can read them."""

    def __init__(self, lengths: Mapping[str, int]) -> None:
        self.rows = {name: shared((BINS, length), torch.float64) for name, length in lengths.items()}

    def write(self, sums: Mapping[str, ExactSum]) -> dict[str, tuple[list[int], int]] | None:
        """Writes the bins; which these are and of how many terms, by name, or `None` if there are too many."""
        if any(len(held.bins) > BINS for held in sums.values()):
            return None
        written = {}
        for name, held in sums.items():
            for row, part in zip(self.rows[name], held.bins.values(), strict=False):
                row.copy_(part)
            written[name] = (list(held.bins), held.terms)
        return written

    def write_integers(self, integers: Mapping[str, Tensor]) -> list[str]:
        """Writes sums of integers, in the memory of a bin each; their names."""
        for name, vector in integers.items():
            self.rows[name][0].view(torch.int64).copy_(vector)
        return list(integers)

    def read_integers(self, written: Sequence[str]) -> dict[str, Tensor]:
        """The sums of integers, as views of what was written."""
        return {name: self.rows[name][0].view(torch.int64) for name in written}

    def read(self, written: Mapping[str, tuple[list[int], int]]) -> dict[str, ExactSum]:
        """The sums, as views of what was written."""
        return {
            name: ExactSum(dict(zip(bins, self.rows[name], strict=False)), terms)
            for name, (bins, terms) in written.items()
        }
