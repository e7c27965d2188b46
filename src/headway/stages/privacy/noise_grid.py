"""Noise on a grid: value and noise are rounded to multiples of one power of two before they are added."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.core.errors import ConfigError
from headway.core.update import Tensors, Update
from headway.numerics.keys import Key, Keys
from headway.numerics.secure_random import SecureStream, normals

CONTINUOUS, DISCRETE = 32, 23  # the standard deviation of the noise is 2^bits to 2^(bits + 1) steps of the grid
SLACK = 2.1e-5  # relative: how much more a client may add than its bound, as the server's guard allows for rounding
LEAST_STEP = 1e-290  # below which float64 is not exact


@dataclass(frozen=True, slots=True)
class NoiseGrid:
    """A grid with noise of a multiplier times the sensitivity, for so many numbers.

    Formula: `g = 2^(floor(log2(z S)) - bits)`; `sigma = z (S' + g sqrt(count))`; `released = g (round(v / g) +
    k)`, k a whole number of standard deviation sigma / g.  Rounding moves the values of two neighbours apart by at most
    one step in each of `count` numbers, which the second term of sigma pays for; S' is S with the 10^-5 by which the
    server lets an update's norm and weight pass their limits.

    As everything that can be released is a multiple of g, whatever the values were, no low bit of a release tells them
    apart.  discrete: k follows the discrete Gaussian distribution exactly; otherwise it is a rounded Gaussian in
    float64, whose probabilities are those of the distribution up to rounding.

    Raises:
        ConfigError: if the numbers are too many, or the sensitivity too small, for the grid.

    Reference: Canonne, Kamath and Steinke, arXiv 2004.00010; Mironov, CCS 2012, for the attack on low bits.
    """

    multiplier: float
    sensitivity: float
    count: int
    discrete: bool = False

    def __post_init__(self) -> None:
        if not (self.step > LEAST_STEP and self.std < math.ldexp(self.step, DISCRETE + 2 if self.discrete else 52)):
            raise ConfigError(
                f"noise of {self.multiplier:g} times the bound {self.sensitivity:g} cannot be drawn for {self.count} "
                f"numbers{' from the discrete distribution' if self.discrete else ''}; use another clip norm or model."
            )

    @classmethod
    def of(cls, update: Update, multiplier: float, sensitivity: float, discrete: bool = False) -> NoiseGrid:
        """The grid for all numbers of an update."""
        return cls(multiplier, sensitivity, sum(v.shape[-1] for v in update.vectors.values()), discrete)

    @property
    def step(self) -> float:
        """The step g of the grid."""
        _, exponent = math.frexp(self.multiplier * self.sensitivity)
        return math.ldexp(1.0, exponent - 1 - (DISCRETE if self.discrete else CONTINUOUS))

    @property
    def std(self) -> float:
        """The standard deviation sigma of the noise."""
        least = self.multiplier * (self.sensitivity * (1 + SLACK) + self.step * math.sqrt(self.count))
        return math.ceil(least / self.step) * self.step if self.discrete else least

    def noise(self, count: int, key: Key | Keys) -> Tensor:
        """The noise of so many numbers, multiples of g, float64 `[..., count]`: of each client, of its own key."""
        if not self.discrete:
            return torch.round(normals(key, count) * (self.std / self.step)) * self.step
        scale, keys = round(self.std / self.step), [key] if isinstance(key, Key) else key.each()
        drawn = [SecureStream(each).discrete_gaussian(scale, count).double() for each in keys]
        return (drawn[0] if isinstance(key, Key) else torch.stack(drawn)) * self.step

    def add(self, update: Update, key: Key | Keys) -> Update:
        """The update with noise on every number of its vectors, which are drawn for in the order of their names."""
        lengths = {name: vector.shape[-1] for name, vector in sorted(update.vectors.items())}
        drawn = self.noise(sum(lengths.values()), key).to(update.delta.device).split(list(lengths.values()), dim=-1)
        return self._sum(update, dict(zip(lengths, drawn, strict=True)))

    def shift(self, update: Update, noise: Tensors) -> Update:
        """The update with this noise, in units of its standard deviation, on the grid."""
        return self._sum(update, {name: self._rounded(drawn * self.std) for name, drawn in noise.items()})

    def _sum(self, update: Update, noise: Tensors) -> Update:
        noisy = {name: self._rounded(vector.double()) + noise[name] for name, vector in update.vectors.items()}
        return update.with_vectors(**{name: noisy[name].to(vector.dtype) for name, vector in update.vectors.items()})

    def _rounded(self, values: Tensor) -> Tensor:
        return torch.round(values / self.step) * self.step
