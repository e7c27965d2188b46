"""Canary rounds: how much of a client's direction is left in what is released, and the epsilon that it amounts to."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headway.audit.canary_trainer import CanaryTrainer, direction, is_canary
from headway.audit.round_view import RoundView
from headway.audit.shadow_federation import ShadowFederation
from headway.client_state.store import TRAINER
from headway.core.algorithm import Algorithm
from headway.data import FederatedData
from headway.engines.grouping import expected_cohort
from headway.model.task import Task
from headway.numerics.keys import Key
from headway.privacy.gaussian_epsilon import gaussian_epsilon

HOSTILE = 100.0  # times the bound: the length of a canary, so that a clip that does not work shows
PRECISION = 0.035  # the relative standard error of the estimated noise that is aimed at
COARSEST = 0.12  # and the largest with which an estimate is judged: noise of half the strength is then far off
LEAST_ROUNDS, LEAST_CANARIES = 6, 24
MOST_ROUNDS = 4000
CROWD = 100  # parameters for each canary of a round, so that canaries do not drown each other
IDLE_ROUNDS = 5  # rounds without any canary in the release, after which there is none to be had


@dataclass(frozen=True, slots=True)
class CanaryEstimate:
    """What the canaries of several shadow rounds show.

    cosines: of each canary with the release that it is in, `[K]`; controls: with the release of the same round without
    any canary.  shifts: the canary's part of the release, over the length of the release without canaries.
    size: P.  repeats: the mean cosine of the noise of one round with that of the next.
    refusal: why the server refused canaries, if it did.
    """

    cosines: Tensor
    controls: Tensor
    shifts: Tensor
    size: int
    rounds: int
    repeats: float = 0.0
    refusal: str = ""

    @property
    def shift(self) -> float:
        """The mean shift of the cosine by taking part; 0 where nothing of a client is left, infinite without noise."""
        return float(self.shifts.mean()) if len(self.shifts) else 0.0

    @property
    def multiplier(self) -> float:
        """The estimated noise over the sensitivity: `z = 1 / (sqrt(P) shift)`."""
        return 1 / (math.sqrt(self.size) * self.shift) if self.shift > 0 else math.inf

    @property
    def error(self) -> float:
        """The relative standard error of z; infinite where nothing can be said."""
        count = len(self.shifts)
        if count < 2 or self.shift <= 0:
            return math.inf
        if math.isinf(self.shift):
            return 0.0
        signal = float(self.shifts.std()) / math.sqrt(count) / self.shift
        return math.hypot(signal, 1 / math.sqrt(2 * self.size * self.rounds))

    def epsilon(self, delta: float) -> float:
        """The estimate for one release."""
        return 0.0 if math.isinf(self.multiplier) else gaussian_epsilon(self.multiplier, delta)

    def interval(self, delta: float) -> tuple[float, float]:
        """The estimate at two standard errors below and above."""
        if math.isinf(self.error):
            return 0.0, math.inf
        low, high = self.multiplier * (1 + 2 * self.error), self.multiplier * max(1 - 2 * self.error, 0.0)
        return gaussian_epsilon(low, delta), gaussian_epsilon(high, delta)


class CanaryRounds:
    """Shadow rounds in which canaries stand in for clients, through the chain's own path from client to release.

    c being a canary's direction, uniform on the sphere of R^P, and r the release: the cosine <c, r> / ||r|| is
    N(0, 1/P) for a direction that took no part.  With noise of z times the sensitivity, taking part moves it by
    1 / (z sqrt(P)), so that telling them apart is as hard as it is for the Gaussian mechanism of multiplier z.

    Each canary is `HOSTILE` times as long as the chain's bound.  The other clients send nothing, and the auditor knows
    so, as differential privacy has it: an attacker may know all but one.

    Reference: Andrew et al., arXiv 2302.03098, Algorithms 1 and 2.
    Differs from the paper: the rounds are shadow rounds with no other updates.  Each is run once more without canaries,
    from the same keys, and the difference is taken (a control variate of mean 0): in a simulation the noise of both is
    the same, so that some dozens of canaries do for thousands; where it is not, more are drawn.  The deviation is
    1/sqrt(P), as it must be, instead of an estimate, whose error makes a small epsilon wander.

    local: whether each message is looked at, instead of the release.
    """

    def __init__(self, algorithm: Algorithm, data: FederatedData, task: Task, seed: int, local: bool = False) -> None:
        self.data, self.task, self.seed, self.local = data, task, seed, local
        flows = algorithm.flows(population=data.population)
        bounds = [flow.bound for flow in flows if flow.bound is not None and math.isfinite(flow.bound)]
        self.length = HOSTILE * (bounds[0] if bounds else 1.0)
        whole = min(expected_cohort(algorithm, len(data.clients)), len(data.clients))
        # noise that clients add has the promised strength when the fewest that may remain have sent theirs
        self.cohort = min(flows[-1].survivors, whole) or whole
        trainer = CanaryTrainer(algorithm.trainer.facts, self.length)
        self.size = ShadowFederation(replace(algorithm, trainer=trainer), data, task, seed).flat_module.layout.size
        self.share = min(1.0, max(self.size / CROWD, 1.0) / self.cohort)
        self.canaries = replace(algorithm, trainer=replace(trainer, share=self.share))
        self.silent = replace(algorithm, trainer=replace(trainer, share=0.0))
        if self.cohort < whole and self._round(0)[1][1].released is None:  # too few for the protocol
            self.cohort = whole

    def estimate(self, seconds: float, precision: float = PRECISION) -> CanaryEstimate:
        """The estimate from as many rounds as the precision needs, or as fit in the time."""
        begun, figures, noise = time.perf_counter(), list[tuple[float, float, float]](), list[Tensor]()
        repeats, refusal = list[float](), ""
        for number in range(MOST_ROUNDS):
            with_canaries, without = self._round(number)
            figures += self._figures(number, with_canaries, without)
            refusal = refusal or next(iter(with_canaries[1].declined.values()), "")
            noise = [*noise[-1:], *self._noise(without[1])]
            if len(noise) > 1:
                repeats.append(_cosine(noise[0], noise[1]))
            found = self._estimate(figures, number + 1, repeats, refusal)
            enough = number + 1 >= LEAST_ROUNDS and len(figures) >= LEAST_CANARIES and found.error <= precision
            if enough or (not figures and number + 1 >= IDLE_ROUNDS) or time.perf_counter() - begun > seconds:
                return found
        return found

    def _estimate(
        self, figures: Sequence[tuple[float, float, float]], rounds: int, repeats: Sequence[float], refusal: str
    ) -> CanaryEstimate:
        columns = torch.tensor(figures, dtype=torch.float64).reshape(-1, 3).T
        again = sum(repeats) / len(repeats) if repeats else 0.0
        return CanaryEstimate(columns[0], columns[1], columns[2], self.size, rounds, again, refusal)

    def _round(self, number: int) -> tuple[tuple[ShadowFederation, RoundView], tuple[ShadowFederation, RoundView]]:
        """One shadow round with canaries and without, the first of a run with a seed of its own."""
        seed = Key.root(self.seed).derive("canary round", number).seed() >> 1
        both = []
        for algorithm in (self.canaries, self.silent):
            federation = ShadowFederation(algorithm, self.data, self.task, seed)
            clients = federation.data.clients
            drawn = federation.key.derive("canary cohort").permutation(len(clients))[: self.cohort]
            both.append((federation, federation.round([clients[place] for place in drawn.tolist()])))
        return both[0], both[1]

    def _figures(
        self,
        number: int,
        with_canaries: tuple[ShadowFederation, RoundView],
        without: tuple[ShadowFederation, RoundView],
    ) -> list[tuple[float, float, float]]:
        """Cosine, control and shift of each canary in the round's release."""
        federation, view = with_canaries
        found = []
        for client in view.counted:
            key = federation.setup.client_algorithm.client_key(client, 0).derive(TRAINER)
            released, silent = self._released(view, client), self._released(without[1], client)
            if not is_canary(key, self.share) or released is None or silent is None:
                continue
            canary, scale = direction(key, self.size).double(), float(silent.norm())
            part = float(canary @ (released - silent))
            shift = part / scale if scale else (math.inf if part > 0 else 0.0)
            found.append((_cosine(canary, released), _cosine(canary, silent), shift))
        return found

    def _released(self, view: RoundView, client: str) -> Tensor | None:
        update = view.updates.get(client) if self.local else view.released
        return None if update is None else update.delta.double()

    def _noise(self, view: RoundView) -> list[Tensor]:
        """The release of a round without canaries, which is noise alone."""
        released = self._released(view, next(iter(view.counted), ""))
        return [] if released is None else [released]


def _cosine(one: Tensor, other: Tensor) -> float:
    lengths = float(one.norm() * other.norm())
    return float(one @ other) / lengths if lengths else 0.0
