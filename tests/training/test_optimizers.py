"""Every optimizer against torch.optim, and many clients against each of them."""

import dataclasses

import pytest
import torch

import headway as hw
from headway.training.optimizers import Optimizer

CASES = {
    "SGD": hw.SGD(),
    "SGD with momentum": hw.SGD(momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": hw.Adam(),
    "Adam with decay": hw.Adam(betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1, amsgrad=True),
    "AdamW": hw.AdamW(),
    "AdamW with decay": hw.AdamW(betas=(0.8, 0.95), eps=1e-4, weight_decay=0.3, amsgrad=True),
    "RMSprop": hw.RMSprop(),
    "RMSprop centered": hw.RMSprop(alpha=0.9, weight_decay=0.1, momentum=0.5, centered=True),
    "Adagrad": hw.Adagrad(),
    "Adagrad with decay": hw.Adagrad(lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.5),
}


def fields_of(optimizer):
    return {field.name: getattr(optimizer, field.name) for field in dataclasses.fields(optimizer)}


def gradients(*shape, steps=7):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(steps, *shape, generator=generator, dtype=torch.float64)


def moved(optimizer, start, grads, lr=0.1):
    w, kept = start.clone(), optimizer.begin(start)
    for t, grad in enumerate(grads, 1):
        w = w - lr * optimizer.direction(grad.clone(), w, kept, t)
    return w


def test_all_are_here():
    assert {type(optimizer).__name__ for optimizer in CASES.values()} == set(Optimizer.registry.names())


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_torch(name):
    optimizer, start = CASES[name], torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)
    theirs = torch.nn.Parameter(start.clone())
    torch_optimizer = getattr(torch.optim, type(optimizer).__name__)([theirs], lr=0.1, **fields_of(optimizer))
    grads = gradients(2, 3)
    for grad in grads:
        theirs.grad = grad.clone()
        torch_optimizer.step()
    torch.testing.assert_close(moved(optimizer, start, grads), theirs.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_many_clients_are_each_of_them(name):
    optimizer, start, grads = CASES[name], torch.ones(4, 2, 3, dtype=torch.float64), gradients(4, 2, 3)
    together = moved(optimizer, start, grads)
    for client in range(4):
        assert torch.equal(together[client], moved(optimizer, start[client], grads[:, client]))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: hw.SGD(momentum=1.0), "SGD.momentum"),
        (lambda: hw.SGD(nesterov=True), "SGD.nesterov needs momentum"),
        (lambda: hw.Adam(betas=(0.9,)), "Adam.betas must be two numbers"),
        (lambda: hw.AdamW(betas=(0.9, 1.0)), "AdamW.betas must be two numbers"),
        (lambda: hw.AdamW(weight_decay=-0.1), "AdamW.weight_decay"),
        (lambda: hw.RMSprop(alpha=1.5), "RMSprop.alpha"),
        (lambda: hw.Adagrad(eps=-1.0), "Adagrad.eps"),
        (lambda: hw.Adam(amsgrad=1), "Adam.amsgrad must be true or false"),
    ],
)
def test_numbers_out_of_range_are_refused(make, named):
    with pytest.raises(hw.ConfigError, match=named):
        make()
