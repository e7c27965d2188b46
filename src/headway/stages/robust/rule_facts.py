"""The facts that robust rules have in common, and the aggregate of a weighted sum of updates."""

from __future__ import annotations

from torch import Tensor

from headway.core.errors import ConfigError
from headway.core.flow import Flow
from headway.core.stage import Aggregator
from headway.core.update import Rows, Update
from headway.numerics.distances import weighted_sum


def robust_facts(flow: Flow, stage: object, attackers: int, min_updates: int, one_vector: str | bool = False) -> Flow:
    """The flow after a rule that withstands so many attackers among at least `min_updates` updates.

    A rule compares whole updates, of clients that count the same: an attacker would choose its weight.
    one_vector: why no vector may travel beside the delta, where a rule treats each number by itself.
    """
    flow.require(stage, dense=True, equal_weights="an attacker would choose its weight", one_vector=one_vector)
    buffered = 2 * attackers + 3 if flow.asynchronous else 1
    return flow.set(stage, attackers=attackers, min_updates=max(flow.min_updates, min_updates, buffered))


def combined(rows: Rows, coefficients: Tensor) -> Update:
    """The aggregate `sum_i a_i x_i` of each vector."""
    vectors = {name: weighted_sum(vector, coefficients) for name, vector in rows.vectors.items()}
    return Update(vectors, rows.weights.double().sum())


def check_rule(stage: Aggregator, then: Aggregator) -> None:
    """Refuses what is not a rule that aggregates a whole cohort and does nothing else.

    Raises:
        ConfigError: naming the stage and what was found.
    """
    if not then.whole_cohort or then.has("send") or then.has("receive"):
        raise ConfigError(
            f"{type(stage).__name__}.then must be a rule for a whole cohort, such as Krum, Median or GeometricMedian, "
            f"found {then!r}."
        )
