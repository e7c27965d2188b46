"""Measurements of a client before it trains, and the examples that it never trains on."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from toys import blobs, linear_task

import headway as hw
from headway.training import measurements
from headway.training.measurements import entropy_of, hold_out, normalised_entropy


def examples(count):
    return hw.Examples(torch.arange(float(count)).reshape(-1, 1), torch.arange(count))


@pytest.mark.parametrize(
    ("count", "share", "held"), [(10, 0.3, 3), (10, 0.01, 1), (2, 0.9, 1), (1, 0.5, 0), (5, 0.99, 4), (7, 0.0, 0)]
)
def test_some_are_held_out_and_none_is_lost(count, share, held):
    kept, out = hold_out(examples(count), share)
    assert len(out) == held
    assert sorted(kept.targets.tolist() + out.targets.tolist()) == list(range(count))
    again = hold_out(examples(count), share)[1]
    assert torch.equal(out.targets, again.targets)


def test_held_out_examples_are_drawn_and_not_the_last_ones():
    drawn = hold_out(examples(100), 0.2)[1].targets.tolist()
    assert drawn != list(range(80, 100))
    assert min(drawn) < 40


def test_held_out_examples_have_no_effect_on_training():
    data, client = blobs(), "client-1"
    held = hold_out(examples(12), 0.25)[1].targets
    spoilt = data.store.inputs.clone()
    spoilt[data.train[client][held]] = 1e3
    other = hw.FederatedData(
        data.name, hw.Examples(spoilt, data.store.targets), data.train, data.test, classes=data.classes
    )
    assert not torch.equal(data.train_of(client).inputs, other.train_of(client).inputs)

    def end(data, **options):
        run = hw.Run(hw.recipes.fedavg(trainer=hw.LocalSGD(batch_size=4, **options)), data, linear_task(), rounds=2)
        list(run)
        return run.state.params

    assert torch.equal(end(data, validation=0.25), end(other, validation=0.25))
    assert not torch.equal(end(data), end(other))


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(hw.ConfigError, match=r"LocalSGD\.validation must be (at least 0 and below 1|a finite number)"):
        hw.LocalSGD(validation=share)


@pytest.mark.parametrize(
    ("targets", "outputs", "entropy"),
    [
        ([0, 1, 2], 3, 1.0),
        ([2, 2, 2], 3, 0.0),
        ([0.0, 1.0], 1, 1.0),
        ([0, 0, 0, 1], 2, (3 / 4 * math.log(4 / 3) + math.log(4) / 4) / math.log(2)),
        ([0, 1], 4, 0.5),
    ],
)
def test_the_entropy_of_labels(targets, outputs, entropy):
    assert normalised_entropy(torch.tensor(targets), outputs) == pytest.approx(entropy, abs=1e-15)


@pytest.mark.parametrize("targets", [[0.5, 1.0], [0, 3], [-1, 0]])
def test_targets_that_are_no_classes_are_refused(targets):
    with pytest.raises(hw.ConfigError, match=r"classes from 0 to 2, found numbers from .*validation"):
        normalised_entropy(torch.tensor(targets), 3)


def test_a_run_whose_targets_are_no_classes_is_refused():
    data = blobs()
    real = hw.FederatedData.from_clients(
        {c: (data.train_of(c).inputs, data.train_of(c).inputs[:, 0]) for c in data.clients}
    )
    task = hw.Task(lambda: torch.nn.Linear(4, 1), loss="mean_squared_error", metrics=("mean_absolute_error",))
    with pytest.raises(hw.ConfigError, match="entropy of labels needs targets that are classes"):
        list(hw.rounds(hw.recipes.quality(by="entropy"), real, task, rounds=1))


def test_the_entropy_is_of_as_many_classes_as_an_answer_has():
    """Several labels have two each, whatever their number; a mask has those on axis 1."""
    labels = torch.tensor([[0, 1, 1], [1, 1, 0], [0, 1, 1], [1, 1, 0]]).float()
    assert entropy_of(labels, torch.zeros(1, 3), labels[:1]) == pytest.approx(2 / 3)
    mask = torch.arange(16).view(1, 4, 4) % 4
    assert entropy_of(mask, torch.zeros(1, 4, 4, 4), mask) == pytest.approx(1.0)
    assert entropy_of(mask % 2, torch.zeros(1, 4, 4, 4), mask) == pytest.approx(0.5)
    assert entropy_of(labels[:, 0], torch.zeros(1, 1), labels[:1, 0]) == pytest.approx(1.0)


@dataclass(frozen=True)
class ByLabels(hw.Stage):
    """Weighs a client by how many different labels it has."""

    place: ClassVar[hw.Place] = hw.Place.WEIGH
    name: str = "label_count"

    def connect(self, flow):
        return flow.measure(self, self.name).set(self, weight_bound=None, by_examples=False).keep(self, "additive")

    def send(self, update, memory, ctx):
        return update.with_weight(ctx.measurements[self.name]), memory


def test_a_new_measurement_is_one_function_and_the_stage_that_asks_for_it(monkeypatch):
    monkeypatch.setattr(measurements, "MEASUREMENTS", dict(measurements.MEASUREMENTS))
    monkeypatch.setattr("headway.training.loop_trainer.MEASUREMENTS", measurements.MEASUREMENTS)

    @measurements.measurement
    def label_count(start):
        return len(start.examples.targets.unique())

    algorithm = hw.Algorithm(hw.chain(ByLabels(), hw.Mean()), hw.LocalSGD(), hw.All())
    report = next(iter(hw.Run(algorithm, blobs(), linear_task(), rounds=1)))
    data = blobs()
    wanted = {client: len(data.train_of(client).targets.unique()) for client in data.clients}
    assert {client.client: client.metrics["weight"] for client in report.clients} == wanted


def test_a_measurement_that_nobody_offers_is_refused_when_the_chain_meets_its_trainer():
    with pytest.raises(hw.ChainRefused, match="the client's shoe size \\(ByLabels reads it\\); found: LocalSGD"):
        hw.Algorithm(hw.chain(ByLabels("shoe_size"), hw.Mean()), hw.LocalSGD(), hw.All())


@pytest.mark.parametrize("name", ["label_entropy", "steps"])
def test_a_measurement_has_a_name_of_its_own(name):
    def other(start):
        return 0.0

    other.__name__ = name
    with pytest.raises(hw.ConfigError, match=f"a measurement '{name}' already"):
        measurements.measurement(other)
