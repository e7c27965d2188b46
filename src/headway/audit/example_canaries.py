"""Canary examples: what one example can move of a step with noise, and how much noise there is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headway.audit.audit_result import AttackRow
from headway.audit.canary_attack import run_epsilon
from headway.audit.canary_outcome import TOLERANCE, Verdict
from headway.audit.shadow_federation import ShadowFederation
from headway.core.algorithm import Algorithm
from headway.core.chain import Chain
from headway.core.facts import PrivacyEvent
from headway.data import Examples, FederatedData
from headway.model.task import Task
from headway.numerics.keys import Key
from headway.privacy.gaussian_epsilon import gaussian_epsilon
from headway.samplers import All
from headway.stages import Mean
from headway.training.dp_sgd import DPSGD

NAME = "canary examples"
HOSTILE = 100.0  # times an input: so that a gradient is far longer than the clip allows
TOGETHER, CANARIES = 8, 6  # examples of a step, and how many of them are canaries in turn
NOISE_PAIRS = 4


@dataclass(frozen=True, slots=True)
class ExampleEstimate:
    """What canary examples show of one step.

    shift: the most that one of them moves the sum of gradients; noise: the standard deviation of the noise on it; both
    in the same units.  repeats: whether a step gives the same update again, so that noise cancels in differences.
    """

    shift: float
    noise: float
    repeats: bool

    @property
    def multiplier(self) -> float:
        """The noise over what one example moves."""
        return self.noise / self.shift if self.shift > 0 else math.inf


class ExampleCanaries:
    """Measures one step of DPSGD on all of a client's few examples, with and without one of them.

    With d_n the update of n examples and d_(n-1) that of the same without one, from the same keys: `n d_n - (n-1)
    d_(n-1)` is the learning rate times that one's clipped gradient, since the noise on both sums is the same; and
    `n (d_n - d'_n)`, with noise of another key, is sqrt(2) times the noise.  The examples are made hostile, so that the
    clip must work.  What batches are drawn is not measured.

    Reference: Nasr et al., arXiv 2302.07956, for auditing by the gradients that an attacker chooses.
    """

    def __init__(self, trainer: DPSGD, data: FederatedData, task: Task, seed: int) -> None:
        self.task, self.key = task, Key.root(seed).derive(NAME)
        one = replace(
            trainer, sample_rate=1.0, batch_size=None, epochs=1, steps=1, momentum=0.0, nesterov=False, weight_decay=0.0
        )
        self.algorithm = Algorithm(Chain((Mean(),)), one, All())
        self.client = max(data.clients, key=lambda name: (len(data.train[name]), name))
        examples = data.train_of(self.client).rows(0, TOGETHER)
        self.inputs, self.targets = examples.inputs, examples.targets
        self.data = data

    def estimate(self) -> ExampleEstimate:
        """The most that an example moves, and the noise."""
        canaries, count = self.inputs.clone(), len(self.inputs)
        if canaries.is_floating_point():
            canaries[:CANARIES] *= HOSTILE
        seed = self.key.seed() >> 1
        whole = self._update(canaries, range(count), seed)
        moved = []
        for place in range(min(CANARIES, count - 1)):
            rest = [other for other in range(count) if other != place]
            # the one left out stands at the end, so that all others keep their places and their randomness
            first = self._update(canaries, [*rest, place], seed) * count
            moved.append(float((first - self._update(canaries, rest, seed) * (count - 1)).norm()))
        noise = []
        for pair in range(NOISE_PAIRS):
            other = self._update(canaries, range(count), self.key.derive("other", pair).seed() >> 1)
            noise.append(float((count * (whole - other)).square().mean()) / 2)
        repeats = bool(torch.equal(whole, self._update(canaries, range(count), seed)))
        return ExampleEstimate(max(moved), math.sqrt(sum(noise) / len(noise)), repeats)

    def _update(self, inputs: Tensor, places: Sequence[int], seed: int) -> Tensor:
        """The movement of one step on these examples, at the model of the first seed."""
        rows = torch.tensor(list(places))
        store = Examples(inputs[rows], self.targets[rows])
        data = replace(
            self.data, store=store, train={self.client: torch.arange(len(rows))}, test={}, central=None, shifts={}
        )
        federation = ShadowFederation(self.algorithm, data, self.task, seed)
        if not hasattr(self, "_start"):
            self._start = federation.start
        return federation.round([self.client], self._start).updates[self.client].delta.double()


def example_row(
    algorithm: Algorithm, data: FederatedData, task: Task, seed: int, rounds: int, delta: float
) -> AttackRow:
    """The row of the table, for an algorithm that trains with `DPSGD`."""
    assert isinstance(algorithm.trainer, DPSGD)
    last = algorithm.flows(population=data.population)[-1]
    events = [event for event in last.events if event.unit == "example"]
    claimed = algorithm.trainer.noise_multiplier
    found = ExampleCanaries(algorithm.trainer, data, task, seed).estimate()
    shown, counted = gaussian_epsilon(found.multiplier, delta), gaussian_epsilon(claimed, delta)
    run = run_epsilon(events, last, rounds, delta)
    measured = [_with(event, found.multiplier) for event in events]
    shown_run = run_epsilon(measured, last, rounds, delta) if math.isfinite(found.multiplier) else 0.0
    ratio = shown / counted if counted else math.inf
    verdict: Verdict = "succeeded" if ratio > TOLERANCE else "failed"
    reason = (
        f"one step shows epsilon {shown:.2f}, the ledger counts {counted:.2f} (without the sampling of batches, which "
        f"is not measured); above {TOLERANCE} times would be a fault."
    )
    if not found.repeats:
        verdict, reason = "not judged", "a step from the same keys gives another update, so that noise does not cancel."
    figures = {
        "multiplier": found.multiplier,
        "multiplier_claimed": claimed,
        "epsilon": shown,
        "epsilon_ledger": counted,
        "epsilon_run": shown_run,
        "epsilon_run_ledger": run,
        "ratio": ratio,
        "delta": delta,
    }
    after = f"epsilon {shown:.2f}, ledger {counted:.2f}"
    return AttackRow(NAME, "anyone with an update", "one local step", "no promise", after, verdict, reason, figures)


def _with(event: PrivacyEvent, multiplier: float) -> PrivacyEvent:
    return replace(event, noise_multiplier=multiplier)
