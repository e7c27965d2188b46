"""Integers of few bits as bytes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway.numerics import packing
from headway.numerics.packing import pack, packed_length, unpack


@pytest.mark.parametrize("bits", range(1, 64))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100, 300])
def test_what_is_packed_comes_back(bits, count, monkeypatch):
    monkeypatch.setattr(packing, "CACHE", 64)
    codes = torch.randint(0, 2**bits if bits < 63 else 2**63 - 1, (count,), generator=torch.Generator().manual_seed(1))
    raw = pack(codes, bits)
    assert raw.dtype == torch.uint8
    assert len(raw) == packed_length(count, bits)
    assert torch.equal(unpack(raw, bits, count), codes)


@given(st.integers(1, 63), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=70))
def test_the_bytes_are_one_number_with_the_first_integer_lowest(bits, drawn):
    """Of an integer with more bits, the lower ones are packed: what a ring takes of a signed number."""
    whole = sum((number % 2**bits) << (place * bits) for place, number in enumerate(drawn))
    raw = pack(torch.tensor(drawn, dtype=torch.int64), bits)
    assert bytes(raw.tolist()) == whole.to_bytes(packed_length(len(drawn), bits), "little")
    assert unpack(raw, bits, len(drawn)).tolist() == [number % 2**bits for number in drawn]


def test_the_largest_code_of_each_width():
    for bits in range(1, 64):
        codes = torch.tensor([2**bits - 1, 0, 2**bits - 1])
        assert torch.equal(unpack(pack(codes, bits), bits, 3), codes)


def test_what_is_unpacked_is_no_view_of_the_bytes():
    raw = pack(torch.arange(100), 8)
    numbers = unpack(raw, 8, 100)
    raw.zero_()
    assert numbers.tolist() == list(range(100))
