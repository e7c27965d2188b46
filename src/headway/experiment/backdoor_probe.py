"""The success rate of backdoors in the model of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from headway.attacks import Backdoor, success_rate
from headway.core.errors import ConfigError
from headway.data import Examples, FederatedData
from headway.experiment.run import Run


@dataclass(frozen=True)
class BackdoorProbe:
    """The success rate of some backdoors, by name, in the model of a run that has ended.

    They are measured on the central test set, or on the test parts of all clients where there is none; NaN for a run
    whose clients keep parts of the model, since it has no model for all.
    """

    backdoors: Mapping[str, Backdoor]

    def __call__(self, run: Run) -> dict[str, float]:
        """The rate of each backdoor."""
        try:
            model = run.model()
        except ConfigError:
            return dict.fromkeys(self.backdoors, math.nan)
        examples = tested(run.data)
        return {name: success_rate(model, backdoor, examples) for name, backdoor in self.backdoors.items()}


def tested(data: FederatedData) -> Examples:
    """The examples on which all clients' models are judged together."""
    if data.central is not None:
        return data.central
    import torch

    return data.store.take(torch.cat([data.test[client] for client in data.clients]))
