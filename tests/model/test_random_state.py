"""What draws from torch's own generator is found, and nothing else."""

import copy

import pytest
import torch
from test_dropout import Batched, attention, without_attention_dropout
from test_dropout_in_training import SMALL
from torch import nn
from torch.nn import functional

from headway.model.dropout import Draws
from headway.model.random_state import draws_ambient


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x):
        return self.inner(functional.dropout(x, 0.5, self.training))


class Own(nn.Dropout):
    def forward(self, x):
        return super().forward(x) + 1


class TestAmbient:
    """What cannot be keyed is found."""

    @pytest.mark.parametrize(
        ("make", "part"),
        [
            (Functional, "the model"),
            (lambda: nn.Sequential(nn.Linear(4, 4), Functional()), "1"),
            (lambda: nn.Sequential(Own(0.5), nn.Linear(4, 4)), "0"),
            (lambda: nn.Sequential(nn.RReLU(), nn.Linear(4, 4)), "0"),
            (lambda: Batched(nn.LSTM(4, 4, num_layers=2, dropout=0.5)), "part"),
            (lambda: Batched(nn.GRU(4, 4, num_layers=2, dropout=0.5)), "part"),
            (lambda: Batched(nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)), "part"),
            (lambda: Batched(attention(dropout=0.3)), "part.self_attn"),
        ],
    )
    def test_what_draws(self, make, part):
        model = make()
        Draws(model)
        assert draws_ambient(model, -torch.ones(2, 4)) == f"{part} draws from torch's own generator"

    @pytest.mark.parametrize(
        "make",
        [
            *SMALL.values(),
            lambda: nn.Linear(4, 2),
            lambda: Batched(nn.LSTM(4, 4, num_layers=2)),
            lambda: Batched(attention(dropout=0.0)),
            lambda: Batched(without_attention_dropout()),
            lambda: nn.Sequential(nn.Dropout1d(0.5), nn.Linear(5, 2)),  # fails
        ],
    )
    def test_what_does_not(self, make):
        model = make()
        Draws(model)
        assert draws_ambient(model, torch.ones(2, 4)) is None

    def test_all_is_left_as_it_was(self):
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), Functional(), nn.ReLU(inplace=True))
        model[1].eval()
        inputs, before = torch.randn(3, 4), copy.deepcopy(model.state_dict())
        kept, state = inputs.clone(), torch.get_rng_state()
        draws_ambient(model, inputs)
        assert torch.equal(state, torch.get_rng_state())
        assert torch.equal(inputs, kept)
        assert [part.training for part in model] == [True, False, True, True]
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
