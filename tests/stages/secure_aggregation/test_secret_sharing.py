"""Shamir's sharing: any threshold of shares gives the secret, fewer tell nothing."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.stages.secure_aggregation.secret_sharing import PRIME, SHARE, secret_of, shares_of


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.integers(0, 6), st.integers(0, 2**32))
def test_any_threshold_of_shares_gives_the_secret(secret, threshold, more, seed):
    chance = random.Random(seed)
    points = chance.sample(range(1, 2000), threshold + more)
    shares = dict(zip(points, shares_of(secret, threshold, points, bytes(32)), strict=True))
    some = dict(chance.sample(sorted(shares.items()), threshold))
    assert secret_of(some, threshold) == secret
    assert secret_of(shares, threshold) == secret
    some.popitem()
    assert secret_of(some, threshold) is None


def test_the_largest_secret_and_the_smallest():
    for secret in (bytes(32), b"\xff" * 32):
        shares = shares_of(secret, 3, [1, 2, 3], b"s" * 32)
        assert secret_of(dict(enumerate(shares, 1)), 3) == secret
        assert {len(share) for share in shares} == {SHARE}


def test_fewer_shares_go_with_every_secret():
    """For two of three shares and any other secret there is a third share that gives it."""
    shares = [int.from_bytes(share, "big") for share in shares_of(b"a" * 32, 3, [1, 2, 3], b"s" * 32)]
    other = int.from_bytes(b"b" * 32, "big")
    third = (other - 3 * shares[0] + 3 * shares[1]) % PRIME
    made = {1: shares[0], 2: shares[1], 3: third}
    assert secret_of({point: share.to_bytes(SHARE, "big") for point, share in made.items()}, 3) == b"b" * 32


def test_shares_of_one_secret_look_unrelated():
    """The first share's bits are balanced over seeds, though the secret is the same."""
    firsts = [int.from_bytes(shares_of(bytes(32), 2, [1], bytes([n, *bytes(31)]))[0], "big") for n in range(200)]
    ones = [sum(first >> bit & 1 for first in firsts) for bit in range(521)]
    assert all(50 < count < 150 for count in ones)
    assert abs(sum(ones) - 521 * 100) < 6 * (521 * 50) ** 0.5


def test_a_changed_share_gives_another_secret_or_none():
    shares = dict(enumerate(shares_of(b"a" * 32, 3, [1, 2, 3], b"s" * 32), 1))
    shares[2] = bytes([shares[2][0], shares[2][1] ^ 1, *shares[2][2:]])
    assert secret_of(shares, 3) != b"a" * 32


def test_the_same_seed_gives_the_same_shares():
    assert shares_of(b"a" * 32, 3, [1, 2, 3], b"s" * 32) == shares_of(b"a" * 32, 3, [1, 2, 3], b"s" * 32)
    others = {tuple(shares_of(b"a" * 32, 3, [1, 2, 3], bytes([n]) * 32)) for n in range(5)}
    assert len(others) == 5


@pytest.mark.parametrize(
    ("secret", "threshold", "points"),
    [(b"short", 2, [1, 2]), (b"a" * 32, 2, [1, 1]), (b"a" * 32, 2, [0, 1]), (b"a" * 32, 0, [1, 2])],
)
def test_a_sharing_that_gives_a_secret_away_is_refused(secret, threshold, points):
    with pytest.raises(ValueError, match="32 bytes"):
        shares_of(secret, threshold, points, bytes(32))


def test_every_choice_of_three_of_five():
    shares = dict(enumerate(shares_of(b"q" * 32, 3, range(1, 6), b"s" * 32), 1))
    for chosen in itertools.combinations(shares, 3):
        assert secret_of({point: shares[point] for point in chosen}, 3) == b"q" * 32
