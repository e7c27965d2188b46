"""The memory of the server's state: where its vectors lie, and the bits of a step in blocks of columns."""

import pytest
import torch

import headway as hw
from headway.core.algorithm import State
from headway.core.layout import Layout
from headway.core.update import Update
from headway.numerics.keys import Key
from headway.protocol.effects import EffectHandler, drive
from headway.protocol.messages import Answer
from headway.protocol.sums import ExactTotal
from headway.server import vector_files
from headway.server.step_memory import StepMemory
from headway.server.vector_files import VectorFiles
from headway.stages import AverageModel, FedDyn, FedNova, Mean, Scaffold, ServerAdam, ServerSGD, WeighByQuality

SIZE = 2 * vector_files.LEAST + 337
LAYOUT = Layout.of({"w": torch.zeros(SIZE)})
CHAINS = {
    "mean": [Mean()],
    "momentum": [Mean(), ServerSGD(0.7, momentum=0.9)],
    "adam": [Scaffold(), Mean(), ServerAdam(bias_correction=True), AverageModel()],
    "dyn": [FedDyn(0.1), Mean("clients"), ServerSGD(0.9)],
    "nova": [FedNova(), Mean()],
    "quality": [WeighByQuality("alignment"), Mean()],
}


class CountedFiles(VectorFiles):
    """Counts the vectors that are made."""

    made = 0

    def vector(self, length, dtype=torch.float64):
        self.made += 1
        return super().vector(length, dtype)


def algorithm_of(*stages):
    return hw.Algorithm(hw.chain(*stages), hw.LocalSGD(lr=0.1), hw.All())


def rounds(algorithm, memory, count=3, buffers=0):
    """The state after some rounds whose sums are given."""
    flows = algorithm.flows(population=4, size=SIZE, statistics=buffers)
    lengths = algorithm.chain.summed_lengths(flows, SIZE) | ({"buffers": buffers} if buffers else {})
    statistics = torch.ones(buffers) if buffers else None
    state = algorithm.initial_state(torch.linspace(-1, 1, SIZE), statistics)
    state = state if memory is None else memory.kept(state)
    for round_ in range(count):
        drawn = Key.root(round_)
        total = ExactTotal()
        total.add_numbers(Update({}, torch.tensor(12.0).double(), {"clients": torch.tensor(3.0).double()}))
        total.rounded = {name: drawn.derive(name).uniform(length) - 0.5 for name, length in lengths.items()}
        total.count = 3
        made = algorithm.round(state, ("a", "b", "c"), key=Key.root(0), layout=LAYOUT, flows=flows, population=4)
        state = drive(made, EffectHandler(lambda ask, total=total: Answer(total=total), lambda effect: None))
    return state


@pytest.mark.parametrize("limit", [0, 1 << 30])
@pytest.mark.parametrize("name", CHAINS)
def test_a_step_in_columns_gives_the_bits_of_a_whole_one(tmp_path, name, limit):
    algorithm = algorithm_of(*CHAINS[name])
    files = CountedFiles(tmp_path)
    whole, made = rounds(algorithm, None), rounds(algorithm, StepMemory(limit, files))
    assert made.round == whole.round == 3
    assert made.tensors().keys() == whole.tensors().keys()
    for key, expected in whole.tensors().items():
        assert made.tensors()[key].dtype == expected.dtype
        assert torch.equal(made.tensors()[key], expected), key
    large = sum(tensor.shape == (SIZE,) for tensor in whole.tensors().values())
    assert files.made == (0 if limit else 4 * large)  # the initial state, and that after each round


@pytest.mark.parametrize("statistics", [1, 7, vector_files.LEAST, SIZE])
def test_averaged_statistics_of_any_number_are_whole(tmp_path, statistics):
    """Also of as many as a block has columns, or as the model has parameters."""
    algorithm = algorithm_of(Mean())
    memory = StepMemory(0, VectorFiles(tmp_path))
    whole, made = rounds(algorithm, None, 2, statistics), rounds(algorithm, memory, 2, statistics)
    assert torch.equal(made.buffers, whole.buffers)
    assert torch.equal(made.params, whole.params)


def test_a_state_lies_in_files_where_two_of_it_take_more_than_half_of_the_memory(tmp_path):
    files = CountedFiles(tmp_path)
    state = State(3, torch.arange(8.0), {"A": {"m": torch.ones(8), "t": torch.ones(1)}})
    room = 2 * 2 * (8 + 8 + 1) * 4
    assert StepMemory(room, files).kept(state).params is state.params
    kept = StepMemory(room - 1, files).kept(state)
    assert files.made == 2
    assert kept.round == 3
    assert torch.equal(kept.params, state.params)
    assert kept.stages["A"]["t"] is state.stages["A"]["t"]
    kept.params[0] = 5.0
    assert state.params[0] == 0.0


def test_a_stage_that_needs_whole_vectors_is_named():
    adaptive = algorithm_of(hw.stages.AdaptiveClip(), Mean())
    assert adaptive.chain.whole_step(adaptive.flows()) == "AdaptiveClip needs them whole"
    noisy = algorithm_of(hw.stages.Clip(1.0), Mean("expected"), hw.stages.GaussianNoise(1.0))
    assert noisy.chain.whole_step(noisy.flows()) == "a release is kept whole"
    plain = algorithm_of(Mean())
    assert plain.chain.whole_step(plain.flows()) is None


def test_the_state_of_a_whole_step_is_moved_to_files(tmp_path):
    algorithm, files = algorithm_of(hw.stages.AdaptiveClip(), Mean()), CountedFiles(tmp_path)
    whole, made = rounds(algorithm, None), rounds(algorithm, StepMemory(0, files))
    assert torch.equal(made.params, whole.params)
    assert files.made == 4
