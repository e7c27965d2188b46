"""A node makes so many requests at once, and so many in a second."""

import pytest

from headway.federation.identity.token_bucket import LEAST, TokenBuckets


def test_a_burst_then_the_rate():
    buckets = TokenBuckets(rate=10, burst=3)
    assert [buckets.take("a", 0.0) for _ in range(3)] == [0, 0, 0]
    assert buckets.take("a", 0.0) == pytest.approx(0.1)
    assert buckets.take("a", 0.05) == pytest.approx(0.05)
    assert buckets.take("a", 0.101) == 0
    assert buckets.take("a", 0.101) > 0


def test_nodes_do_not_share_a_bucket():
    buckets = TokenBuckets(rate=1, burst=1)
    assert buckets.take("a", 0.0) == 0
    assert buckets.take("b", 0.0) == 0
    assert buckets.take("a", 0.0) > 0


def test_a_bucket_holds_no_more_than_a_burst():
    buckets = TokenBuckets(rate=10, burst=2)
    buckets.take("a", 0.0)
    assert [buckets.take("a", 1000.0) > 0 for _ in range(3)] == [False, False, True]


def test_a_clock_that_goes_back_gives_nothing():
    buckets = TokenBuckets(rate=10, burst=1)
    buckets.take("a", 100.0)
    assert buckets.take("a", 0.0) > 0


def test_names_that_nobody_uses_cost_no_memory():
    buckets = TokenBuckets(rate=10, burst=2)
    for number in range(3 * LEAST):
        buckets.take(f"node {number}", float(number))
    assert len(buckets._levels) < 2 * LEAST
    for _ in range(2):
        buckets.take("busy", 1e6)
    for number in range(3 * LEAST):
        buckets.take(f"other {number}", 1e6)
    assert buckets.take("busy", 1e6) > 0, "an empty bucket was forgotten"
