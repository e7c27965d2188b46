"""Divergence: a run is stopped before a bad state replaces the good one, with the likely reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from headway.core.algorithm import Algorithm, State
from headway.core.errors import Diverged
from headway.core.layout import Layout
from headway.data import Examples, FederatedData
from headway.model.flat_module import FlatModule
from headway.model.module_checks import untouched
from headway.observe.learning import outputs_note, scale_note
from headway.observe.observer import EvaluatedRound, Observer, TrainedRound
from headway.protocol.reports import Reports
from headway.protocol.sums import not_finite

EXPLODED = 1e3  # times the training loss before training
FLOOR = 1e-3  # of that loss
CLIENTS, ROWS = 8, 32  # whose loss before training is looked at, and how many examples of each


class Divergence(Observer):
    """Compares each round with the start of the run, and refuses a state that no run should go on from.

    statistics: the place of each averaged statistic.  before_training: gives the training loss of the initial model,
    `None` where it is no number.  start_loss: that loss, or the one of the first round where it is not known.
    """

    def __init__(
        self, algorithm: Algorithm, statistics: Layout | None, before_training: Callable[[], float | None]
    ) -> None:
        self.lr, self.statistics = getattr(algorithm.trainer, "lr", None), statistics
        self.before_training = before_training
        self.noise = bool(algorithm.flows()[-1].events)  # which may turn a variance negative; a model takes it as 0
        self.start_loss: float | None = None

    def on_trained(self, trained: TrainedRound) -> Sequence[str]:
        """Refuses the round if its state is not one to go on from.

        Raises:
            Diverged: with the round, the clients that lead, and what to try.
        """
        loss = trained.report.train_loss
        if self.start_loss is None and loss is not None:
            start = self.before_training()
            self.start_loss = loss if start is None else start
        self._check(trained.report.round, trained.after, trained.answered, loss)
        return ()

    def on_evaluated(self, evaluated: EvaluatedRound) -> Sequence[str]:
        """Refuses a model whose evaluation is no number.

        Raises:
            Diverged: naming the clients.
        """
        round_, bad = evaluated.report.round, evaluated.nan_losses
        if bad:
            more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            raise Diverged(
                f"the run stopped in round {round_}: the loss of {', '.join(bad[:3])}{more} is NaN on test examples, "
                "while the model's parameters are finite. Either these examples hold NaN or infinity, or the model "
                "makes NaN of them (statistics that do not fit, a division by zero, the logarithm of a number below "
                f"0). The model of round {round_} is kept."
            )
        return ()

    def to_state(self) -> Mapping[str, Any]:
        """The training loss before training."""
        return {"first_loss": self.start_loss}

    def from_state(self, kept: Mapping[str, Any]) -> None:
        """Compares with the same loss."""
        self.start_loss = kept["first_loss"]

    def _check(self, round_: int, after: State, reports: Reports, loss: float | None) -> None:
        """Raises `Diverged` for a state that is not finite, a loss that has exploded, or no update fit to count."""
        start = self.start_loss
        rejected, counted = reports.with_status("rejected"), reports.with_status("counted")
        if rejected and not counted:
            raise Diverged(self._refused(round_, rejected))
        if not_finite(after.params) is not None:
            raise Diverged(self._exploded(round_, "the new model is not finite", counted))
        if after.buffers is not None and (trouble := self._statistics_trouble(after.buffers)) is not None:
            raise Diverged(self._exploded(round_, trouble, counted))
        if loss is None or start is None:
            return
        if not math.isfinite(loss) or loss > EXPLODED * max(start, FLOOR):
            what = f"the training loss is {loss:.4g}, and was {start:.4g} at the start of the run"
            raise Diverged(self._exploded(round_, what, counted))

    def _statistics_trouble(self, buffers: Tensor) -> str | None:
        """The fault of averaged statistics, as a phrase; `None` if there is none."""
        named = {} if self.statistics is None else self.statistics.views(buffers)
        for name, values in named.items():
            if not bool(torch.isfinite(values).all()):
                return f"the averaged statistic {name} is not finite"
            if name.endswith("running_var") and not self.noise and bool((values < 0).any()):
                return f"the averaged variance {name} is negative ({float(values.min()):.4g})"
        return None

    def _refused(self, round_: int, rejected: Reports) -> str:
        """Why no update counted."""
        trained = [report for report in rejected if "finite" in report.reason]
        if trained:
            return self._exploded(round_, "no update was fit to count", rejected)
        return (
            f"the run stopped in round {round_}: no update was fit to count. {_leading(rejected)}. The updates are not "
            "what the chain promises: a stage that changes a vector's length, number type, norm or weight states it in "
            f"its `connect` (flow.carry, flow.recode, flow.set). The model of round {round_ - 1} is kept."
        )

    def _exploded(self, round_: int, what: str, reports: Reports) -> str:
        lower = f"a lower learning rate than {self.lr:g}, " if self.lr is not None else "a lower learning rate, "
        return (
            f"the run diverged in round {round_}: {what}. The clients that lead: {_leading(reports)}. The model of "
            f"round {round_ - 1} is kept. Try {lower}clip_gradient in the trainer, or Clip(norm=...) in the chain."
        )


def _leading(reports: Reports) -> str:
    """The clients that stand out, each with its reason or the length of its update."""
    leading = sorted(reports, key=lambda r: (r.norm is not None, -(r.norm or 0.0)))[:3]
    return "; ".join(
        f"{r.client} ({r.reason or f'update norm {r.norm:.4g}' if r.norm is not None or r.reason else 'protected'})"
        for r in leading
    )


def loss_before_training(flat_module: FlatModule, data: FederatedData, state: State) -> float | None:
    """The mean training loss of the model on some examples of some clients; `None` if it is no finite number.

    What the flat module holds, and torch's generators, are left as they were found.
    """
    with untouched(flat_module), torch.no_grad():
        flat_module.load(state.model, None, state.buffers)
        flat_module.module.eval()
        losses = [float(flat_module.task.criterion.mean(*_outputs(flat_module, examples))) for examples in _some(data)]
    mean = sum(losses) / len(losses) if losses else math.nan
    return mean if math.isfinite(mean) else None


def odd_outputs(flat_module: FlatModule, data: FederatedData) -> list[str]:
    """Sentences about odd features of some examples, and odd outputs of the initial model for them."""
    some = _some(data)
    if not some:
        return []
    with untouched(flat_module), torch.no_grad():
        flat_module.module.eval()
        outputs = torch.cat([_outputs(flat_module, examples)[0] for examples in some])
    inputs = scale_note(torch.cat([examples.inputs for examples in some]), data.features)
    return [note for note in (inputs, outputs_note(flat_module.task.loss, outputs)) if note is not None]


def _some(data: FederatedData) -> list[Examples]:
    """Some training examples of some clients."""
    step = max(1, len(data.clients) // CLIENTS)
    parts = [data.train_of(client) for client in data.clients[::step][:CLIENTS]]
    return [part.rows(0, min(ROWS, len(part))) for part in parts if len(part)]


def _outputs(flat_module: FlatModule, examples: Examples) -> tuple[Tensor, Tensor]:
    """The model's outputs, and the targets."""
    here = flat_module.site.examples(examples)
    return flat_module.module(flat_module.to_memory_format(here.inputs)), here.targets
