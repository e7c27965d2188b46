"""Analytic inversion is exact for a record that alone activates a neuron, and finds nothing where nothing is."""

import dataclasses

import torch
from torch import nn

import headway as hw
from headway.audit.dense_inversion import candidates, first_dense_layer, layer_inputs, recover, spread_of
from headway.core.layout import Layout
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key


def net(*parts):
    torch.manual_seed(0)
    module = nn.Sequential(*parts)
    return module, Layout.of({name: p.detach() for name, p in module.named_parameters()})


def step(module, layout, inputs, targets, lr=0.1):
    """Minus the learning rate times the mean gradient."""
    module.zero_grad()
    nn.functional.cross_entropy(module(inputs), targets).backward()
    return -lr * layout.flatten({name: p.grad for name, p in module.named_parameters()})


def test_a_record_of_its_own_is_recovered_exactly():
    module, layout = net(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    inputs, targets = torch.randn(1, 3, 4), torch.tensor([1])
    layer = first_dense_layer(module, layout, inputs)
    assert (layer.weight, layer.bias, layer.raw) == ("1.weight", "1.bias", True)
    records = layer_inputs(module, layer, inputs)
    found = recover(candidates(layout, step(module, layout, inputs, targets), layer), records, 1.0)
    assert found.count == 1
    assert float(found.errors[0]) < 1e-5
    assert torch.allclose(found.candidates[found.nearest[0]].float(), inputs.flatten(), atol=1e-5)


def test_a_scaled_update_gives_as_much_away():
    """Clipping alone hides nothing from this attack: a ratio has no scale."""
    module, layout = net(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))
    inputs, targets = torch.randn(1, 5), torch.tensor([0])
    layer = first_dense_layer(module, layout, inputs)
    delta = step(module, layout, inputs, targets) * 1e-6
    assert recover(candidates(layout, delta, layer), inputs, 1.0).count == 1


def test_noise_and_strangers_are_not_recovered():
    module, layout = net(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 3))
    inputs, targets = torch.randn(4, 20), torch.tensor([0, 1, 2, 0])
    layer = first_dense_layer(module, layout, inputs[:1])
    delta = step(module, layout, inputs, targets)
    strangers = torch.randn(50, 20)
    assert recover(candidates(layout, delta, layer), strangers, spread_of(strangers)).count == 0
    noise = delta + delta.norm() / 5 * torch.randn(layout.size)
    assert recover(candidates(layout, noise, layer), inputs, spread_of(inputs)).count == 0
    none = recover(candidates(layout, torch.zeros(layout.size), layer), inputs, 1.0)
    assert (none.count, none.share) == (0, 0.0)


def test_the_features_before_the_first_dense_layer():
    module, layout = net(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 36, 10))
    inputs, targets = torch.randn(1, 1, 8, 8), torch.tensor([4])
    layer = first_dense_layer(module, layout, inputs)
    assert (layer.module, layer.raw) == ("3", False)
    records = layer_inputs(module, layer, inputs)
    assert records.shape == (1, 72)
    assert recover(candidates(layout, step(module, layout, inputs, targets), layer), records, 1.0).count == 1


def test_a_sequence_is_recovered_where_one_of_its_places_is():
    module, layout = net(nn.Embedding(9, 5), nn.Linear(5, 40), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 40, 2))
    inputs, targets = torch.tensor([[1, 4, 7]]), torch.tensor([1])
    layer = first_dense_layer(module, layout, inputs)
    assert (layer.module, layer.raw, layer.flat) == ("1", False, False)
    records = layer_inputs(module, layer, inputs)
    assert records.shape == (1, 3, 5)
    delta = step(module, layout, inputs, targets)
    found = recover(candidates(layout, delta, layer), records, spread_of(records))
    assert found.errors.shape == (1,)
    assert found.count == 1
    assert recover(candidates(layout, delta, layer), torch.randn(4, 3, 5) + 9, 1.0).count == 0


def test_a_model_without_a_shared_dense_layer_has_none():
    module, layout = net(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 10, bias=False))
    assert first_dense_layer(module, layout, torch.randn(1, 1, 8, 8)) is None
    module, _ = net(nn.Linear(4, 4), nn.Linear(4, 2))
    rest = Layout.of({name: p.detach() for name, p in module.named_parameters() if name.startswith("1")})
    assert first_dense_layer(module, rest, torch.randn(1, 4)).module == "1"


def test_a_picture_is_found_whose_features_are_given():
    from headway.audit.feature_inversion import invert_features
    from headway.audit.gradient_inversion import psnr

    task = hw.Task(model=lambda: nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 3)))
    picture = torch.zeros(1, 1, 8, 8)
    picture[0, 0, 2:6, 3:5] = 1.0
    flat_module = FlatModule(dataclasses.replace(task, example=picture), Key.root(0))
    layer = first_dense_layer(flat_module.module, flat_module.layout, picture)
    wanted = layer_inputs(flat_module.module, layer, picture).flatten(1)
    generator = torch.Generator().manual_seed(0)
    found = invert_features(flat_module, layer, wanted, (1, 8, 8), (0.0, 1.0), generator)
    assert float(psnr(found, picture, 1.0)) > 15
    assert not flat_module.module[3]._forward_pre_hooks
