"""The outcome of training a batch of clients, and the two ways in which that may come to nothing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


class OutOfDeviceMemory(Exception):
    """A batch does not fit in memory; nothing of it has been counted."""


class CannotTrain(Exception):
    """An executor cannot train a batch; nothing of it has been counted.

    reason: a phrase; `None` where another executor was to be expected, so that no fallback is recorded.
    blames_client: whether the clients train one at a time so that the one at fault is named.
    """

    def __init__(self, reason: str | None, blames_client: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.blames_client = reason, blames_client


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The figures that the reports on a counted batch need, `[C]` each; bytes_up: what each client sends."""

    steps: Tensor
    losses: Tensor
    weights: Tensor
    norms: Tensor
    bytes_up: int
