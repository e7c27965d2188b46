"""Noise on clipped gradients of single examples: its numbers, its event, and the batches that it is for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headway.core.facts import PrivacyEvent
from headway.numerics.keys import Key, Keys

TRAINER, SAMPLES, NOISE = "trainer", "sample", "noise"  # purposes of private keys


@dataclass(frozen=True, slots=True)
class ExamplePrivacy:
    """The numbers of DP-SGD that do not depend on the client.

    clip_norm: C, the largest norm of one example's gradient.  noise_multiplier: z; the noise on a sum of clipped
    gradients has the standard deviation z C.
    sample_rate: q, of Poisson batches; or batch_size: B, of fixed batches, of which an example is in one each epoch.
    steps: of Poisson batches, the local steps of a round; of fixed ones, how often at most an example is used in a
    round.
    """

    clip_norm: float
    noise_multiplier: float
    sample_rate: float | None
    batch_size: int | None
    steps: int

    def denominator(self, examples: int) -> float:
        """The number by which a step divides its sum, whatever the size of its batch: q n, or B (n, if that is less).

        >>> ExamplePrivacy(1.0, 1.0, 0.1, None, 10).denominator(50), ExamplePrivacy(1.0, 1.0, None, 8, 1).denominator(5)
        (5.0, 5.0)
        """
        if self.sample_rate is not None:
            return self.sample_rate * examples
        assert self.batch_size is not None
        return float(min(self.batch_size, examples))

    def denominators(self, sizes: Tensor) -> Tensor:
        """`denominator` of each of many clients, float64 `[C]`."""
        if self.sample_rate is not None:
            return self.sample_rate * sizes.double()
        assert self.batch_size is not None
        return sizes.clamp_max(self.batch_size).double()

    @property
    def events(self) -> tuple[PrivacyEvent, ...]:
        """One client's training in one round, as a release: `steps` Gaussian mechanisms, each on a Poisson sample of
        rate q, or on all examples; none without noise, which promises nothing.

        Neighbours are data sets in which one example is replaced by one without a gradient, so that the number of a
        client's examples is no secret: it is in the denominator, and in the weight of the update.
        """
        if not self.noise_multiplier:
            return ()
        rate = 1.0 if self.sample_rate is None else self.sample_rate
        return (
            PrivacyEvent(
                "example_gaussian",
                self.noise_multiplier,
                self.clip_norm,
                covers=("delta", "steps"),
                unit="example",
                relation="zero_out",
                at="client",
                details={"sample_rate": rate, "steps": float(self.steps)},
            ),
        )


def poisson_batches(key: Key, examples: int, rate: float, steps: int) -> list[Tensor]:
    """The places of the examples of each step, int64 `[m_k]`: each of n examples with probability `rate`, by itself.

    >>> [batch.tolist() for batch in poisson_batches(Key.root(1), 5, 0.4, 3)]
    [[0, 2, 4], [3, 4], [1]]
    """
    drawn = (key.derive(SAMPLES, step).uniform(examples) < rate for step in range(steps))
    return [included.nonzero().flatten() for included in drawn]


def poisson_batches_of_each(keys: Keys, sizes: Tensor, rate: float, steps: int) -> tuple[Tensor, Tensor]:
    """The same of many clients: places `[C, K, B]`, padded with 0, and the number of examples of each step `[C, K]`;
    B is the largest."""
    present = torch.arange(int(sizes.max())) < sizes.unsqueeze(1)
    drawn = [(keys.derive(SAMPLES, step).uniform(present.shape[1]) < rate) & present for step in range(steps)]
    included = torch.stack(drawn, dim=1)
    counts = included.sum(2)
    places = torch.zeros(*counts.shape, int(counts.max()), dtype=torch.int64)
    lane, step, place = included.nonzero(as_tuple=True)
    places[lane, step, included.cumsum(2)[lane, step, place] - 1] = place
    return places, counts
