"""The table [attack] of a run file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from headway.attacks import Attack, AttackedEngine, AttackPlan
from headway.core.errors import ConfigError
from headway.engines.engine import Engine
from headway.engines.planned_engine import PlannedEngine


class AttackSection(BaseModel):
    """An attack in a simulation: its name and numbers, which clients attack, from which round, and what they know.

    clients: their names; or how many of all, the last by name but for one that holds the server's own data.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    attack: str
    clients: int | list[str] = Field(default=1)
    from_round: int = Field(default=1, ge=1)
    knows: Literal["attackers", "everyone"] = "attackers"

    def plan(self) -> AttackPlan:
        """The plan.

        Raises:
            ConfigError: for an unknown attack or number, or one out of range.
        """
        numbers: dict[str, Any] = {"attack": self.attack, **(self.model_extra or {})}
        attack = Attack.registry.build(numbers)
        if isinstance(self.clients, int):
            return AttackPlan(attack, count=self.clients, from_round=self.from_round, knows=self.knows)
        return AttackPlan(attack, tuple(self.clients), from_round=self.from_round, knows=self.knows)

    def engine(self, inner: Engine, clock: bool) -> Engine:
        """An engine some of whose clients attack.

        Raises:
            ConfigError: with a simulated clock, or on an engine whose updates cannot be replaced.
        """
        if clock or not isinstance(inner, PlannedEngine):
            raise ConfigError(
                "the run file has an [attack], which needs clients in this process or in workers, found "
                f"{'a simulated clock' if clock else inner.facts.name}: leave one of them out."
            )
        return AttackedEngine(inner, self.plan())
