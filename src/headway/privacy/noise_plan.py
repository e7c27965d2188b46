"""A plan for private training: the noise that a promise needs, and whether a signal is left under it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from headway.core.errors import ConfigError
from headway.core.fields import between, positive
from headway.core.registry import Plain
from headway.privacy.accountant import epsilon as epsilon_of
from headway.privacy.calibration import COARSE, noise_for
from headway.privacy.gaussian_epsilon import gaussian_epsilon
from headway.privacy.spends import Sampling, Spend

USABLE = 0.5  # of the noise of all rounds to the furthest that a model can move: more than this drowns it
LARGEST_EPSILON = 100.0  # above which a promise says nothing


@dataclass(frozen=True)
class PrivacyPlan(Plain):
    """Gaussian noise on the mean of clipped updates, with a Poisson cohort where the server draws it.

    Formula, with q = cohort / population, P = model_size, T = rounds, C = clip and z the noise multiplier that keeps
    epsilon: the noise on each number of the mean is `z C / cohort`, its length `z C sqrt(P) / cohort`, and the mean is
    C long at most; so

        noise to signal = z sqrt(P) / cohort                    of one round, at best
                          z sqrt(P) / (cohort sqrt(T))          of all rounds, whose noise adds up as a random walk

    population: how many clients there are.  cohort: how many take part in a round on average.  fixed: whether the
    cohort has a fixed size, or clients draw the noise in shares, either of which amplifies nothing.

    Raises:
        ConfigError: for a number out of range, or a cohort above the population.
    """

    population: int = positive()
    cohort: float = positive()
    rounds: int = positive()
    epsilon: float = positive()
    delta: float = between(0, 1, without=0)
    model_size: int | None = positive(None)
    clip: float = positive(1.0)
    fixed: bool = False

    def __post_init__(self) -> None:
        if self.cohort > self.population:
            raise ConfigError(
                f"a cohort of {self.cohort:g} needs at least as many clients, found a population of {self.population}."
            )

    @property
    def rate(self) -> float:
        """The probability with which a client is drawn."""
        return self.cohort / self.population

    @cached_property
    def noise_multiplier(self) -> float:
        """The smallest noise multiplier that keeps epsilon over all rounds."""
        return noise_for(self.epsilon, self.delta, self.rounds, self._sampling)

    @cached_property
    def unsampled_multiplier(self) -> float:
        """The same where every client counts as if it were in every round: for a cohort of a fixed size."""
        return noise_for(self.epsilon, self.delta, self.rounds, Sampling())

    @property
    def noise_to_signal(self) -> float | None:
        """Of one round, at best; `None` without the model's size."""
        if self.model_size is None:
            return None
        return self.noise_multiplier * math.sqrt(self.model_size) / self.cohort

    @property
    def total_noise_to_signal(self) -> float | None:
        """Of all rounds together, at best."""
        return None if self.noise_to_signal is None else self.noise_to_signal / math.sqrt(self.rounds)

    @property
    def large_enough(self) -> bool | None:
        """Whether the model can be learned under this noise, by a rule of thumb; `None` without its size."""
        return None if self.total_noise_to_signal is None else self.total_noise_to_signal <= USABLE

    @cached_property
    def sufficient_population(self) -> int | None:
        """A population that would do, the same share of it being drawn."""
        if self.total_noise_to_signal is None:
            return None
        return math.ceil(self.population * max(1.0, self.total_noise_to_signal / USABLE))

    @cached_property
    def sufficient_model_size(self) -> int | None:
        """The largest model that would do."""
        if self.total_noise_to_signal is None or self.model_size is None:
            return None
        return math.floor(self.model_size * min(1.0, (USABLE / self.total_noise_to_signal) ** 2))

    @cached_property
    def sufficient_epsilon(self) -> float | None:
        """The epsilon with which this federation would do; `None` where none below 100 does."""
        if self.total_noise_to_signal is None:
            return None
        z = self.noise_multiplier * min(1.0, USABLE / self.total_noise_to_signal)
        if self._sampling.amplifies:
            if z < 0.2:  # far beyond any promise, and costly to compose
                return None
            found = epsilon_of({Spend(z, rate=self.rate): self.rounds}, self.delta, COARSE)
        else:
            found = gaussian_epsilon(z / math.sqrt(self.rounds), self.delta)
        return found if found < LARGEST_EPSILON else None

    @property
    def _sampling(self) -> Sampling:
        if self.fixed or self.rate >= 1:
            return Sampling("fixed", None, None, self.population, self.cohort)
        return Sampling("poisson", self.rate, None, self.population, self.cohort)
