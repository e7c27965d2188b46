"""Lower-triangular factorisations of prefix sums: how the noise of one round cancels in later ones, and for what price.

A matrix C of `rounds` rows and columns stands for a mechanism that adds `C^-1 z` to the stream of aggregates, z being
independent noise: the same as noise z on C times the stream.  Its sensitivity is the largest L2 change of C times the
stream by one client, each of whose contributions has norm 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


class Factorisation(Protocol):
    """A factorisation that is applied row by row."""

    @property
    def rows(self) -> int:
        """How many vectors are kept between rounds."""
        ...

    def sensitivity(self, separation: int) -> float:
        """The sensitivity where a client takes part at most once in any `separation` rounds in a row."""
        ...

    def step(self, kept: Tensor, fresh: Tensor, round: int) -> tuple[Tensor, Tensor]:
        """The row `round` of `C^-1 z`, `[P]`, from what is kept, `[rows, P]`, and the row z of fresh noise; and what is
        kept after it."""
        ...


def participations(rounds: int, separation: int) -> int:
    """The largest number of rounds in which a client can take part.

    >>> participations(10, 3), participations(9, 3)
    (4, 3)
    """
    return -(-rounds // separation)


@dataclass(frozen=True)
class BandedToeplitz:
    """The first bands of the square root of the matrix of prefix sums.

    Formula: `C_{t,t-j} = c_j` for `j < bands`, `c_j = binomial(2 j, j) / 4^j`, and `y_t = z_t - sum_{0<j<bands} c_j
    y_{t-j}`.  With one band C is the identity and the noise is independent; with as many as there are rounds C is the
    square root of the lower-triangular matrix of ones.  Contributions that are `bands` rounds apart or more meet
    different rows, so the sensitivity is that of k columns, exactly.

    Reference: Choquette-Choo et al., arXiv 2306.08153, section 3 (banded, separation); Fichtenberger, Henzinger,
    Upadhyay, arXiv 2202.11205, for the coefficients.

    >>> [round(c, 4) for c in BandedToeplitz(rounds=8, bands=4).coefficients]
    [1.0, 0.5, 0.375, 0.3125]
    """

    rounds: int
    bands: int

    @cached_property
    def coefficients(self) -> tuple[float, ...]:
        """c_0, ..., c_{bands - 1}."""
        found = [1.0]
        for place in range(1, self.bands):
            found.append(found[-1] * (2 * place - 1) / (2 * place))
        return tuple(found)

    @property
    def rows(self) -> int:
        """The last rows of the correlated noise."""
        return self.bands - 1

    def sensitivity(self, separation: int) -> float:
        """`(k - 1) sum c_j^2`, and of the last column what has not ended; its root."""
        assert self.bands <= separation
        times = participations(self.rounds, separation)
        last = self.rounds - (times - 1) * separation
        squares = [c * c for c in self.coefficients[: self.rounds]]
        return math.sqrt((times - 1) * math.fsum(squares) + math.fsum(squares[:last]))

    def step(self, kept: Tensor, fresh: Tensor, round: int) -> tuple[Tensor, Tensor]:
        """`y_t`; kept: `y_{t-1}, y_{t-2}, ...`, zeros before the first round."""
        if not self.rows:
            return fresh, kept
        earlier = torch.tensor(self.coefficients[1:], dtype=fresh.dtype, device=fresh.device)
        row = fresh - earlier @ kept
        return row, torch.cat([row.unsqueeze(0), kept[:-1]])


@dataclass(frozen=True)
class BinaryTree:
    """Noise on the nodes of a binary tree over the rounds: a prefix sum is that of at most log2(rounds) + 1 nodes.

    Formula: the prefix of t rounds has the noise of one node for each 1 in the binary digits of t; round t = 1, 2, ...
    takes away the nodes that its own one, of 2^l rounds, replaces, 2^l being the largest power of two that divides t.
    The square of the sensitivity is, over all levels l, at most k times the most contributions in one node,
    `ceil(2^l / separation)`.

    Reference: Kairouz et al., arXiv 2103.00039, Algorithm 1 and appendix B; Dwork et al., STOC 2010.
    Differs from the paper: no variance reduction of Honaker, which needs the noise of completed subtrees as well.

    >>> BinaryTree(rounds=8).rows
    4
    """

    rounds: int

    @property
    def rows(self) -> int:
        """The levels of the tree, with the noise of each one's present node."""
        return self.rounds.bit_length()

    def sensitivity(self, separation: int) -> float:
        """The root of the sum over the levels, each bounded by its nodes and by the contributions."""
        times, squared = participations(self.rounds, separation), 0
        for level in range(self.rows):
            most = min(times, participations(2**level, separation))  # in one node
            squared += min(times * most, (self.rounds >> level) * most**2)
        return math.sqrt(squared)

    def step(self, kept: Tensor, fresh: Tensor, round: int) -> tuple[Tensor, Tensor]:
        """The noise of the new node without that of the nodes below it; kept: the node of each level."""
        count = round + 1
        level = (count & -count).bit_length() - 1
        row = fresh - kept[:level].sum(0)
        after = kept.clone()
        after[:level] = 0.0
        after[level] = fresh
        return row, after
