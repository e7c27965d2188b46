"""What robust rules have in common: their facts, and rules whose aggregate is a weighted sum of the updates."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from headway.core.context import ServerContext
from headway.core.errors import ConfigError
from headway.core.flow import Flow
from headway.core.stage import Aggregator
from headway.core.update import Rows, Tensors, Update
from headway.numerics.distances import products_about_middle, weighted_sum


def robust_facts(flow: Flow, stage: object, attackers: int, min_updates: int, one_vector: str | bool = False) -> Flow:
    """The flow after a rule that withstands so many attackers among at least `min_updates` updates.

    A rule compares whole updates, of clients that count the same: an attacker would choose its weight.
    one_vector: why no vector may travel beside the delta, where a rule treats each number by itself.
    """
    flow.require(stage, dense=True, equal_weights="an attacker would choose its weight", one_vector=one_vector)
    buffered = 2 * attackers + 3 if flow.asynchronous else 1
    flow = flow.set(stage, attackers=attackers, min_updates=max(flow.min_updates, min_updates, buffered))
    return flow.require(stage, enough_buckets=True)


class DistanceRule(Aggregator):
    """A rule whose aggregate is a weighted sum of the updates, with coefficients that follow from their distances.

    It reads the updates twice, for their inner products and for the sum, whatever it computes in between.
    """

    whole_cohort: ClassVar[bool] = True

    def coefficients(self, gram: Tensor) -> Tensor:
        """The coefficients `[C]` of the updates, from their inner products about any point, float64 `[C, C]`."""
        raise NotImplementedError

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The weighted sum."""
        return combined(rows, self.coefficients(products_of(rows))), state


def products_of(rows: Rows) -> Tensor:
    """The inner products of all updates about one in their middle, all vectors taken as one, float64 `[C, C]`."""
    return products_about_middle(list(rows.vectors.values()))


def combined(rows: Rows, coefficients: Tensor) -> Update:
    """The aggregate `sum_i a_i x_i` of each vector."""
    vectors = {name: weighted_sum(vector, coefficients) for name, vector in rows.vectors.items()}
    return Update(vectors, rows.weights.double().sum())


def check_rule(stage: Aggregator, then: Aggregator) -> None:
    """Refuses what is not a rule that aggregates a whole cohort and does nothing else, or that knows clients by name.

    Raises:
        ConfigError: naming the stage and what was found.
    """
    if not then.whole_cohort or then.has("send") or then.has("receive"):
        raise ConfigError(
            f"{type(stage).__name__}.then must be a rule for a whole cohort, such as Krum, Median or GeometricMedian, "
            f"found {then!r}."
        )
    if then.judges or then.examines or then.by_name:
        raise ConfigError(
            f"{type(then).__name__} needs each client's own update, by its name, and cannot stand behind "
            f"{type(stage).__name__}, found {then!r} in {type(stage).__name__}.then: put it in the place of "
            f"{type(stage).__name__}, or use another rule."
        )
