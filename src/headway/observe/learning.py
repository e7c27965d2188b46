"""Remarks on a run that goes on without learning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from headway.observe.observer import EvaluatedRound, Observer, TrainedRound

BLOCK = 1 << 20  # numbers of a model that are lifted to float64 at a time
ROUNDS = 5  # evaluations at the constant answer, and rounds from the start in which the model hardly moves
RISING = 3  # rounds in a row above the loss before training
WORSE = 2.0  # times that loss
STILL = 1e-5  # of the model's length, moved in all of the first rounds together
NEAR = 0.005  # of a metric, from what the constant answer reaches
LARGE = 1e3  # times the typical largest number of a feature
FEWEST = 0.1  # of the outputs are exactly 0, where the last layer cuts off what is below


class Learning(Observer):
    """Looks at each round, and gives each kind of remark once.

    start: the round with which it begins.  start_loss: gives the training loss before training, where it is known.
    headline: the metric that decides which model is best.  constant: the metrics of a constant answer; answer: which.
    """

    def __init__(
        self,
        start: int = 0,
        start_loss: Callable[[], float | None] = lambda: None,
        headline: str = "",
        constant: Mapping[str, float] | None = None,
        answer: str = "",
    ) -> None:
        self.start, self.start_loss = start, start_loss
        self.headline, self.constant, self.answer = headline, constant or {}, answer
        self._given = set[str]()
        self._path = 0.0
        self._above = self._at_constant = 0

    def on_trained(self, trained: TrainedRound) -> list[str]:
        """Remarks on the model's move and on the training loss."""
        report = trained.report
        counted = report.count("counted")
        moved = self.moved(report.round, trained.before.params, trained.after.params, counted, report.lr)
        return moved + self.trained(report.train_loss, self.start_loss())

    def on_evaluated(self, evaluated: EvaluatedRound) -> list[str]:
        """Remarks on the deciding metric."""
        return self.evaluated(evaluated.report.headline(self.headline))

    def moved(self, round_: int, before: Tensor, after: Tensor, counted: int, lr: float | None) -> list[str]:
        """Remarks on the model's move in a round; lr: the trainer's learning rate in that round."""
        if not counted:
            return []
        step = _distance(after, before)
        if step == 0:
            why = ", since the learning rate is 0" if lr == 0 else ""
            return self._once("zero", f"no parameter moved in this round: every update is zero{why}.")
        self._path += step
        if self.start or round_ != ROUNDS:
            return []
        length = max(float(torch.linalg.vector_norm(after, dtype=torch.float64)), 1e-30)
        if self._path > STILL * length:
            return []
        rate = "" if lr is None else f" ({lr:g})"
        return self._once(
            "still",
            f"in {ROUNDS} rounds the model moved by {self._path / length:.1g} of its length: the learning rate{rate} "
            "is too small, or the gradients vanish.",
        )

    def trained(self, loss: float | None, start: float | None) -> list[str]:
        """Remarks on the training loss of a round, compared with that before training."""
        self._above = self._above + 1 if loss is not None and start and loss > WORSE * start else 0
        if self._above < RISING or loss is None:
            return []
        return self._once(
            "worse",
            f"the training loss ({loss:.4g}) has been far above that before training ({start:.4g}) for {RISING} "
            "rounds: lower the learning rate (algorithm.trainer.lr), or set algorithm.trainer.clip_gradient.",
        )

    def evaluated(self, value: float | None) -> list[str]:
        """Remarks on the value of the deciding metric, compared with that of a constant answer."""
        name, constant = self.headline, self.constant
        near = value is not None and name in constant and abs(value - constant[name]) <= NEAR
        self._at_constant = self._at_constant + 1 if near else 0
        if self._at_constant < ROUNDS or value is None:
            return []
        return self._once(
            "constant",
            f"{name} has not left that of a constant answer, {self.answer} ({constant[name]:.4g}), in {ROUNDS} "
            "evaluations: the model may give the same output for every input.",
        )

    def _once(self, kind: str, sentence: str) -> list[str]:
        if kind in self._given:
            return []
        self._given.add(kind)
        return [sentence]


def outputs_note(loss: object, outputs: Tensor) -> str | None:
    """A sentence about odd outputs `[B, ...]` of a model under a loss that takes logits, as a sentence."""
    if loss not in ("cross_entropy", "binary_cross_entropy") or not outputs.numel() or bool((outputs < 0).any()):
        return None
    takes = f"{loss} takes logits, of either sign: leave that layer out, or little is learned"
    if loss == "cross_entropy" and outputs.ndim > 1 and outputs.shape[1] > 1:
        sums = outputs.double().sum(1)
        if bool(torch.isclose(sums, torch.ones_like(sums), rtol=0, atol=1e-4).all()):
            return f"the model's outputs sum to one, as after a softmax, and {takes}."
    zeros = float((outputs == 0).double().mean())
    if FEWEST <= zeros < 1:
        return f"the model's outputs are never below 0 and often exactly 0, as after a ReLU, and {takes}."
    if loss == "binary_cross_entropy" and bool((outputs <= 1).all()) and float(outputs.std()) > 0:
        return f"the model's outputs lie between 0 and 1, as after a sigmoid, and {takes}."
    return None


def scale_note(inputs: Tensor, names: Sequence[str] = ()) -> str | None:
    """A sentence about features `[B, d]` that are far larger than the others; names: theirs, where they have some."""
    if inputs.ndim != 2 or not inputs.is_floating_point() or not inputs.numel():
        return None
    largest = inputs.double().abs().amax(0)
    typical = float(largest.median())
    far = (largest > LARGE * max(typical, 1.0)).nonzero().flatten().tolist()
    if not far:
        return None
    named = [f"{names[at] if at < len(names) else f'feature {at}'} (up to {float(largest[at]):.3g})" for at in far]
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    return (
        f"{', '.join(named[:3])}{more}: far larger than most features (up to {typical:.3g}), so that they alone decide "
        "the gradients: scale them, or the run may learn little or diverge."
    )


def _distance(a: Tensor, b: Tensor) -> float:
    """The L2 norm of a - b in float64, of a block of numbers at a time."""
    blocks = zip(a.split(BLOCK), b.split(BLOCK), strict=True)
    return math.hypot(*(float(torch.linalg.vector_norm(one.double() - other.double())) for one, other in blocks))
