"""Memory that is used again: what one chunk was given is overwritten by the next, and by nothing within it."""

import pytest
import torch

from headway.training.reused_memory import ReusedMemory


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_of_a_chunk_lie_apart_and_the_next_chunk_lies_where_they_were(dtype):
    memory, like = ReusedMemory(), torch.zeros(1, dtype=dtype)
    shapes = [(3, 5), (1000,), (2, 2, 2), ()]
    places = []
    for _ in range(4):
        memory.again()
        made = [memory.empty(like, shape).fill_(number) for number, shape in enumerate(shapes)]
        for number, each in enumerate(made):
            assert each.shape == shapes[number]
            assert each.dtype == dtype
            assert bool((each == number).all())
        places.append([each.data_ptr() for each in made])
    assert places[1] == places[2] == places[3]


def test_another_type_and_a_larger_chunk_have_memory_of_their_own():
    memory = ReusedMemory()
    for count, dtype in ((10, torch.float32), (1 << 20, torch.float32), (1 << 20, torch.float64), (3, torch.float32)):
        memory.again()
        first, second = (memory.empty(torch.zeros(1, dtype=dtype), (count,)) for _ in range(2))
        first.fill_(1.0)
        second.fill_(2.0)
        assert bool((first == 1).all())
