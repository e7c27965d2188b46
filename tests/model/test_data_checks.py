"""A last batch of one example: refused by the clients' names before training, merged or dropped."""

import numpy as np
import pytest
import torch
from mk import blobs, toml
from torch import nn

import headway as hw
from headway.training.sgd_options import held_out_count

SIZES = {"a": 2, "b": 9, "c": 17, "d": 33}


def held(sizes=SIZES):
    x, y = blobs(n=sum(sizes.values()))
    cuts = np.cumsum([0, *sizes.values()])
    return hw.FederatedData.from_clients(
        {name: (x[start:stop], y[start:stop]) for name, start, stop in zip(sizes, cuts[:-1], cuts[1:], strict=True)}
    )


def net():
    return nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


def plain():
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 4))


def start(sizes=SIZES, model=net, sampler=None, engine=None, rounds=2, **options):
    trainer = hw.LocalSGD(**{"lr": 0.05, "batch_size": 8, **options})
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), trainer, sampler or hw.All())
    return hw.Run(algorithm, held(sizes), hw.Task(model, buffers="average"), rounds=rounds, engine=engine)


def test_clients_are_named_with_a_batch_size_that_works():
    with pytest.raises(
        hw.ConfigError, match=r"3 of 4 clients have one: b \(9 examples\), c \(17.*last_batch = \"merge\""
    ) as e:
        start()
    size = int(str(e.value).split("batch_size = ")[1].split(",")[0])
    list(start(batch_size=size))


@pytest.mark.parametrize("last", ["merge", "drop"])
@pytest.mark.parametrize("batch_size", [8, 4, 5])
def test_merged_and_dropped_batches_train(last, batch_size):
    list(start(last_batch=last, batch_size=batch_size, epochs=2))


def test_a_client_with_one_example_is_named_and_can_be_left_out():
    sizes = {"one": 1, **SIZES}
    with pytest.raises(hw.ConfigError, match=r"one \(1 example\)\. Clients that train on a single example cannot"):
        start(sizes, last_batch="merge")
    list(start(sizes, last_batch="merge", sampler=hw.Fixed(clients=("b", "c"))))


def test_examples_that_are_held_out_are_counted():
    assert 2 - held_out_count(2, 0.5) == 1
    with pytest.raises(hw.ConfigError, match=r"a \(2 examples\).*validation = 0.5"):
        start(validation=0.5, last_batch="merge")


def test_single_batches_are_refused_and_few_steps_are_not():
    with pytest.raises(hw.ConfigError, match=r"4 of 4 clients"):
        start(batch_size=1)
    list(start(steps=1))


def test_models_that_take_one_example_are_not_refused():
    list(start(model=plain))
    frozen = nn.Sequential(nn.Linear(10, 4), nn.BatchNorm1d(4).requires_grad_(False))
    list(start(model=lambda: frozen))


@pytest.mark.parametrize("last", ["merge", "drop"])
@pytest.mark.parametrize(
    "options", [{}, {"stragglers": 0.9, "epochs": 3}, {"steps": 5}, {"batch_size": 5}, {"validation": 0.3}]
)
def test_lanes_and_low_rank_train_on_the_same_batches(last, options):
    made = []
    for engine in (hw.LocalEngine(), hw.LocalEngine(lanes=3, low_rank=False), hw.LocalEngine(lanes=3, drift=False)):
        run = start(model=plain, engine=engine, last_batch=last, **options)
        made.append((list(run)[-1].train_loss, run.state.params))
    for loss, params in made[1:]:
        assert loss == pytest.approx(made[0][0], rel=1e-5)
        assert torch.allclose(params, made[0][1], atol=1e-5)


def test_each_example_is_dropped_in_some_epoch():
    trainer = hw.LocalSGD(batch_size=8, last_batch="drop")
    seen = set()
    keys = hw.numerics.keys.Key.root(0).for_each(names=["a"])
    (steps,) = trainer.steps_of_group(keys, [(9, 0, 20)], 0.0)
    for order, batches in zip(steps.orders, steps.epochs, strict=True):
        seen |= {int(order[i]) for begin, stop, _ in batches for i in range(begin, stop)}
    assert seen == set(range(9))
    assert trainer.examples_used(9, hw.numerics.keys.Key.root(0)) == 8
    assert trainer.steps_within(9, 16) == (2, 16)


def test_the_command_refuses_and_resumes(headway):
    sizes = [2, 11, 21, 41]
    x, y = blobs(n=sum(sizes))
    np.savez("tiny.npz", x=x, y=y, client=np.repeat(np.arange(4), sizes))
    from pathlib import Path

    Path("own_norm.py").write_text(
        "from torch import nn\ndef bn(shape, outputs):\n    return nn.Sequential(nn.Linear(shape[0], 16), "
        "nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, outputs))\n"
    )
    toml("tiny.toml", 'source = "tiny.npz"', 'name = "own_norm:bn"', task='buffers = "average"')
    code, _, err = headway("run", "tiny.toml")
    assert code == 1
    assert 'algorithm.trainer.last_batch = "merge"' in err
    assert not Path("runs").exists()
    merged = ("--set", "algorithm.trainer.last_batch=merge")
    assert headway("run", "tiny.toml", *merged, "--out", "whole")[0] == 0
    assert headway("run", "tiny.toml", *merged, "--rounds", 1, "--out", "part")[0] == 0
    assert headway("resume", "part", "--rounds", 3)[0] == 0
    ends = [Path(name, "checkpoints", "round-000003.safetensors").read_bytes() for name in ("whole", "part")]
    assert ends[0] == ends[1]
