"""Updates, and the robust rules with their slow references."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor

from conformance import robust_reference as slow
from headway.core.stage import Aggregator
from headway.core.update import Rows
from headway.numerics.keys import Key
from headway.stages import (
    NNM,
    AdaptiveRobustClipping,
    Bucketing,
    Bulyan,
    CentredClipping,
    GeometricMedian,
    Krum,
    MeanAroundMedian,
    Median,
    MinimumDiameter,
    MultiKrum,
    NormBound,
    TrimmedMean,
)

F = 2
CTX = SimpleNamespace(key=Key.root(5))
Reference = Callable[[list[list[float]]], list[float]]

RULES: dict[str, tuple[Aggregator, Reference]] = {
    "Median": (Median(F), partial(slow.coordinate_median, f=F)),
    "TrimmedMean": (TrimmedMean(F), partial(slow.trimmed_mean, f=F)),
    "TrimmedMean(0)": (TrimmedMean(0), slow.mean),
    "MeanAroundMedian": (MeanAroundMedian(F), partial(slow.mean_around_median, f=F)),
    "Krum": (Krum(F), partial(slow.krum, f=F)),
    "MultiKrum": (MultiKrum(F), partial(slow.multi_krum, f=F)),
    "Bulyan": (Bulyan(F), partial(slow.bulyan, f=F)),
    "GeometricMedian": (GeometricMedian(F), partial(slow.geometric_median, f=F)),
    "MinimumDiameter": (MinimumDiameter(F), partial(slow.minimum_diameter, f=F)),
    "NormBound": (NormBound(1.0), partial(slow.norm_bound, norm=1.0)),
    "NNM and Krum": (NNM(F, Krum(F)), lambda rows: slow.krum(slow.nearest_mixing(rows, F), F)),
    "NNM and Median": (NNM(F, Median(F)), lambda rows: slow.coordinate_median(slow.nearest_mixing(rows, F), F)),
    "ARC and Median": (
        AdaptiveRobustClipping(F, Median(F)),
        lambda rows: slow.coordinate_median(slow.adaptive_clipping(rows, F), F),
    ),
    "CentredClipping": (
        CentredClipping(1.5, 3, F),
        lambda rows: slow.centred_clipping(rows, 1.5, 3, [0.0] * len(rows[0])),
    ),
    "Bucketing of one": (Bucketing(1, Median(F)), partial(slow.coordinate_median, f=F)),
}


def rows_of(x: Tensor, **beside: Tensor) -> Rows:
    """One update a row."""
    names = tuple(f"c{i:03d}" for i in range(len(x)))
    return Rows(names, {"delta": x, **beside}, torch.arange(1, len(x) + 1, dtype=torch.float64))


def draws(name: str, *shape: int) -> Tensor:
    """Numbers that look normal."""
    uniform = Key.root(11).derive(name).uniform(12 * torch.Size(shape).numel())
    return uniform.reshape(12, *shape).sum(0) - 6


def aggregate(rule: Aggregator, x: Tensor, **beside: Tensor) -> Tensor:
    """The aggregate of the deltas."""
    update, _ = rule.reduce(rows_of(x, **beside), rule.init(x[0]), CTX)
    return update.delta
