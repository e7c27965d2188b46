"""A rotation keeps lengths and turns back exactly; its coordinates are as even as is stated."""

import math

import pytest
import torch

from headway.numerics.hadamard import block, hadamard, rotated, signs, spread, turned_back
from headway.numerics.keys import Key

KEY = Key.root(11)


def random(*shape):
    return KEY.derive("x", str(shape)).uniform(math.prod(shape)).reshape(shape) - 0.5


@pytest.mark.parametrize("size", [1, 2, 8, 32])
def test_the_transform_is_the_matrix_of_signs(size):
    matrix = torch.tensor([[(-1.0) ** (i & j).bit_count() for j in range(size)] for i in range(size)]).double()
    x = random(3, size)
    torch.testing.assert_close(hadamard(x), x @ matrix / math.sqrt(size), rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 15, 100, 1000, 1025])
def test_a_rotation_keeps_lengths_and_angles_and_turns_back(size):
    x = random(4, size)
    turned = rotated(x, KEY)
    torch.testing.assert_close(turned @ turned.mT, x @ x.mT, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(turned_back(turned, KEY), x, rtol=0, atol=1e-14)
    assert torch.equal(rotated(x[2], KEY), turned[2])
    assert torch.equal(turned_back(turned[2], KEY), turned_back(turned, KEY)[2])
    if size > 3:
        assert not torch.allclose(rotated(x, KEY.derive("another")), turned)


@pytest.mark.parametrize("size", [300, 512])
def test_a_coordinate_has_at_most_the_stated_variance(size):
    """A vector of one coordinate, wherever that is, over 400 keys: mean 0, variance at most 1 / m."""
    for place in (0, size // 2, size - 1):
        x = torch.zeros(size, dtype=torch.float64)
        x[place] = 1.0
        turned = torch.stack([rotated(x, KEY.derive(place, draw)) for draw in range(400)])
        assert float(turned.square().mean(0).max()) <= 1.5 / block(size)
        assert float(turned.mean(0).abs().max()) <= 5 / math.sqrt(400 * block(size))
        assert float(turned.abs().max()) <= spread(size)


def test_signs_are_fair_and_uncorrelated():
    drawn = signs(KEY.derive("signs"), 20_000)
    assert set(drawn.tolist()) == {1.0, -1.0}
    assert abs(float(drawn.mean())) < 5 / math.sqrt(20_000)
    for lag in (1, 63, 64):
        assert abs(float((drawn[lag:] * drawn[:-lag]).mean())) < 5 / math.sqrt(19_900)


def test_the_spread_is_that_of_the_union_bound():
    assert spread(1) == spread(20) == 1.0
    assert spread(2**20) == pytest.approx(math.sqrt(2 * math.log(2**21 / 1e-6) / 2**20))
