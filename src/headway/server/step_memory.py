"""The main memory that the server's state and step may take: larger vectors lie in files, a step is made in blocks of
columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headway.core.algorithm import State
from headway.core.context import slice_tensors
from headway.server.vector_files import VectorFiles, columns_within


@dataclass(frozen=True)
class StepMemory:
    """Main memory for the server's state and its step, and files for the vectors of a state that takes more.

    limit: bytes of main memory, half for two states (that before a round and that after it), half for numbers in work.

    Raises:
        RunFolderError: from both methods, if the disk refuses.
    """

    limit: float
    files: VectorFiles

    def kept(self, state: State) -> State:
        """The same state in this memory."""
        if not self._beyond(state):
            return replace(state, memory=self)
        moved = {
            name: self.files.vector(len(held), held.dtype).copy_(held) if held.shape == state.params.shape else held
            for name, held in state.tensors().items()
        }
        return replace(State.from_tensors(state.round, moved), memory=self)

    def step(self, state: State, step: Callable[[State, int, int], State]) -> State:
        """The state after a step that computes each column from that column alone.

        step: of the columns of the state from one to another.
        """
        size, before, columns = len(state.params), state.tensors(), columns_within(self.limit / 2)
        make: Callable[..., Tensor] = self.files.vector if self._beyond(state) else torch.empty
        after: dict[str, Tensor] = {}
        for start in range(0, size, columns):
            stop = min(start + columns, size)
            part = State.from_tensors(state.round, slice_tensors(before, start, stop, size))
            for name, held in step(part, start, stop).tensors().items():
                if (shape := before[name].shape)[-1] != size:
                    after[name] = held
                    continue
                if name not in after:
                    after[name] = make(shape.numel(), dtype=held.dtype).reshape(shape)
                after[name][..., start:stop] = held
        return replace(State.from_tensors(state.round + 1, after), memory=self)

    def _beyond(self, state: State) -> bool:
        """Whether two such states take more main memory than there is for them."""
        return 2 * sum(held.nbytes for held in state.tensors().values()) > self.limit / 2
