"""Optimizers: the direction along which a local step moves each parameter, from gradients.

A step is `w <- w - lr d`.  Every rule is elementwise, so that it is the same for one client's parameter `[*shape]` and
for those of many, `[C, *shape]`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from headway.core.errors import ConfigError
from headway.core.fields import at_least, between
from headway.core.registry import Plain, Registry


@dataclass(frozen=True)
class Optimizer(Plain, ABC):
    """A rule from gradients to directions, a frozen dataclass of plain values.

    What it keeps between steps starts anew with each client and round.
    """

    registry: ClassVar[Registry[Optimizer]] = Registry("optimizer", "headway.optimizers")

    @property
    def momentum_rule(self) -> tuple[float, bool] | None:
        """The momentum and whether it is Nesterov's, where steps are linear in the gradients; `None` where they are
        not, so that no learning rate is the share of a gradient that a step received."""
        return None

    @abstractmethod
    def begin(self, w: Tensor) -> dict[str, Tensor]:
        """The state of one parameter before the first step, by name, each in the shape of the parameter."""

    @abstractmethod
    def direction(self, grad: Tensor, w: Tensor, kept: dict[str, Tensor], t: int) -> Tensor:
        """The direction d of step t = 1, 2, ...; what is kept is changed in place.

        Shapes: grad, w, d and each kept tensor `[*shape]`, or `[C, *shape]` of many clients.
        """


@final
@Optimizer.registry.register
@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent with momentum.

    Formula: `g <- g + weight_decay w`; `v <- momentum v + g`; `d = v` (nesterov: `g + momentum v`).

    Raises:
        ConfigError: unless 0 <= momentum < 1 and weight_decay >= 0, and nesterov has momentum above 0.
    """

    momentum: float = between(0, 1, 0.0, without=1)
    nesterov: bool = False
    weight_decay: float = at_least(0, 0.0)

    def __post_init__(self) -> None:
        check_nesterov(self.nesterov, self.momentum, "SGD")

    @property
    def momentum_rule(self) -> tuple[float, bool]:
        """Its momentum, and whether that is Nesterov's."""
        return self.momentum, self.nesterov

    def begin(self, w: Tensor) -> dict[str, Tensor]:
        """The velocity v, with momentum."""
        return {"velocity": torch.zeros_like(w)} if self.momentum else {}

    def direction(self, grad: Tensor, w: Tensor, kept: dict[str, Tensor], t: int) -> Tensor:
        """v, or g + momentum v."""
        grad = _decayed(grad, w, self.weight_decay)
        if not self.momentum:
            return grad
        velocity = kept["velocity"].mul_(self.momentum).add_(grad)
        return torch.add(grad, velocity, alpha=self.momentum) if self.nesterov else velocity


@final
@Optimizer.registry.register
@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam, with weight decay in the gradient.

    Formula: `g <- g + weight_decay w`; `m <- b1 m + (1 - b1) g`; `v <- b2 v + (1 - b2) g^2`;
    `d = (m / (1 - b1^t)) / (sqrt(u / (1 - b2^t)) + eps)` with u = v (amsgrad: the largest v so far).

    Raises:
        ConfigError: unless there are two betas, 0 <= b1, b2 < 1, eps >= 0 and weight_decay >= 0.

    Reference: Kingma, Ba, arXiv 1412.6980, Algorithm 1; Reddi, Kale, Kumar, arXiv 1904.09237 (amsgrad).
    """

    betas: tuple[float, ...] = (0.9, 0.999)
    eps: float = at_least(0, 1e-8)
    weight_decay: float = at_least(0, 0.0)
    amsgrad: bool = False

    def __post_init__(self) -> None:
        _check_betas(self.betas, type(self).__name__)

    def begin(self, w: Tensor) -> dict[str, Tensor]:
        """m and v, and the largest v with amsgrad."""
        return _moments(w, self.amsgrad)

    def direction(self, grad: Tensor, w: Tensor, kept: dict[str, Tensor], t: int) -> Tensor:
        """The corrected mean over the root of the corrected second moment."""
        return _adam(_decayed(grad, w, self.weight_decay), kept, t, self.betas, self.eps)


@final
@Optimizer.registry.register
@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay: `d = Adam's d of g + weight_decay w`.

    Raises:
        ConfigError: unless there are two betas, 0 <= b1, b2 < 1, eps >= 0 and weight_decay >= 0.

    Reference: Loshchilov, Hutter, arXiv 1711.05101, Algorithm 2, with the decay times the learning rate as in torch.
    """

    betas: tuple[float, ...] = (0.9, 0.999)
    eps: float = at_least(0, 1e-8)
    weight_decay: float = at_least(0, 0.01)
    amsgrad: bool = False

    def __post_init__(self) -> None:
        _check_betas(self.betas, type(self).__name__)

    def begin(self, w: Tensor) -> dict[str, Tensor]:
        """m and v, and the largest v with amsgrad."""
        return _moments(w, self.amsgrad)

    def direction(self, grad: Tensor, w: Tensor, kept: dict[str, Tensor], t: int) -> Tensor:
        """Adam's direction, plus the decay."""
        return _decayed(_adam(grad, kept, t, self.betas, self.eps), w, self.weight_decay)


