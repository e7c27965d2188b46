"""A training function of one's own: the weights of its loop, and refusals of chains that need its steps."""

import re

import pytest
import torch
from toys import blobs, linear_task

import headway as hw
from headway.training.function_trainer import TRAINING_FUNCTIONS, FunctionTrainer


@pytest.fixture(autouse=True)
def _registered():
    with TRAINING_FUNCTIONS.restored():
        yield


def descend(model, examples, call, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(examples.inputs), examples.targets)
        loss.backward()
        optimizer.step()
    return {"loss": loss.item(), "steps": steps}


def run(trainer, *stages, rounds=3, **options):
    algorithm = hw.Algorithm(hw.chain(*stages, hw.Mean()), trainer, hw.All())
    made = hw.Run(algorithm, blobs(), linear_task(dtype="float64"), rounds=rounds, **options)
    return made, list(made)


def test_a_loop_of_torch_has_the_weights_of_local_sgd():
    TRAINING_FUNCTIONS.add(descend, "descend")
    made, reports = run(FunctionTrainer("descend"))
    same, _ = run(hw.LocalSGD(lr=0.1, batch_size=None, steps=3))
    torch.testing.assert_close(made.state.params, same.state.params, rtol=0, atol=1e-12)
    assert all(report.train_loss > 0 for report in reports)


def test_a_function_may_put_other_tensors_in_place_of_parameters_and_freeze_some():
    def replaces(model, examples, call):
        figures = descend(model, examples, call)
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
            parameter.requires_grad_(False)
        return figures["loss"]

    TRAINING_FUNCTIONS.add(descend, "descend")
    TRAINING_FUNCTIONS.add(replaces, "replaces")
    assert torch.equal(
        run(FunctionTrainer("replaces"))[0].state.params, run(FunctionTrainer("descend"))[0].state.params
    )


def test_what_it_draws_repeats_with_the_seed():
    def noisy(model, examples, call):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        return 1.0

    TRAINING_FUNCTIONS.add(noisy, "noisy")
    one, again, other = (run(FunctionTrainer("noisy"), seed=seed)[0].state.params for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("stage", [hw.ECGR(), hw.FedProx(mu=0.1), hw.Scaffold(), hw.FedNova()], ids=repr)
def test_stages_that_need_steps_are_refused_with_a_sentence(stage):
    TRAINING_FUNCTIONS.add(descend, "descend")
    with pytest.raises(hw.ChainRefused, match=r"FunctionTrainer|the function 'descend'"):
        run(FunctionTrainer("descend"), stage)


@pytest.mark.parametrize("returned", [None, float("nan"), {"steps": 3}, {"loss": 1.0, "steps": 0}, "good"], ids=repr)
def test_a_function_that_returns_something_else_is_named(returned):
    TRAINING_FUNCTIONS.add(lambda model, examples, call: returned, "odd")
    with pytest.raises(hw.HeadwayError, match=re.escape("the training function 'odd'")):
        run(FunctionTrainer("odd"))


def test_an_unknown_function_is_refused_where_clients_train():
    with pytest.raises(hw.ConfigError, match="there is no training function named 'absent'"):
        run(FunctionTrainer("absent"))
