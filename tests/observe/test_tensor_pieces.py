"""Tensors as the bytes of a safetensors file: those of the library."""

import math
import struct
import tracemalloc

import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from headway.observe.tensor_pieces import NAMES, PIECE, pieces

SHAPES = st.lists(st.integers(0, 4), max_size=3)
TENSORS = st.builds(
    lambda shape, dtype: (torch.arange(math.prod(shape)) * 3 - 4).reshape(shape).to(dtype),
    SHAPES,
    st.sampled_from(list(NAMES)),
)


@given(st.dictionaries(st.text(max_size=6), TENSORS, max_size=6), st.dictionaries(st.just("headway"), st.text()))
def test_the_bytes_are_those_of_the_library(tensors, notes):
    tensors.pop("__metadata__", None)
    made = b"".join(bytes(piece) for piece in pieces(tensors, notes))
    assert made == safetensors.torch.save(tensors, metadata=notes or None)


def test_tensors_that_share_memory_or_lie_apart_are_written_as_they_are():
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"whole": base, "column": base[:, 1], "turned": base.T, "again": base}
    read = safetensors.torch.load(b"".join(bytes(piece) for piece in pieces(tensors, {})))
    assert {name: tensor.tolist() for name, tensor in read.items()} == {n: t.tolist() for n, t in tensors.items()}


def test_no_copy_of_a_large_tensor_is_made():
    tensor = torch.zeros(PIECE)
    tracemalloc.start()
    try:
        lengths = [len(piece) for piece in pieces({"a": tensor}, {})]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert lengths[1:] == [PIECE] * 4
    assert (lengths[0] - struct.calcsize("<Q")) % 8 == 0
