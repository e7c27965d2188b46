"""The factorisations against dense matrices: rows of C^-1 z, sensitivities over all participations, prefix errors."""

import itertools
import math

import pytest
import torch

from headway.numerics.keys import Key
from headway.stages.privacy.factorisation import BandedToeplitz, BinaryTree, participations

ROUNDS = (1, 2, 3, 7, 8, 13)


def dense_banded(rounds, bands):
    """C with the coefficients of (1 - x)^(-1/2), by the binomials."""
    C = torch.zeros(rounds, rounds, dtype=torch.float64)
    for t in range(rounds):
        for j in range(min(bands, t + 1)):
            C[t, t - j] = math.comb(2 * j, j) / 4**j
    return C


def dense_tree(rounds):
    """C: a row for each node that is complete within the rounds, of the rounds below it; and B, whose rows pick the
    nodes of each prefix."""
    nodes = [(a, 2**k) for k in range(rounds.bit_length()) for a in range(0, rounds - 2**k + 1, 2**k)]
    C = torch.zeros(len(nodes), rounds, dtype=torch.float64)
    for row, (start, size) in enumerate(nodes):
        C[row, start : start + size] = 1
    B = torch.zeros(rounds, len(nodes), dtype=torch.float64)
    for t in range(1, rounds + 1):
        start = 0
        for level in reversed(range(t.bit_length())):
            if t >> level & 1:
                B[t - 1, nodes.index((start, 2**level))] = 1
                start += 2**level
    return C, B, nodes


def patterns(rounds, separation):
    """All sets of rounds that lie `separation` apart or more."""
    for size in range(participations(rounds, separation) + 1):
        for chosen in itertools.combinations(range(rounds), size):
            if all(b - a >= separation for a, b in itertools.pairwise(chosen)):
                yield list(chosen)


def worst(C, rounds, separation):
    """The sensitivity for contributions of norm 1 in any directions: the root of the sum of |C^T C| over a pattern."""
    gram = (C.T @ C).abs()
    return math.sqrt(max(float(gram[chosen][:, chosen].sum()) for chosen in patterns(rounds, separation)))


def rows(matrix, z):
    kept, found = torch.zeros(matrix.rows, z.shape[1], dtype=torch.float64), []
    for t, fresh in enumerate(z):
        row, kept = matrix.step(kept, fresh, t)
        found.append(row)
    return torch.stack(found)


def fresh(rounds, size=3):
    return (Key.root(rounds).uniform(rounds * size) - 0.5).reshape(rounds, size)


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("bands", [1, 2, 5, 13])
def test_banded_rows_are_those_of_the_inverse(rounds, bands):
    z = fresh(rounds)
    expected = torch.linalg.solve(dense_banded(rounds, bands), z)
    torch.testing.assert_close(rows(BandedToeplitz(rounds, bands), z), expected, rtol=1e-12, atol=1e-13)


def test_all_bands_are_the_square_root_of_the_prefix_sums():
    C = dense_banded(13, 13)
    torch.testing.assert_close(C @ C, torch.ones(13, 13, dtype=torch.float64).tril())


@pytest.mark.parametrize("rounds", ROUNDS)
def test_tree_rows_give_each_prefix_its_nodes(rounds):
    C, B, nodes = dense_tree(rounds)
    torch.testing.assert_close(B @ C, torch.ones(rounds, rounds, dtype=torch.float64).tril())
    z = fresh(rounds)
    by_node = torch.zeros(len(nodes), z.shape[1], dtype=torch.float64)
    for t in range(1, rounds + 1):
        size = t & -t
        by_node[nodes.index((t - size, size))] = z[t - 1]
    torch.testing.assert_close(rows(BinaryTree(rounds), z).cumsum(0), B @ by_node, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("separation", [1, 2, 3, 5])
def test_the_banded_sensitivity_is_the_worst_of_all_participations(rounds, separation):
    for bands in range(1, separation + 1):
        exact = worst(dense_banded(rounds, bands), rounds, separation)
        assert BandedToeplitz(rounds, bands).sensitivity(separation) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("separation", [1, 2, 3, 5, 20])
def test_the_tree_sensitivity_is_never_below_the_worst(rounds, separation):
    used = dense_tree(rounds)[0]
    exact = worst(used, rounds, separation)
    claimed = BinaryTree(rounds).sensitivity(separation)
    assert exact * (1 - 1e-12) <= claimed <= exact * 1.35
    if separation >= rounds:
        assert claimed == pytest.approx(exact, rel=1e-12)


def test_fewer_separated_rounds_than_bands_would_be_worse_than_claimed():
    """Why the separation is enforced: closer contributions meet in the same rows."""
    claimed = BandedToeplitz(12, 4).sensitivity(4)
    assert worst(dense_banded(12, 4), 12, 2) > 1.2 * claimed


def test_prefixes_have_less_noise_than_with_independent_noise():
    """Root mean square over the rounds, each at the noise that its own sensitivity needs."""
    rounds, separation = 64, 16
    prefix = torch.ones(rounds, rounds, dtype=torch.float64).tril()

    def error(C, sensitivity):
        return float(torch.linalg.solve(C, prefix, left=False).square().sum(1).mean().sqrt()) * sensitivity

    independent = error(dense_banded(rounds, 1), BandedToeplitz(rounds, 1).sensitivity(separation))
    banded = error(dense_banded(rounds, 16), BandedToeplitz(rounds, 16).sensitivity(separation))
    assert banded < 0.6 * independent
