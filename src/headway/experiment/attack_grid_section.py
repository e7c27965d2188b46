"""The table [attack_grid] of a run file: what `headway attack` runs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MEAN, NO_ATTACK = "Mean", "none"
RULES = (
    *(MEAN, "Median", "TrimmedMean", "Krum", "MultiKrum", "GeometricMedian", "CentredClipping"),
    *("MeanAroundMedian", "MinimumDiameter", "Bulyan"),
    *("NNM+Median", "NNM+Krum", "NNM+GeometricMedian", "AdaptiveRobustClipping+NNM+Krum"),
)
ATTACKS = (NO_ATTACK, "SignFlip", "LabelFlip", "ALIE", "InnerProduct", "FallOfEmpires", "Mimic", "Backdoor")


class AttackGridSection(BaseModel):
    """A grid of rules, attacks, partitions and kinds of clients; the command's options go before it.

    rules: "Krum", "NNM+Krum" with a rule before another, or "NormBound:norm=2" with numbers.  attacks: "none", "ALIE",
    or "Backdoor:boost=1" with numbers.  partitions: "iid", or "shards:per_client=1" with numbers; by default the file's
    own.  clients: kinds of clients by name, each with the stages that stand before those of the file's chain; by
    default the file's own.  attackers: how many attack; by default a fifth of all.  from_round: the first round in
    which they attack, from 1.  knows: whose updates they know.  seeds: of each run.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    rules: list[str] = Field(default_factory=lambda: list(RULES), min_length=1)
    attacks: list[str] = Field(default_factory=lambda: list(ATTACKS), min_length=1)
    partitions: list[str] = Field(default_factory=list)
    clients: dict[str, list[dict[str, Any]]] = Field(default_factory=dict)
    attackers: int | None = Field(default=None, ge=1)
    from_round: int = Field(default=1, ge=1)
    knows: Literal["attackers", "everyone"] = "everyone"
    seeds: int = Field(default=1, ge=1)
