"""Evaluation on a test set that is no client's."""

from __future__ import annotations

import torch

from headway.client.evaluation import check_central, score
from headway.core.algorithm import Algorithm, State
from headway.data import Examples
from headway.model.flat_module import FlatModule
from headway.model.module_checks import EXAMINED, Unwritten, examine, has_own_code, untouched
from headway.numerics.keys import Key

TESTED = 1024  # examples on which the whole path is tried before the first round


class CentralTest:
    """Scores models on a central test set, in a flat module that is its own.

    Raises:
        ConfigError: if the model's statistics stay with the clients.
    """

    def __init__(self, flat_module: FlatModule, examples: Examples, algorithm: Algorithm, key: Key) -> None:
        self.flat_module, self.examples, self.key = flat_module, examples, key
        flat_module.own_code = has_own_code(algorithm, flat_module.task)
        self.unwritten = Unwritten(examples)
        examine(flat_module, examples.rows(0, EXAMINED))
        check_central(flat_module)

    def score(self, state: State, few: bool = False) -> dict[str, float]:
        """The mean loss and the metrics of the model; few: of some of the examples only."""
        with untouched(self.flat_module):
            self.flat_module.load(state.model, None, state.buffers)
            self.flat_module.seed(self.key.derive("evaluation", state.round).seed())
            scores = score(self.flat_module, spread(self.examples) if few else self.examples)
        self.unwritten.check()
        return scores


def spread(examples: Examples) -> Examples:
    """At most `TESTED` of the examples, taken at equal distances."""
    if len(examples) <= TESTED:
        return examples
    places = torch.linspace(0, len(examples) - 1, TESTED).long()
    return examples.take(places.to(examples.inputs.device))
