"""The memory of a sum: what is in main memory, what is in files, and the bits of a sum in blocks of columns."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway.numerics.exact_sum import ExactSum
from headway.server.sum_memory import SumMemory
from headway.server.vector_files import LEAST, MOST, PER_NUMBER, VectorFiles

NUMBERS = st.one_of(
    st.floats(-1e260, 1e260, allow_subnormal=True),
    st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 2.0**860, -(2.0**860), 2.0**32, -(2.0**32), 1 - 2.0**-53]),
    st.builds(lambda m, e: m * 2.0**e, st.integers(-(2**53), 2**53), st.integers(-900, 800)),
)


@given(st.lists(st.lists(NUMBERS, min_size=6, max_size=6), min_size=1, max_size=6), st.integers(1, 6))
def test_an_exact_sum_has_the_same_bits_whatever_columns_are_summed_together(rows, columns):
    """The number of bins of a sum depends on all its columns; the rounded value of one column does not."""
    terms = [torch.tensor(row, dtype=torch.float64) for row in rows]
    whole, parts = ExactSum(), []
    for term in terms:
        whole.add(term)
    for start in range(0, 6, columns):
        part = ExactSum()
        for term in terms:
            part.add(term[start : start + columns])
        parts.append(part.value())
    assert torch.equal(whole.value().view(torch.int64), torch.cat(parts).view(torch.int64))


def test_vectors_beyond_half_of_the_limit_lie_in_files(tmp_path):
    memory = SumMemory(160, VectorFiles(tmp_path / "sums"))
    small, large = memory.vector(10), memory.vector(11)
    assert memory._held == 80
    large += 1.0
    kept = memory.kept({"delta": torch.arange(5.0, dtype=torch.float64), "codes": torch.arange(5)})
    assert (small.sum(), large.sum(), kept["delta"].tolist()) == (0.0, 11.0, [0.0, 1.0, 2.0, 3.0, 4.0])
    assert kept["codes"].tolist() == [0, 1, 2, 3, 4]
    assert list((tmp_path / "sums").iterdir()) == []


@pytest.mark.parametrize(
    ("limit", "columns"),
    [(math.inf, None), (2 * PER_NUMBER * 5000, None), (2 * PER_NUMBER * 4999, 4999), (1, LEAST)],
)
def test_how_many_columns_are_summed_at_a_time(limit, columns, tmp_path):
    assert SumMemory(limit, VectorFiles(tmp_path)).columns({"delta": 4000, "variate": 1000}) == columns
    assert SumMemory(1 << 40, VectorFiles(tmp_path)).columns({"delta": 1 << 40}) == MOST
