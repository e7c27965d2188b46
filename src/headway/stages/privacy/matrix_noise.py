"""Noise that is correlated over rounds, for clients that cannot be sampled at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from headway.core.context import ServerContext
from headway.core.errors import ConfigError
from headway.core.fields import at_least, positive
from headway.core.flow import Flow, PrivacyEvent
from headway.core.stage import Place, Stage, stages
from headway.core.update import Tensors, Update
from headway.numerics.keys import Key
from headway.numerics.secure_random import normal
from headway.stages.privacy.factorisation import BandedToeplitz, BinaryTree, Factorisation, participations
from headway.stages.privacy.gaussian import effect_of, relation_of, released, without_numbers
from headway.stages.privacy.noise_grid import NoiseGrid

KEPT_APART = "the rounds of late updates are not kept apart"
KEPT, FRESH, NEXT = "kept ", "fresh ", "next"  # names in the state, the first two before that of a vector


@final
@stages.register
@dataclass(frozen=True)
class MatrixNoise(Stage):
    """Gaussian noise that partly cancels in later rounds (DP-FTRL, matrix factorisation).

    Formula: round t releases `aggregate_t + (C^-1 z)_t`, the rows of z being independent `N(0, (multiplier * S *
    sens(C))^2 I)`: the noise of a Gaussian mechanism of `multiplier` on C times the stream of all `rounds` aggregates.
    S is the most that one client can change one aggregate by, read from the flow; sens(C) the most that all its rounds
    can change C times the stream by, if S is 1.  The sum of all releases so far, which is the model, has far less noise
    than with independent noise of the same privacy.

    kind: `banded`, a Toeplitz matrix of the first `bands` coefficients of the square root of the matrix of prefix sums;
    `tree`, the binary tree of DP-FTRL.  rounds: how many rounds the mechanism is for; all of them are one release of
    that multiplier, and a round beyond is refused.  No amplification by sampling is needed, and none is claimed: any
    client may be in any cohort that the sampler's separation allows.  `banded` needs a sampler that keeps a client away
    for `bands` rounds from the start of one to the start of the next (Spaced); one band is independent noise.
    Units: multiplier is that of the whole run.
    Shapes: the server keeps `bands - 1` vectors `[P]`, or one for each level of the tree, in float64.

    Raises:
        ConfigError: for a number out of its range; in a round beyond `rounds`.
        ChainRefused: without a bound of one client's effect; with more bands than the sampler's separation; where late
            updates are kept, whose rounds nobody separates; behind AdaptiveClip, since noise that is to cancel must be
            in the same units in every round.

    Reference: Kairouz et al., arXiv 2103.00039, Algorithm 1 (tree); Choquette-Choo et al., arXiv 2306.08153, sections 3
    and 4 (banded); Denisov et al., arXiv 2202.08312, Theorem 2.1, for adaptive streams.
    Differs from the paper: the coefficients are the closed form of arXiv 2202.11205, and not optimised for the bands.

    >>> MatrixNoise(multiplier=2.0, rounds=100, bands=10)
    MatrixNoise(multiplier=2.0, rounds=100, kind='banded', bands=10)
    """

    place: ClassVar[Place] = Place.RELEASE
    multiplier: float = positive()
    rounds: int = at_least(1)
    kind: Literal["banded", "tree"] = "banded"
    bands: int | None = at_least(1, None, only_with=("kind", "banded"))

    def connect(self, flow: Flow) -> Flow:
        """Needs the bound, rounds in step and the separation; sets the event of all rounds together."""
        flow = flow.set(self, bands=self.bands or 1)
        flow.require(self, sum=True, bound=True, fixed_units=True, synchronous=KEPT_APART, separated=True)
        flow.require(self, not_rebased="what it adds is not clipped")
        separation = self._separation(flow)
        counts = {"rounds": self.rounds, "separation": separation, "bands": self.bands or self.rounds}
        counts |= {"participations": participations(self.rounds, separation)}
        details = {**counts, "kind": self.kind, "matrix_sensitivity": self._sensitivity(flow)}
        effect, relation = effect_of(flow), relation_of(flow)
        event = PrivacyEvent("matrix", self.multiplier, effect, released(flow), relation=relation, details=details)
        return flow.set(self, events=(*flow.events, event))

    def init(self, w: Tensor) -> Tensors:
        """No round has been released."""
        return {NEXT: torch.zeros(1, dtype=torch.float64)}

    def broadcast(self, state: Tensors) -> Tensors:
        """Nothing; a round that the mechanism is not for is refused before anybody trains."""
        self._check(int(state[NEXT]))
        return {}

    def release(self, update: Update, ctx: ServerContext) -> Update:
        """The aggregate with the row of this round.

        What is drawn goes with the release, under this stage's name, and becomes part of its state.
        """
        state = ctx.states.get(type(self).__name__, self.init(ctx.global_params))
        self._check(int(ctx.round))
        first, sizes = int(state[NEXT]), {name: v.shape[-1] for name, v in sorted(update.vectors.items())}
        grid = NoiseGrid.of(update, self.multiplier * self._sensitivity(ctx.flow), effect_of(ctx.flow))
        fresh = self._fresh(first, int(ctx.round), sizes, ctx)
        rows = {name: self._rows(name, state, drawn)[0] for name, drawn in fresh.items()}
        noisy = without_numbers(grid.shift(update, rows), ctx.flow)
        own = {f"{type(self).__name__}/{FRESH}{name}": drawn for name, drawn in fresh.items()}
        return noisy.with_vectors(**own)

    def receive(self, update: Update, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The state after the round; the release is left as it is."""
        fresh = {name.removeprefix(FRESH): drawn for name, drawn in state.items() if name.startswith(FRESH)}
        kept = {name: tensor for name, tensor in state.items() if name.startswith(KEPT)}
        kept |= {KEPT + name: self._rows(name, state, drawn)[1] for name, drawn in fresh.items()}
        return update, {**kept, NEXT: torch.full_like(state[NEXT], int(ctx.round) + 1)}

    @property
    def factorisation(self) -> Factorisation:
        """The matrix C."""
        return BinaryTree(self.rounds) if self.bands is None else BandedToeplitz(self.rounds, self.bands)

    def _sensitivity(self, flow: Flow) -> float:
        """sens(C) for the separation of the flow's sampler."""
        return self.factorisation.sensitivity(self._separation(flow))

    def _separation(self, flow: Flow) -> int:
        """The sampler's separation; before it is known, the least that is allowed."""
        return (self.bands or 1) if flow.sampler is None else flow.sampler.separation

    def _fresh(self, first: int, last: int, sizes: Mapping[str, int], ctx: ServerContext) -> dict[str, Tensor]:
        """The rows z of the rounds `first..last`, `[rows, length]` for each vector: of this round, and of earlier ones
        that released nothing."""
        assert isinstance(ctx.private, Key)
        drawn = [normal(ctx.private.derive("row", each), sum(sizes.values())) for each in range(first, last + 1)]
        parts = torch.stack(drawn).to(ctx.global_params.device).split(list(sizes.values()), dim=-1)
        return dict(zip(sizes, parts, strict=True))

    def _rows(self, name: str, state: Tensors, fresh: Tensor) -> tuple[Tensor, Tensor]:
        """The last of the rows of `C^-1 z` for this fresh noise, and what is kept then."""
        matrix, first = self.factorisation, int(state[NEXT])
        kept = state.get(KEPT + name, fresh.new_zeros(matrix.rows, fresh.shape[-1]))
        row = fresh[0]
        for place, drawn in enumerate(fresh):
            row, kept = matrix.step(kept, drawn, first + place)
        return row, kept

    def _check(self, round: int) -> None:
        if round >= self.rounds:
            raise ConfigError(
                f"MatrixNoise needs a round that its matrix has a row for, found round {round + 1} with rounds = "
                f"{self.rounds}; the privacy of further rounds is not accounted for. Start a run with more rounds."
            )
