"""The share of a machine that an agent may use: threads, device, priority."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from headway.core.errors import ConfigError
from headway.model.device import Device

BELOW_NORMAL, IDLE = -1, -15  # priorities of a thread, on Windows


@dataclass(frozen=True)
class MachineLimits:
    """Limits of the training.

    threads: of the processor; `None` for torch's own number.  device: "cpu", "cuda" or "cuda:N".  nice: how much the
    training yields to other work, 0 to 19, as in the command `nice`.

    Raises:
        ConfigError: for a number out of range.
    """

    threads: int | None = None
    device: str = "cpu"
    nice: int = 0

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise ConfigError(f"threads must be from 1 to 1024, found {self.threads}.")
        if not 0 <= self.nice <= 19:
            raise ConfigError(f"nice must be from 0 (as other work) to 19 (after all other work), found {self.nice}.")

    @property
    def place(self) -> Device:
        """Where the training is.

        Raises:
            ConfigError: if there is no such device here.
        """
        return Device.named(self.device, "float32")

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, torch has the threads; the present thread has the priority from now on, where the system knows one
        for threads (Linux, Windows), else its process."""
        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.nice:
            yield_to_others(self.nice)
        try:
            yield
        finally:
            if self.threads is not None:
                torch.set_num_threads(before)


def yield_to_others(nice: int) -> None:
    """Lowers the priority of the present thread."""
    if hasattr(os, "nice"):
        os.nice(nice)
    elif sys.platform == "win32":
        kernel = ctypes.windll.kernel32
        kernel.SetThreadPriority(kernel.GetCurrentThread(), IDLE if nice >= 15 else BELOW_NORMAL)
