"""Whether a function of one's own broadcasts a model's outputs against the targets, unseen."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

PAIRWISE = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")  # which broadcast, and then reduce


def broadcasts(function: Callable[[Tensor, Tensor], object], outputs: Tensor, targets: Tensor) -> bool:
    """Whether the function, called on these, combines the outputs with the targets in a shape that is larger than that
    of the outputs, such as `[N, N]` from `[N, 1]` and `[N]`.

    What has been indexed or reshaped on purpose, as for all pairs of examples, does not count.  A function that fails
    does not broadcast: its failure is named where the function is used.

    >>> broadcasts(lambda o, t: ((o - t) ** 2).mean(), torch.zeros(4, 1), torch.zeros(4))
    True
    >>> broadcasts(lambda o, t: ((o.squeeze(1) - t) ** 2).mean(), torch.zeros(4, 1), torch.zeros(4))
    False
    """
    try:
        full = np.broadcast_shapes(outputs.shape, targets.shape)  # that of torch imports seconds of symbolic algebra
    except ValueError:
        return False
    if full == outputs.shape:
        return False
    watch = _Watch(outputs, targets, full)
    try:
        with warnings.catch_warnings(), torch.no_grad(), watch:
            warnings.simplefilter("ignore")
            function(outputs, targets)
    except Exception:  # whatever a function of one's own may raise
        return watch.found
    return watch.found


class _Watch(TorchFunctionMode):
    """Follows what is made of the outputs alone, and of the targets alone, until the two meet."""

    def __init__(self, outputs: Tensor, targets: Tensor, full: tuple[int, ...]) -> None:
        super().__init__()
        self.shapes, self.full, self.found = {"outputs": outputs.shape, "targets": targets.shape}, full, False
        self.made_of = {id(outputs): {"outputs"}, id(targets): {"targets"}}
        self.kept = [outputs, targets]  # so that no identity is given to another tensor

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls the function, and looks at what goes in and comes out."""
        result = func(*args, **(kwargs or {}))
        given = [each for each in (*args, *(kwargs or {}).values()) if isinstance(each, Tensor)]
        sources: set[str] = set().union(*(self.made_of.get(id(each), set()) for each in given))
        if isinstance(result, Tensor) and sources:
            self.made_of[id(result)] = sources
            self.kept.append(result)
            meet = all(self._unchanged(given, which) for which in self.shapes)
            if meet and (result.shape == self.full or getattr(func, "__name__", "") in PAIRWISE):
                self.found = True
        return result

    def _unchanged(self, given: list[Tensor], which: str) -> bool:
        """Whether one of these is made of the outputs (or the targets) alone, and still in their shape."""
        return any(self.made_of.get(id(each)) == {which} and each.shape == self.shapes[which] for each in given)
