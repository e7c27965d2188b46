"""The plan of how clients are trained, which is part of what fixes a run's bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ExecutionPlan:
    """The way in which clients are trained; the numbers of any two plans agree to rounding.

    lanes: how many clients make a batch.  low_rank: whether a batch's large linear layers are never written, where
        training and the chain allow it; `None`: where the model has no other layers.  channels_last: whether images
        lie in memory with their channels side by side.  compiled: whether gradients come through `torch.compile`;
        of batches in low-rank form they do not.
    """

    lanes: int = 1
    low_rank: bool | None = None
    channels_last: bool = False
    compiled: bool = False

    @property
    def pinned_settings(self) -> dict[str, Any]:
        """The settings that differ from one client at a time, as they are recorded."""
        known: dict[str, Any] = {} if self.lanes == 1 else {"lanes": self.lanes}
        if self.low_rank is not None and self.lanes > 1:
            known["low_rank"] = self.low_rank
        return known | {name: True for name in ("channels_last", "compiled") if getattr(self, name)}

    @classmethod
    def of(cls, decided: Mapping[str, Any]) -> ExecutionPlan:
        """The plan that was recorded."""
        low_rank = decided.get("low_rank")
        return cls(
            int(decided.get("lanes", 1)),
            None if low_rank is None else bool(low_rank),
            bool(decided.get("channels_last", False)),
            bool(decided.get("compiled", False)),
        )

    @property
    def summary(self) -> str:
        """The plan in a phrase."""
        if self.lanes == 1:
            text = "clients one at a time"
        elif self.low_rank:
            text = f"batches of {self.lanes} clients, their linear layers in low-rank form"
        else:
            text = f"{self.lanes} clients side by side"
        return text + ", channels last" * self.channels_last + ", compiled" * self.compiled


@dataclass(frozen=True, slots=True)
class PlanConstraints:
    """The given parts of a plan whose lanes are measured; a part that is `None` is measured too."""

    low_rank: bool | None = None
    channels_last: bool | None = None
    compiled: bool | None = None
