"""Integers of few bits as bytes."""

import pytest
import torch

from headway.numerics import packing
from headway.numerics.packing import pack, packed_length, unpack


@pytest.mark.parametrize("bits", [1, 3, 8, 20, 33, 63])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
def test_what_is_packed_comes_back(bits, count, monkeypatch):
    monkeypatch.setattr(packing, "AT_A_TIME", 16)
    codes = torch.randint(0, 2**bits if bits < 63 else 2**63 - 1, (count,), generator=torch.Generator().manual_seed(1))
    raw = pack(codes, bits)
    assert raw.dtype == torch.uint8
    assert len(raw) == packed_length(count, bits)
    assert torch.equal(unpack(raw, bits, count), codes)


def test_the_largest_code_of_each_width():
    for bits in range(1, 64):
        codes = torch.tensor([2**bits - 1, 0, 2**bits - 1])
        assert torch.equal(unpack(pack(codes, bits), bits, 3), codes)
