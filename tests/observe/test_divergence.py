"""A run that explodes is stopped, compared with what the loss was before it trained."""

import pytest
import torch
from toys import blobs, linear_task

import headway as hw
from headway.engines import LocalEngine
from headway.protocol.messages import Train


def run(lr, rounds=5, scale=1.0, loss="cross_entropy", model=None):
    data = blobs((30, 40, 20))
    data = hw.FederatedData.from_clients(
        {name: (scale * data.train_of(name).inputs, data.train_of(name).targets) for name in data.clients}
    )
    task = hw.Task(model=model or (lambda: torch.nn.Linear(4, 3)), loss=loss, metrics=("accuracy",))
    made = hw.Run(hw.recipes.fedavg(trainer=hw.LocalSGD(lr=lr, batch_size=4, epochs=2)), data, task, rounds=rounds)
    return made, made.__iter__()


def test_a_run_that_explodes_in_its_first_round_and_stays_finite_is_stopped() -> None:
    made, reports = run(lr=1e6)
    with pytest.raises(
        hw.Diverged, match=r"in round 1: the training loss is .*, and was [0-9.]+ at the start"
    ) as stopped:
        list(reports)
    assert "a lower learning rate than 1e+06" in str(stopped.value)
    assert made.state.round == 0
    assert bool(torch.isfinite(made.state.params).all())


def test_the_loss_before_training_is_that_of_the_initial_model() -> None:
    made, reports = run(lr=0.1)
    next(reports)
    fresh = hw.Run(made.algorithm, made.data, made.task, rounds=1).model()
    whole = [made.data.train_of(client) for client in made.data.clients]
    some = [part.rows(0, min(32, len(part))) for part in whole]
    each = [torch.nn.functional.cross_entropy(fresh(part.inputs), part.targets).item() for part in some]
    assert made.notes["first_loss"] == pytest.approx(sum(each) / 3, rel=1e-4)


def test_features_that_make_the_first_loss_large_are_no_divergence() -> None:
    made, reports = run(lr=1e-6, scale=1e4)
    list(reports)
    assert made.state.round == 5
    assert made.notes["first_loss"] > 100


def test_looking_at_the_loss_changes_no_bit_of_the_run(monkeypatch) -> None:
    def drops():
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3))

    made, reports = run(lr=0.1, model=drops)
    list(reports)
    monkeypatch.setattr("headway.experiment.run_observers.loss_before_training", lambda *_: None)
    other, reports = run(lr=0.1, model=drops)
    list(reports)
    assert torch.equal(made.state.params, other.state.params)
    assert made.notes["first_loss"] != other.notes["first_loss"]


@pytest.mark.parametrize("lanes", [1, 3])
def test_losses_that_are_protected_are_not_looked_at(lanes, monkeypatch) -> None:
    def blind(engine, ask):
        answer = asked(engine, ask)
        if isinstance(ask.request, Train):
            answer.reports.metrics.pop("train_loss", None)
        return answer

    asked = LocalEngine.ask
    monkeypatch.setattr(LocalEngine, "ask", blind)
    algorithm = hw.recipes.fedavg(trainer=hw.LocalSGD(lr=0.1, batch_size=4))
    made = hw.Run(algorithm, blobs(), linear_task(), rounds=2, engine=LocalEngine(lanes=lanes))
    list(made)
    assert made.notes["first_loss"] is None
