"""Whole runs on real data equal an independent PyTorch loop in float64, written from the papers' equations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import headway as hw
from headway.data import batch_bounds, epoch_order
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key

ROUNDS, SEED, LR, MOMENTUM, BATCH, EPOCHS = 4, 3, 0.02, 0.5, 50, 2
DATA = hw.data.load("hospitals", key=SEED)
DATA = hw.FederatedData(
    DATA.name, hw.Examples(DATA.store.inputs.double(), DATA.store.targets), DATA.train, DATA.test, classes=2
)


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(35, 8), nn.Tanh(), nn.Linear(8, 2))


TASK = hw.Task(model=model, dtype="float64")


def local(start, client, round_, change, steer=None):
    """One client's displacements: torch.optim.SGD on batches in the documented order; `steer` follows each step."""
    module = model().double()
    vector_to_parameters(start.clone(), module.parameters())
    optimizer = torch.optim.SGD(module.parameters(), lr=LR, momentum=MOMENTUM)
    examples = DATA.train_of(client)
    key = Key.root(SEED).derive("client", round_).owned(client).derive("trainer")
    steps, before = [], start
    for epoch in range(EPOCHS):
        order = epoch_order(len(examples), key.derive("epoch", epoch), True)
        for begin, end in batch_bounds(len(examples), BATCH):
            index = order[begin:end]
            optimizer.zero_grad()
            F.cross_entropy(module(examples.inputs[index]), examples.targets[index]).backward()
            w = parameters_to_vector(module.parameters()).detach()
            extra, place = change(w), 0
            for parameter in module.parameters():
                parameter.grad += extra[place : place + parameter.numel()].view_as(parameter)
                place += parameter.numel()
            optimizer.step()
            after = parameters_to_vector(module.parameters()).detach()
            if steer is not None:
                after = after - LR * steer
                vector_to_parameters(after.clone(), module.parameters())
            steps.append(after - before)
            before = after
    return torch.stack(steps)


def reaggregate(steps, select=0.5, beta=0.2):
    """The greedy loop of arXiv 2601.03584."""
    left, running = list(range(len(steps))), torch.zeros_like(steps[0])
    for _ in range(max(1, int(len(steps) * select))):
        best = min(left, key=lambda i: (float((running + steps[i]).norm()), i))
        left.remove(best)
        running = running + steps[best]
    c = running + beta * steps[left].sum(0)
    return c * steps.sum(0).norm() / c.norm()


def reference(recipe: str):
    """The global model after every round of the recipe."""
    x = FlatModule(TASK, Key.root(SEED)).shared.clone()
    sizes = {client: len(DATA.train[client]) for client in DATA.clients}
    c, own = torch.zeros_like(x), {client: torch.zeros_like(x) for client in DATA.clients}
    m, v = torch.zeros_like(x), torch.full_like(x, 1e-6)
    for round_ in range(ROUNDS):
        total, change = torch.zeros_like(x), torch.zeros_like(x)
        for client in DATA.clients:
            base, late = recipe.partition("+")[0], recipe.startswith("scaffold-step")
            pull = {
                "fedprox": lambda w, x=x: 0.3 * (w - x),
                "scaffold": lambda w, c=c, c_i=own[client]: c - c_i,
            }.get(base, torch.zeros_like)
            steps = local(x, client, round_, pull, c - own[client] if late else None)
            moved = steps.sum(0)
            delta = reaggregate(steps) if recipe.endswith("+ecgr") else moved
            uniform = recipe.startswith("scaffold")
            total += delta * (1 / len(sizes) if uniform else sizes[client] / sum(sizes.values()))
            if uniform:
                received = sum(LR * MOMENTUM**j for k in range(len(steps)) for j in range(len(steps) - k))
                received = len(steps) * LR if late else received
                new = own[client] - c - moved / received
                change += (new - own[client]) / len(sizes)
                own[client] = new
        c = c + change
        if recipe.startswith("fedadam"):
            m, v = 0.9 * m + 0.1 * total, 0.99 * v + 0.01 * total**2
            total = 0.01 * m / (v.sqrt() + 1e-3)
        x = x + total
    return x


@pytest.mark.parametrize("recipe", ["fedavg", "fedprox", "scaffold", "scaffold-step", "fedadam"])
@pytest.mark.parametrize("ecgr", ["", "+ecgr"])
def test_agrees_with_the_independent_loop(recipe, ecgr):
    trainer = hw.LocalSGD(lr=LR, momentum=MOMENTUM, batch_size=BATCH, epochs=EPOCHS)
    options = {"fedprox": {"mu": 0.3}, "scaffold-step": {"correct": "step"}}.get(recipe, {})
    run = hw.Run(
        hw.recipes.recipe(recipe.partition("-")[0] + ecgr, trainer=trainer, **options),
        DATA,
        TASK,
        rounds=ROUNDS,
        seed=SEED,
        evaluate_every=9,
    )
    start = run.state.params.clone()
    list(run)
    expected = reference(recipe + ecgr)
    assert float((expected - start).norm()) > 0.05
    torch.testing.assert_close(run.state.params, expected, rtol=1e-9, atol=1e-11)