@final
@Optimizer.registry.register
@dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop.

    Formula: `g <- g + weight_decay w`; `v <- alpha v + (1 - alpha) g^2`; `s = g / (sqrt(v) + eps)`, with
    v - a^2 in the place of v where centered, `a <- alpha a + (1 - alpha) g`; `d <- momentum d + s`.

    Raises:
        ConfigError: unless 0 <= alpha < 1, 0 <= momentum < 1, eps >= 0 and weight_decay >= 0.

    Reference: Tieleman, Hinton, Lecture 6.5 of Neural Networks for Machine Learning (2012); centered: Graves,
    arXiv 1308.0850, equations (38)-(45), there with eps inside the root.
    """

    alpha: float = between(0, 1, 0.99, without=1)
    eps: float = at_least(0, 1e-8)
    weight_decay: float = at_least(0, 0.0)
    momentum: float = between(0, 1, 0.0, without=1)
    centered: bool = False

    def begin(self, w: Tensor) -> dict[str, Tensor]:
        """v, the mean gradient where centered, and d with momentum."""
        names = ["square", *(["mean"] if self.centered else []), *(["velocity"] if self.momentum else [])]
        return {name: torch.zeros_like(w) for name in names}

    def direction(self, grad: Tensor, w: Tensor, kept: dict[str, Tensor], t: int) -> Tensor:
        """The gradient over the root of its mean square, with momentum."""
        grad = _decayed(grad, w, self.weight_decay)
        square = kept["square"].mul_(self.alpha).addcmul_(grad, grad, value=1 - self.alpha)
        if self.centered:
            mean = kept["mean"].mul_(self.alpha).add_(grad, alpha=1 - self.alpha)
            square = torch.addcmul(square, mean, mean, value=-1)
        scaled = grad / square.sqrt().add_(self.eps)
        return kept["velocity"].mul_(self.momentum).add_(scaled) if self.momentum else scaled


@final
@Optimizer.registry.register
@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Adagrad.

    Formula: `g <- g + weight_decay w`; `v <- v + g^2`; `d = g / (sqrt(v) + eps) / (1 + (t - 1) lr_decay)`, v being
    initial_accumulator_value at first.

    Raises:
        ConfigError: for a negative number.

    Reference: Duchi, Hazan, Singer, JMLR 12 (2011), the diagonal rule of Figure 1.
    """

    lr_decay: float = at_least(0, 0.0)
    weight_decay: float = at_least(0, 0.0)
    initial_accumulator_value: float = at_least(0, 0.0)
    eps: float = at_least(0, 1e-10)

    def begin(self, w: Tensor) -> dict[str, Tensor]:
        """v."""
        return {"square": torch.full_like(w, self.initial_accumulator_value)}

    def direction(self, grad: Tensor, w: Tensor, kept: dict[str, Tensor], t: int) -> Tensor:
        """The gradient over the root of the sum of its squares."""
        grad = _decayed(grad, w, self.weight_decay)
        square = kept["square"].addcmul_(grad, grad)
        return grad / square.sqrt().add_(self.eps) / (1 + (t - 1) * self.lr_decay)


def check_nesterov(nesterov: bool, momentum: float, owner: str) -> None:
    """Refuses Nesterov's momentum where there is none.

    Raises:
        ConfigError: naming the owner.
    """
    if nesterov and not momentum:
        raise ConfigError(f"{owner}.nesterov needs momentum above 0.")


def _check_betas(betas: tuple[float, ...], owner: str) -> None:
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ConfigError(f"{owner}.betas must be two numbers of at least 0 and below 1, found {betas}.")


def _decayed(vector: Tensor, w: Tensor, decay: float) -> Tensor:
    """`vector + decay w`."""
    return torch.add(vector, w, alpha=decay) if decay else vector


def _moments(w: Tensor, amsgrad: bool) -> dict[str, Tensor]:
    """Adam's moments before the first step."""
    return {name: torch.zeros_like(w) for name in ("mean", "square", *(["largest"] if amsgrad else []))}


def _adam(grad: Tensor, kept: dict[str, Tensor], t: int, betas: tuple[float, ...], eps: float) -> Tensor:
    """Adam's direction in step t."""
    first, second = betas
    mean = kept["mean"].mul_(first).add_(grad, alpha=1 - first)
    square = kept["square"].mul_(second).addcmul_(grad, grad, value=1 - second)
    if "largest" in kept:
        square = torch.maximum(kept["largest"], square, out=kept["largest"])
    direction: Tensor = mean / (1 - first**t) / (square.sqrt() / (1 - second**t) ** 0.5).add_(eps)
    return direction
