"""The memory of all clients under one name, as one table in shared memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headway.client_state.shared_memory import Bytes, SharedBytes, shared_array
from headway.core.errors import ConfigError


class TensorTable:
    """Two slots for each client, `[2 N, *shape]` of one dtype; which rows hold something is a flag for each.

    Row 2 i + s is slot s of client i.  Rows that were never written cost nothing.

    name: `label/name`, for errors.

    Raises:
        RunFolderError: if there is no place for it.
    """

    def __init__(
        self, name: str, shape: Sequence[int], dtype: torch.dtype, clients: int, folder: Path | None = None
    ) -> None:
        self.name, self.shape, self.dtype = name, tuple(shape), dtype
        self._numbers = math.prod(self.shape)
        self._width = self._numbers * dtype.itemsize
        size = 2 * clients * self._width
        self._bytes = SharedBytes(size, name, folder)
        self._present = shared_array((2 * clients,), bool)
        self._reserved = shared_array((2 * clients,), bool)
        whole = torch.frombuffer(self._bytes.memory, dtype=torch.uint8)[:size]
        self._rows = whole.view(self.dtype).view(2 * clients, *self.shape)

    def check(self, shape: Sequence[int], dtype: torch.dtype) -> None:
        """Refuses a tensor that is unlike the other clients' tensors.

        Raises:
            ConfigError: naming its shape and type, and theirs.
        """
        if tuple(shape) != self.shape or dtype != self.dtype:
            label = self.name.split("/", 1)[0]
            raise ConfigError(
                f"what clients keep as {self.name} must have one shape and dtype for all clients and rounds: needed "
                f"{list(self.shape)} {self.dtype}, as the first one kept; found {list(shape)} {dtype}. It is caused by "
                f"{label}: let it remember tensors of a shape that does not depend on the client."
            )

    def held(self, rows: Sequence[int]) -> list[Tensor | None]:
        """The rows themselves, not copies; `None` for one that holds nothing, or is below 0."""
        present = self._present[rows] & (np.asarray(rows) >= 0)
        return [self._rows[row] if here else None for row, here in zip(rows, present.tolist(), strict=True)]

    def put(self, row: int, tensor: Tensor) -> None:
        """Writes one row.

        Raises:
            ConfigError: if the tensor is unlike the other clients' tensors.
            RunFolderError: if the disk refuses.
        """
        if tensor.shape != self.shape or tensor.dtype != self.dtype:
            self.check(tensor.shape, tensor.dtype)
        if self._bytes.file is None:
            self._rows[row].copy_(tensor)
        else:
            self.reserve((row,))
            self._bytes.write(row * self._width, self._as_bytes(tensor, 1)[0])
        self._present[row] = True

    def reserve(self, rows: Iterable[int]) -> None:
        """Takes the space of rows, where they are in a file and have none yet.

        Raises:
            RunFolderError: if the disk is full; nothing is written then.
        """
        if self._bytes.file is None:
            return
        for row in rows:
            if not self._reserved[row]:
                self._bytes.reserve(row * self._width, self._width)
                self._reserved[row] = True

    def write(self, rows: Sequence[int], stacked: Tensor) -> None:
        """Writes rows that are reserved, from `[C, *shape]`, or `[*shape]` for one."""
        for row, data in zip(rows, self._as_bytes(stacked, len(rows)), strict=True):
            self._bytes.write(row * self._width, data)
            self._present[row] = True

    def drop(self, rows: int | Sequence[int]) -> None:
        """Rows hold nothing from now on; their space stays theirs."""
        self._present[rows] = False

    def gather(self, rows: Sequence[int], first: Tensor) -> Tensor:
        """Copies of the rows as `[C, *shape]`; `first` where the row is below 0."""
        stacked = torch.empty((len(rows), *self.shape), dtype=self.dtype)
        start = self._as_bytes(first, 1)[0]
        for row, into in zip(rows, self._as_bytes(stacked, len(rows)), strict=True):
            if row < 0:
                into[:] = start
            else:
                self._bytes.read(row * self._width, into)
        return stacked

    def _as_bytes(self, stacked: Tensor, count: int) -> Bytes:
        """The same memory, where it is contiguous, as `[C, bytes]`."""
        flat = stacked.detach().cpu().contiguous().view(count, self._numbers)
        found: Bytes = flat.view(torch.uint8).numpy()
        return found
