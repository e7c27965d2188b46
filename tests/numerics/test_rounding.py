"""Stochastic rounding has the right mean, and conditional rounding the length that it promises."""

import math

import pytest
import torch

from headway.numerics.keys import Key
from headway.numerics.rounding import BETA, conditional_rounding, rounded_norm, stochastic_rounding

KEY = Key.root(3)


def test_whole_numbers_stay():
    whole = torch.arange(-5.0, 6.0).double()
    assert torch.equal(stochastic_rounding(whole, KEY.uniform(11)), whole)


def test_the_mean_and_the_variance_are_those_of_the_closed_form():
    """Fraction f: mean x, variance f (1 - f); 40,000 draws, six standard errors."""
    x = torch.tensor([0.0, 0.1, 0.5, 0.9, -0.1, -2.7, 12.25]).double()
    draws = 40_000
    rounded = stochastic_rounding(x, KEY.derive("mean").uniform(draws * len(x)).reshape(draws, -1))
    fraction = x - x.floor()
    variance = fraction * (1 - fraction)
    assert bool(((rounded.mean(0) - x).abs() <= 6 * (variance / draws).sqrt()).all())
    assert bool(((rounded.var(0) - variance).abs() <= 6 * 0.25 / math.sqrt(draws)).all())


@pytest.mark.parametrize(("norm", "size"), [(1.0, 1), (3.0, 50), (40.0, 1000), (0.5, 200)])
def test_conditional_rounding_never_passes_its_limit_and_refuses_few_draws(norm, size):
    limit = rounded_norm(norm, size)
    x = KEY.derive("direction").uniform(300 * size).reshape(300, size) - 0.5
    x = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True) * norm
    keys = KEY.for_each("client", names=range(300))
    rounded = conditional_rounding(x, keys, limit)
    assert bool((torch.linalg.vector_norm(rounded, dim=-1) <= limit).all())
    assert bool(((rounded - x).abs() < 1).all())
    first = stochastic_rounding(x, keys.derive("rounding", 0).uniform(size))
    assert (torch.linalg.vector_norm(first, dim=-1) > limit).double().mean() <= BETA


def test_the_limit_is_the_smaller_of_the_two():
    assert rounded_norm(1.0, 4) == min(math.sqrt(1 + 1 + 1 * (1 + 1)), 3.0)
    assert rounded_norm(1.0, 4, beta=1e-9) == 3.0


@pytest.mark.parametrize("limit", [1.0, 1.5, 0.0])
def test_many_clients_are_rounded_as_one_by_one(limit):
    """With limits that refuse most draws, and one that refuses all: then rounding is towards zero."""
    x = KEY.derive("x").uniform(40).reshape(10, 4) - 0.5
    keys = KEY.for_each("client", names=range(10))
    together = conditional_rounding(x, keys, limit)
    alone = torch.stack([conditional_rounding(x[i], keys[i], limit) for i in range(10)])
    assert torch.equal(together, alone)
    assert bool((torch.linalg.vector_norm(together, dim=-1) <= limit).all())


def test_the_condition_shifts_the_mean_by_no_more_than_is_stated():
    x = torch.full((8,), 0.5).double()
    limit = rounded_norm(float(torch.linalg.vector_norm(x)), 8)
    draws = conditional_rounding(x.expand(20_000, 8), KEY.for_each("bias", names=range(20_000)), limit)
    shift = torch.linalg.vector_norm(draws.mean(0) - x)
    assert 0.01 < shift <= BETA / (1 - BETA) * math.sqrt(8)
