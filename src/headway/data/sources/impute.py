"""Tables with gaps, turned into features by each client from its own training rows alone.

Pooled means, medians or modes would carry one client's data to another, so nothing here looks beyond one
client, and nothing looks at test rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Numeric:
    """A column of numbers, float64 `[N]` with NaN where missing; it becomes (v - centre) / scale.

    A gap becomes the median of the client's observed training values, or the centre (so 0) where it has
    none.  `flagged` adds a column that is 1 at gaps.
    """

    name: str
    values: Tensor
    flagged: bool
    centre: float = 0.0
    scale: float = 1.0

    def feature_names(self) -> tuple[str, ...]:
        """One name per feature."""
        return (self.name, f"{self.name} missing") if self.flagged else (self.name,)

    def encode(self, rows: Tensor, train: Tensor, own_scale: bool) -> Tensor:
        """Features float64 `[rows, 1 or 2]` of one client; `train` are its training rows.

        With `own_scale` centre and scale are the mean and standard deviation (1 where that is 0) of the
        client's observed training values.
        """
        observed = self.values[train]
        observed = observed[~observed.isnan()]
        centre, scale = self.centre, self.scale
        if own_scale and len(observed):
            centre, scale = float(observed.mean()), float(observed.std(correction=0)) or 1.0
        fill = float(np.median(observed.numpy())) if len(observed) else centre
        values = self.values[rows]
        gaps = values.isnan()
        scaled = (torch.where(gaps, fill, values) - centre) / scale
        return torch.stack([scaled, gaps.double()] if self.flagged else [scaled], dim=1)


@dataclass(frozen=True, eq=False)
class Categorical:
    """A column of categories, int64 codes `[N]` with -1 where missing; it becomes one column per category.

    A gap becomes the client's most frequent training category (the first of equals), or no category where it
    has observed none.  `flagged` adds a column that is 1 at gaps.
    """

    name: str
    codes: Tensor
    categories: tuple[str, ...]
    flagged: bool

    def feature_names(self) -> tuple[str, ...]:
        """One name per feature."""
        names = tuple(f"{self.name}={category}" for category in self.categories)
        return (*names, f"{self.name} missing") if self.flagged else names

    def encode(self, rows: Tensor, train: Tensor, own_scale: bool) -> Tensor:
        """Features float64 `[rows, categories (+ 1)]` of one client; `train` are its training rows."""
        observed = self.codes[train]
        counts = torch.bincount(observed[observed >= 0], minlength=len(self.categories))
        codes = self.codes[rows]
        gaps = codes < 0
        fill = int(counts.argmax()) if int(counts.sum()) else len(self.categories)
        hot = torch.nn.functional.one_hot(codes.masked_fill(gaps, fill), len(self.categories) + 1)
        hot[:, -1] = gaps
        return (hot if self.flagged else hot[:, :-1]).double()


@dataclass(frozen=True, eq=False)
class EncodedTable:
    """Columns of N rows, encoded client by client; `own_scale` standardises each by its own numbers."""

    columns: tuple[Numeric | Categorical, ...]
    own_scale: bool = False

    def feature_names(self) -> tuple[str, ...]:
        """The name of each feature, in order."""
        return tuple(name for column in self.columns for name in column.feature_names())

    def encode(self, train: Mapping[str, Tensor], test: Mapping[str, Tensor]) -> Tensor:
        """Features float32 `[N, F]`, given each client's training and test rows; rows that no client holds are 0.

        >>> gap = Numeric("age", torch.tensor([1.0, 3.0, float("nan")], dtype=torch.float64), flagged=True)
        >>> rows = torch.arange(3)
        >>> EncodedTable((gap,)).encode({"a": rows[:2]}, {"a": rows[2:]}).tolist()
        [[1.0, 0.0], [3.0, 0.0], [2.0, 1.0]]
        """
        count = next(len(column.values if isinstance(column, Numeric) else column.codes) for column in self.columns)
        features = torch.zeros(count, len(self.feature_names()))
        for client, trained in train.items():
            rows = torch.cat([trained, test[client]])
            parts = [column.encode(rows, trained, self.own_scale) for column in self.columns]
            features[rows] = torch.cat(parts, dim=1).float()
        return features
