"""Canary rounds: how much of a client's direction is left in what is released, and the epsilon that it amounts to."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headway.audit.canary_trainer import CanaryTrainer, direction, is_canary
from headway.audit.normal_privacy import gaussian_epsilon
from headway.audit.round_view import RoundView
from headway.audit.shadow_federation import ShadowFederation
from headway.client_state.store import TRAINER
from headway.core.algorithm import Algorithm
from headway.data import FederatedData
from headway.engines.grouping import expected_cohort
from headway.model.task import Task

HOSTILE = 100.0  # times the bound: the length of a canary, so that a clip that does not work shows
PRECISION = 0.035  # the relative standard error of the estimated noise that is aimed at
COARSEST = 0.12  # and the largest with which an estimate is judged: noise of half the strength is then 6 of them away
MOST_CANARIES = 40_000
CROWD = 100  # parameters for each canary of a round, so that canaries do not drown each other


@dataclass(frozen=True, slots=True)
class CanaryEstimate:
    """What the canaries of several shadow rounds show.

    cosines: of each canary with the release it is in, `[K]`.  size: P.  multiplier: the estimated noise over the
    sensitivity; error: its relative standard error.
    """

    cosines: Tensor
    size: int
    rounds: int

    @property
    def mean(self) -> float:
        """The mean cosine; near 0 where nothing of a client is left."""
        return float(self.cosines.mean()) if len(self.cosines) else 0.0

    @property
    def deviation(self) -> float:
        """The standard deviation of the cosines; near 1/sqrt(P) where noise is most of the release."""
        return float(self.cosines.std()) if len(self.cosines) > 1 else math.inf

    @property
    def multiplier(self) -> float:
        """z = sd / mean: the cosines of canaries that took part are N(mean, sd^2), of others N(0, sd^2)."""
        return self.deviation / self.mean if self.mean > 0 else math.inf

    @property
    def error(self) -> float:
        """The relative standard error of z: `sqrt(z^2 + 1/2) / sqrt(K)`."""
        count = len(self.cosines)
        return math.sqrt((self.multiplier**2 + 0.5) / count) if count > 1 and self.mean > 0 else math.inf

    def epsilon(self, delta: float) -> float:
        """The estimate for one release."""
        return 0.0 if math.isinf(self.multiplier) else gaussian_epsilon(self.multiplier, delta)

    def interval(self, delta: float) -> tuple[float, float]:
        """The estimate at two standard errors below and above."""
        if math.isinf(self.error):
            return 0.0, math.inf
        low, high = self.multiplier * (1 + 2 * self.error), self.multiplier * max(1 - 2 * self.error, 1e-9)
        return gaussian_epsilon(low, delta), gaussian_epsilon(high, delta)


def canaries_needed(multiplier: float) -> int:
    """How many canaries give an estimate of this noise multiplier to `PRECISION`.

    >>> canaries_needed(1.0)
    1225
    """
    return min(MOST_CANARIES, math.ceil((multiplier**2 + 0.5) / PRECISION**2))


class CanaryRounds:
    """Shadow rounds in which canaries stand in for clients, through the chain's own path from client to release.

    c being a canary's direction, uniform on the sphere, and r the release: `g = <c, r> / ||r||`.  Under Gaussian noise
    of z times the sensitivity, g is N(m, s^2) with m / s = 1 / z, and N(0, s^2) for a direction that took no part, so
    that telling them apart is as hard as it is for the Gaussian mechanism of multiplier s / m.

    Each canary is `HOSTILE` times as long as the chain's bound.  The other clients send nothing, and the auditor knows
    so, as differential privacy has it: an attacker may know all but one.

    Reference: Andrew et al., arXiv 2302.03098, Algorithms 1 and 2.
    Differs from the paper: the canaries' rounds are shadow rounds with no other updates, and both distributions have
    the pooled deviation, since the ratio of two estimated ones makes the estimate of a small epsilon wander.
    """

    def __init__(self, algorithm: Algorithm, data: FederatedData, task: Task, seed: int, local: bool = False) -> None:
        last = algorithm.flows(population=data.population)
        bounds = [flow.bound for flow in last if flow.bound is not None and math.isfinite(flow.bound)]
        trainer = CanaryTrainer(algorithm.trainer.facts, HOSTILE * (bounds[0] if bounds else 1.0))
        canaries = replace(algorithm, trainer=trainer)
        self.federation = ShadowFederation(canaries, data, task, seed)
        self.local = local
        size = self.federation.flat_module.layout.size
        self.cohort = min(expected_cohort(algorithm, len(data.clients)), len(data.clients))
        self.share = min(1.0, max(size / CROWD, 1.0) / self.cohort)
        if self.share < 1:
            trainer = replace(trainer, share=self.share)
            self.federation = ShadowFederation(replace(algorithm, trainer=trainer), data, task, seed)
        self.size = size

    def estimate(self, multiplier: float, seconds: float) -> CanaryEstimate:
        """The estimate from as many canaries as noise of this multiplier needs, or as fit in the time.

        A round that too few answered counts for nothing.
        """
        wanted, begun = canaries_needed(multiplier), time.perf_counter()
        found, rounds = list[float](), 0
        while len(found) < wanted and time.perf_counter() - begun < seconds:
            found += self._round(rounds)
            rounds += 1
        return CanaryEstimate(torch.tensor(found, dtype=torch.float64), self.size, rounds)

    def _round(self, number: int) -> list[float]:
        """The cosines of one shadow round's canaries, each round with keys of its own."""
        federation = self.federation
        clients = federation.data.clients
        key = federation.key.derive("canary cohort", number)
        cohort = [clients[place] for place in key.permutation(len(clients))[: self.cohort].tolist()]
        state = replace(federation.start, round=number)
        view = federation.round(cohort, state)
        return [cosine for client in view.counted for cosine in self._cosine(client, number, view)]

    def _cosine(self, client: str, number: int, view: RoundView) -> Sequence[float]:
        """The cosine of a client's canary with what it is in; none for a client that sends nothing."""
        key = self.federation.setup.client_algorithm.client_key(client, number).derive(TRAINER)
        if not is_canary(key, self.share):
            return ()
        released = view.updates[client].delta if self.local else view.released.delta if view.released else None
        if released is None:
            return ()
        wide = released.double()
        length = float(wide.norm())
        return (float(direction(key, self.size).double() @ wide) / length if length else 0.0,)
