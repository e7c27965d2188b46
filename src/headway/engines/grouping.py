"""Groups: the clients of a cohort that are summed together, as they are trained by one worker."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from headway.core.algorithm import Algorithm
from headway.data.dataset.client_index import ClientIndex

GROUP = 64  # clients summed in float64 before the exact accumulator is paid; part of what fixes a run's bits


def groups_of(
    cohort: Sequence[str], train: Mapping[str, Tensor], lanes: int = 1, group: int = GROUP
) -> Iterator[list[str]]:
    """The cohort in groups: a pure function of its sorted names, the clients' sizes and the plan.

    train: each client's examples.  lanes: clients in a batch; if there are several, a group has a whole number of
        batches, each of clients of like size, so that little is padded.  group: the least number of clients in a group,
        as far as they go.

    >>> train = {"a": torch.arange(5), "b": torch.arange(9), "c": torch.arange(5)}
    >>> list(groups_of(["c", "a", "b"], train, lanes=2, group=2))
    [['b', 'a'], ['c']]
    """
    ordered = sorted(cohort)
    if lanes > 1:
        largest = torch.argsort(ClientIndex.of(train).sizes_of(ordered), descending=True, stable=True)
        ordered = [ordered[place] for place in largest.tolist()]
    size = -(-group // lanes) * lanes
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def expected_cohort(algorithm: Algorithm, population: int) -> int:
    """How many clients a round has, as far as it is known; all of them, if it is not."""
    expected = algorithm.sampler.facts(population).expected
    return population if expected is None else max(1, math.ceil(expected))
