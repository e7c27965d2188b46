"""DPSGD: the local trainer whose every step is private for each single example."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, final

from headway.core.errors import ConfigError
from headway.core.fields import at_least, between, positive
from headway.core.flow import TrainerFacts
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key
from headway.training.example_privacy import ExamplePrivacy
from headway.training.loop_plan import LoopPlan
from headway.training.loop_trainer import LoopTrainer
from headway.training.measurements import MEASUREMENTS
from headway.training.optimizers import SGD, check_nesterov
from headway.training.private_loop import check_layers, train_privately
from headway.training.schedule import Schedule
from headway.training.sgd_options import SGDOptions
from headway.training.trainer import Trained, trainers
from headway.training.training_inputs import TrainingInputs

RATE = 0.05


@final
@trainers.register
@dataclass(frozen=True)
class DPSGD(LoopTrainer):
    """Minibatch SGD that is differentially private for each of a client's examples.

    Formula, per step: each of the client's n examples is in the batch with probability q = sample_rate, by itself; with
    g_b the gradient of example b alone, C = clip_norm, z = noise_multiplier and a normal noise vector u,

        g = (sum_b g_b min(1, C / ||g_b||) + z C u) / (q n)

    The rest is as in `LocalSGD`: `g <- step rules of the chain`, `v <- momentum v + g + weight_decay w`,
    `w <- w - lr v`.  All of that, and what the chain makes of the client's steps, reads only what has noise already.
    An example whose gradient has a norm that is not finite counts nothing, and the denominator does not depend on how
    many examples were drawn.

    The promise is for one example of one client, against everybody who sees the client's updates, the server included;
    neighbouring data sets have a record without a gradient in its place, so that n itself is no secret.  It is not a
    promise for the client as a whole: for that, add noise to the aggregate as well, and two numbers are reported.

    sample_rate: q; 0.05 where batch_size is not given either.  epochs: a round has epochs / q local steps, rounded, for
        every client; or steps: that number.
    batch_size: fixed batches of this size in the place of Poisson ones, in a new order in each epoch, with the
        denominator batch_size.  These get no amplification by sampling: each example is in one full Gaussian mechanism
        in each epoch.
    noise_multiplier: 0 adds no noise, which promises nothing.
    steps_memory, steps_kept: as in `LocalSGD`.

    Raises:
        ConfigError: for a number out of range or of a wrong type, both sample_rate and batch_size, or a model
            with BatchNorm, or one in which examples of a batch depend on each other.
        ChainRefused: where a stage needs a measurement of the client's examples, which has no noise.

    Reference: Abadi et al., arXiv 1607.00133, Algorithm 1.
    Differs from the paper: sums are divided by q n, as there, for each client's own n.

    >>> DPSGD(sample_rate=0.1, epochs=2).privacy.steps
    20
    """

    lr: float = positive(0.1)
    clip_norm: float = positive(1.0)
    noise_multiplier: float = at_least(0, 1.0)
    sample_rate: float | None = between(0, 1, None, without=0)
    batch_size: int | None = positive(None)
    epochs: int = positive(1)
    steps: int | None = positive(None)
    momentum: float = between(0, 1, 0.0, without=1)
    nesterov: bool = False
    weight_decay: float = at_least(0, 0.0)
    schedule: Schedule = Schedule()
    steps_memory: int | str = "1 GB"
    steps_kept: Literal["auto", "full", "half", "replay"] = "auto"

    def make_plan(self) -> LoopPlan:
        """The local loop: of Poisson batches, one per step; else of the batches of `LocalSGD`."""
        check_nesterov(self.nesterov, self.momentum, "DPSGD")
        if self.sample_rate is not None and self.batch_size is not None:
            raise ConfigError(
                "DPSGD needs either sample_rate (Poisson batches) or batch_size (fixed batches, without amplification "
                f"by sampling), found sample_rate = {self.sample_rate} and batch_size = {self.batch_size}: leave one "
                "of them out."
            )
        options = SGDOptions(
            owner="DPSGD",
            lr=self.lr,
            batch_size=self.batch_size,
            epochs=self.epochs,
            steps=self.steps if self.privacy.sample_rate is None else self.privacy.steps,
            clip_gradient=None,
            schedule=self.schedule,
            stragglers=0.0,
            straggler_policy="partial",
            validation=0.0,
            steps_memory=self.steps_memory,
            steps_kept=self.steps_kept,
            last_batch="keep",
        )
        sgd = SGD(self.momentum, self.nesterov, self.weight_decay)
        plain = not (self.momentum or self.weight_decay)
        return LoopPlan(options, sgd, plain=plain, privacy=self.privacy)

    @cached_property
    def privacy(self) -> ExamplePrivacy:
        """The numbers of its noise."""
        rate = RATE if self.sample_rate is None and self.batch_size is None else self.sample_rate
        uses = self.epochs if rate is None else max(1, round(self.epochs / rate))
        return ExamplePrivacy(self.clip_norm, self.noise_multiplier, rate, self.batch_size, self.steps or uses)

    @property
    def facts(self) -> TrainerFacts:
        """Offers the single steps, which have their noise, and no measurement; what is released with noise."""
        hint = "train with LocalSGD, since what is measured on examples has no noise"
        missing = dict.fromkeys(MEASUREMENTS, hint)
        return replace(
            super().facts, offers=frozenset({"steps"}), paced=False, hints=missing, events=self.privacy.events
        )

    def check(self, flat_module: FlatModule) -> None:
        """Refuses layers that mix the examples of a batch, or keep statistics of them.

        Raises:
            ConfigError: naming the layer.
        """
        check_layers(flat_module)

    def examples_used(self, examples: int, client_key: Key) -> int:
        """The expected number of examples in all steps of a round."""
        rate = self.privacy.sample_rate
        return (
            super().examples_used(examples, client_key) if rate is None else self.privacy.steps * _mean(rate, examples)
        )

    def steps_within(self, examples: int, most: int) -> tuple[int, int]:
        """How many steps are made of at most `most` examples, by their expected number, and of how many they are."""
        if (rate := self.privacy.sample_rate) is None:
            return super().steps_within(examples, most)
        steps = most // _mean(rate, examples)
        return steps, steps * _mean(rate, examples)

    def train(self, work: TrainingInputs) -> Trained:
        """The local loop of one client, with private gradients."""
        return train_privately(self, self.privacy, work)


def _mean(rate: float, examples: int) -> int:
    """The expected number of examples of a batch, at least 1."""
    return max(1, round(rate * examples))
