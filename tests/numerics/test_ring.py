"""An update as one vector modulo a power of two: sums are exact, and the modulus is large enough by proof."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway.core.errors import ConfigError
from headway.numerics.ring import MOST_BITS, RingLayout, centred, noise_tail, residues, ring_bits

numbers = st.integers(min_value=0, max_value=2**30)


@given(st.integers(1, MOST_BITS), st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=5))
def test_centred_numbers_are_the_same_modulo_the_ring(bits, drawn):
    there = torch.tensor(drawn)
    assert residues(there, bits).tolist() == [number % 2**bits for number in drawn]
    half = 2 ** (bits - 1)
    assert centred(there, bits).tolist() == [(number + half) % 2**bits - half for number in drawn]


@given(st.integers(1, 10**6), st.integers(1, 2**31 - 1), st.floats(0, 1e12))
def test_no_sum_leaves_half_the_modulus_and_one_bit_less_would_not_do(clients, largest, variance):
    most = clients * largest + noise_tail(clients * variance)
    bits = ring_bits(clients, largest, variance)
    for extreme in (most, -most):
        assert -(2 ** (bits - 1)) <= extreme < 2 ** (bits - 1)
        if bits <= MOST_BITS:
            assert int(centred(residues(torch.tensor(extreme), bits), bits)) == extreme
    assert most > 2 ** (bits - 2) - 1


def test_the_bits_of_the_published_example():
    assert ring_bits(100, 2**15 - 1) == 23


@given(
    st.integers(2, 20),
    st.integers(1, 12),
    st.lists(numbers, min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_a_split_sum_is_the_sum_of_the_parts(quantised, clients, weights, random):
    largest = 2 ** (quantised - 1) - 1
    layout = RingLayout(
        {"delta": 5, "control": 3}, ring_bits(clients, largest), largest, {"weight": 2.0**30, "clipped": 1.0}
    )
    total, sums = torch.zeros(layout.size, dtype=torch.int64), {"delta": [0] * 5, "control": [0] * 3}
    weight = clipped = 0.0
    for client in range(clients):
        vectors = {
            n: [random.choice((-largest, largest, random.randint(-largest, largest))) for _ in v]
            for n, v in sums.items()
        }
        sums = {n: [a + b for a, b in zip(v, vectors[n], strict=True)] for n, v in sums.items()}
        one, share = float(weights[client % len(weights)]), random.choice((0.0, 1.0, 0.25, -0.5))
        weight, clipped = weight + one, clipped + share
        parts = {n: torch.tensor(v) for n, v in vectors.items()}
        counted = {"weight": one, "clipped": share}
        joined = layout.join(parts, {n: torch.tensor(v, dtype=torch.float64) for n, v in counted.items()})
        assert joined.shape == (layout.size,)
        assert bool(((joined >= 0) & (joined < 2**layout.bits)).all())
        total = residues(total + joined, layout.bits)
    split, counts = layout.split(total)
    assert {n: v.tolist() for n, v in split.items()} == sums
    assert (float(counts["weight"]), float(counts["clipped"])) == (weight, clipped)


def test_fractions_have_a_stated_resolution():
    layout = RingLayout({"delta": 1}, 12, 127, {"weight": 3.0})
    third = torch.tensor(1 / 3, dtype=torch.float64)
    _, counts = layout.split(layout.join({"delta": torch.tensor([0])}, {"weight": third}))
    assert 0 < abs(float(counts["weight"]) - 1 / 3) <= 2**-31


def test_many_clients_are_joined_as_one_by_one():
    layout = RingLayout({"delta": 4}, 12, 127, {"weight": 5.0})
    vectors, weights = torch.randint(-127, 128, (3, 4)), torch.tensor([0.5, 5.0, 1.0]).double()
    together = layout.join({"delta": vectors}, {"weight": weights})
    alone = [layout.join({"delta": vectors[i]}, {"weight": weights[i]}) for i in range(3)]
    assert torch.equal(together, torch.stack(alone))


def refused(pattern, **changes):
    options = {"lengths": {"delta": 2}, "bits": 12, "largest": 127, "numbers": {"weight": 1.0}} | changes
    with pytest.raises(ConfigError, match=pattern):
        RingLayout(**options)


def test_what_does_not_fit_is_refused():
    refused("2 to 62 bits", bits=63)
    refused("integers of up to 2048 in 12 bits", largest=2048)
    refused("'weight' must have a largest value", numbers={"weight": 2.0**40})
    layout = RingLayout({"delta": 2}, 12, 127, {"weight": 1.0})
    good = {"delta": torch.tensor([1, 2])}
    for bad in (1.5, -1.5, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="'weight' must be at most 1"):
            layout.join(good, {"weight": torch.tensor(bad)})
    with pytest.raises(ConfigError, match="the ring holds delta, weight, found delta"):
        layout.join(good, {})
    for vector in (torch.tensor([1]), torch.tensor([1.0, 2.0])):
        with pytest.raises(ConfigError, match="'delta' must be 2 integers"):
            layout.join({"delta": vector}, {"weight": torch.tensor(1.0)})
    with pytest.raises(ConfigError, match="the sum must have"):
        layout.split(torch.zeros(3, dtype=torch.int64))
