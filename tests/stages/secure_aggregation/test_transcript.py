"""The public course of a sum: names, bitmaps, digests."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway.core.errors import ExchangeRefused
from headway.stages.secure_aggregation.sum_rules import Rules
from headway.stages.secure_aggregation.transcript import (
    Cohort,
    SumBinding,
    direction,
    keys_text,
    rows_of,
    share_message,
    survivors_text,
    to_bytes,
    to_tensor,
)

RULES = Rules(0.7, 5, 4, 0.2)
COHORT = Cohort(tuple(f"c{place:02d}" for place in range(20)), RULES)


@given(st.sets(st.integers(0, 19)))
def test_a_bitmap_is_that_of_its_members(members):
    assert COHORT.members(to_tensor(COHORT.bitmap(members))) == members


@pytest.mark.parametrize("raw", [b"", b"\0\0", b"\0\0\0\0", b"\0\0\x10"])
def test_a_bitmap_of_another_cohort_is_refused(raw):
    with pytest.raises(ExchangeRefused, match="list of clients"):
        COHORT.members(to_tensor(raw))


def test_names_travel_as_they_are():
    names = ('"', "a\nb", "zzz", "ä")
    assert Cohort.of(Cohort(names, RULES).to_tensor(), RULES).names == names


@pytest.mark.parametrize("text", ["", "[", '"a"', "[1, 2]", '["b", "a"]', '["a", "a"]', '{"a": 1}'])
def test_what_is_no_cohort_is_refused(text):
    with pytest.raises(ExchangeRefused, match="cohort"):
        Cohort.of(to_tensor(text.encode()), RULES)


def test_a_context_is_of_one_run_chain_round_attempt_and_cohort():
    given = {"run": "r", "chain": "c", "round_": 1, "attempt": 0}
    others = [{"run": "s"}, {"chain": "d"}, {"round_": 2}, {"attempt": 1}, {"run": "rc", "chain": ""}]
    contexts = {COHORT.context(**{**given, **other}) for other in [{}, *others]}
    fewer = Cohort(COHORT.names[1:], RULES).context(**given)
    assert len(contexts | {fewer}) == len(others) + 2


def test_a_binding_is_of_all_its_parts():
    one = SumBinding(b"c" * 32, b"1", b"2", b"m" * 32)
    others = [SumBinding(b"d" * 32, b"1", b"2", b"m" * 32), SumBinding(b"c" * 32, b"2", b"1", b"m" * 32)]
    others += [SumBinding(b"c" * 32, b"12", b"", b"m" * 32), SumBinding(b"c" * 32, b"1", b"2", b"n" * 32)]
    assert len({one.digest, *(other.digest for other in others)}) == 5


def test_texts_are_told_apart():
    texts = {keys_text(b"c", "a", b"k"), keys_text(b"ca", "", b"k"), survivors_text(b"c", b"a"), direction(1, 2)}
    texts |= {direction(2, 1), share_message(b"c", 1, 2), share_message(b"c", 2, 1)}
    assert len(texts) == 7


def test_the_graph_follows_from_who_sent_keys():
    large = Cohort(tuple(f"c{place:03d}" for place in range(100)), RULES)
    everyone = frozenset(range(100))
    graph = large.graph(b"c" * 32, everyone)
    assert {len(around) for around in graph.values()} == {large.plan(everyone).degree}
    assert large.graph(b"c" * 32, everyone, [3]) == {3: graph[3]}
    assert large.graph(b"d" * 32, everyone)[3] != graph[3]
    assert large.graph(b"c" * 32, everyone - {99})[3] != graph[3]


@pytest.mark.parametrize(
    "tensor", [torch.zeros(2, 4), torch.zeros(3, 4, dtype=torch.uint8), torch.zeros(8, dtype=torch.uint8)]
)
def test_rows_of_another_shape_are_refused(tensor):
    with pytest.raises(ExchangeRefused, match="were expected"):
        rows_of(tensor, 2, 4)


def test_bytes_are_rows_and_back():
    assert rows_of(to_tensor(b"abcdefgh", 2), 2, 4) == [b"abcd", b"efgh"]
    assert to_bytes(to_tensor(b"", 0)) == b""
    assert rows_of(to_tensor(b"", 0), 0, 4) == []
