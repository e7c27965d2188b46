"""The best model so far: which round had it, and its parameters in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headway.core.algorithm import State
from headway.observe.observer import EvaluatedRound, Observer
from headway.observe.run_folder import RunFolder

LOWER_IS_BETTER = ("loss", "mean_absolute_error")


class BestModel(Observer):
    """Keeps the model whose deciding metric is best; the earlier one where two are alike.

    headline: the deciding metric.  folder: where the model is kept; `None` keeps only its round and value.
    best: its "round", "metric" and "value".
    """

    def __init__(self, headline: str, folder: RunFolder | None) -> None:
        self.headline, self.folder = headline, folder
        self.best: dict[str, Any] | None = None

    def on_evaluated(self, evaluated: EvaluatedRound) -> Sequence[str]:
        """Keeps the model of this round, if it is better."""
        name, best = self.headline, self.best
        value = evaluated.report.headline(name)
        if value is None or value != value:
            return ()
        sign = -1 if name in LOWER_IS_BETTER else 1
        if best is None or best["metric"] != name or sign * value > sign * best["value"]:
            self.best = {"round": evaluated.report.round, "metric": name, "value": value}
            if self.folder is not None:
                state = evaluated.state
                model = State(state.round, state.model, buffers=state.buffers)  # alone, as a checkpoint holds it
                self.folder.save_best(model.tensors(), self.best)
        return ()

    def to_state(self) -> Mapping[str, Any]:
        """The round, metric and value of the best model."""
        return {"best": self.best}

    def from_state(self, kept: Mapping[str, Any]) -> None:
        """Goes on from these."""
        self.best = kept["best"]
