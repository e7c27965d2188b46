"""Membership inference by loss threshold: examples that a model was trained on tend to have a lower loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.audit.audit_result import Curve
from headway.core.algorithm import State
from headway.model.flat_module import FlatModule

LOW = 0.01  # the false positive rate that counts, where there are examples enough for it
LEAST_OUTSIDE = 300  # examples that nobody trained on, below which it is 5 %
CLEAR_AUC, CLEAR_RATE = 0.55, 3.0  # an area, and a multiple of the false positive rate, beyond two standard errors
PLACES = 200  # points of a curve that are kept


@dataclass(frozen=True, slots=True)
class ThresholdResult:
    """The result of a threshold attack on scores, larger for members.

    auc: the area under the curve: the chance that a member's score is above that of another example; error: its
    standard error.  low: a small false positive rate; found: the share of members that it finds at that rate;
    surely: the same two standard errors below.
    """

    name: str
    auc: float
    error: float
    low: float
    found: float
    surely: float
    members: int
    others: int
    curve: Curve

    @property
    def succeeds(self) -> bool:
        """Whether it tells members from others clearly better than by chance."""
        return self.auc - 2 * self.error > CLEAR_AUC or self.surely > CLEAR_RATE * self.low


def threshold_attack(name: str, members: Tensor, others: Tensor) -> ThresholdResult:
    """The attack with scores `[N]` of members and `[M]` of others, larger where membership is likelier.

    Reference: Yeom et al., arXiv 1709.01604, section 3, for loss thresholds; Carlini et al., arXiv 2112.03570, section
    4, for judging an attack at low false positive rates; Hanley and McNeil (1982) for the standard error of the area.

    >>> found = threshold_attack("loss", torch.arange(100.0) + 50, torch.arange(100.0))
    >>> round(found.auc, 3), found.low, found.found
    (0.875, 0.05, 0.55)
    """
    scores = torch.cat([members, others]).double()
    truth = torch.cat([torch.ones(len(members)), torch.zeros(len(others))]).double()
    values, places = torch.unique(scores, return_inverse=True)
    hits = torch.zeros(len(values), dtype=torch.float64).index_add_(0, places, truth).flip(0).cumsum(0)
    alarms = torch.zeros(len(values), dtype=torch.float64).index_add_(0, places, 1 - truth).flip(0).cumsum(0)
    true = torch.cat([torch.zeros(1, dtype=torch.float64), hits / max(len(members), 1)])
    false = torch.cat([torch.zeros(1, dtype=torch.float64), alarms / max(len(others), 1)])
    auc = float(torch.trapezoid(true, false))
    low = LOW if len(others) >= LEAST_OUTSIDE else 0.05
    found = float(true[false <= low + 1e-12].max())
    spread = math.sqrt(max(found * (1 - found), 1e-12) / max(len(members), 1))
    return ThresholdResult(
        name,
        auc,
        _error_of_area(auc, len(members), len(others)),
        low,
        found,
        found - 2 * spread - _threshold_spread(true, false, low, len(others)),
        len(members),
        len(others),
        _curve(name, false, true),
    )


def _threshold_spread(true: Tensor, false: Tensor, low: float, others: int) -> float:
    """How much of the rate at `low` may be due to which few of the others lie above the threshold: the difference to
    the rate at a false positive rate two standard errors below."""
    less = max(low - 2 * math.sqrt(low * (1 - low) / max(others, 1)), 0.0)
    return float(true[false <= low + 1e-12].max() - true[false <= less + 1e-12].max())


def _error_of_area(auc: float, members: int, others: int) -> float:
    """The standard error of an area: Hanley and McNeil's formula."""
    one, two = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (members - 1) * (one - auc**2) + (others - 1) * (two - auc**2)
    return math.sqrt(max(spread, 0.0) / max(members * others, 1))


def _curve(name: str, false: Tensor, true: Tensor) -> Curve:
    """The curve at some places, more of them at low rates."""
    shares = torch.logspace(-4, 0, PLACES, dtype=torch.float64)
    shares = torch.cat([torch.zeros(1, dtype=torch.float64), shares])
    places = torch.searchsorted(false, shares + 1e-12, right=True) - 1
    return Curve(name, tuple(shares.tolist()), tuple(true[places].tolist()))


@torch.no_grad()
def example_losses(flat_module: FlatModule, state: State, inputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of the state's model for each example, float64 `[N]`."""
    flat_module.load(state.model, None, state.buffers)
    module, loss = flat_module.module, flat_module.task.criterion.per_example
    training = module.training
    module.eval()
    try:
        parts = [
            loss(module(flat_module.to_memory_format(block.clone())), target)
            for block, target in zip(inputs.split(1024), targets.split(1024), strict=True)
        ]
    finally:
        module.train(training)
    return torch.cat(parts).double() if parts else torch.empty(0, dtype=torch.float64)
