"""Staleness: late updates are shortened by their age."""

import pytest
import torch
from conformance.cases import case
from toys import blobs

import headway as hw
from headway.core.update import Update
from headway.protocol.messages import Ask, Message, Train


def factors(stage, ages):
    return stage.factor(torch.tensor(ages, dtype=torch.float64)).tolist()


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (hw.Staleness("constant"), [1, 1, 1, 1]),
        (hw.Staleness(), [1, 2**-0.5, 6**-0.5, 21**-0.5]),
        (hw.Staleness("polynomial", power=2.0), [1, 1 / 4, 1 / 36, 1 / 441]),
        (hw.Staleness("hinge"), [1, 1, 1 / 11, 1 / 161]),
        (hw.Staleness("hinge", slope=0.5, grace=1), [1, 1, 1 / 3, 1 / 10.5]),
    ],
    ids=repr,
)
def test_the_papers_factors(stage, expected):
    assert factors(stage, [0, 1, 5, 20]) == pytest.approx(expected)


def test_vectors_are_scaled_and_weights_are_not():
    c = case(hw.Staleness())
    update = Update.of(torch.tensor([2.0, -4.0]), weight=7.0, control=torch.tensor([1.0, 1.0]))
    decoded = hw.Staleness().decode(update, c.server)
    assert decoded.delta.tolist() == [1.0, -2.0]
    assert decoded.vectors["control"].tolist() == [0.5, 0.5]
    assert float(decoded.weight) == 7.0


def test_without_age_it_is_left_out_to_the_bit():
    def run(*parts):
        algorithm = hw.Algorithm(hw.chain(*parts, hw.Mean(), hw.ServerSGD()), hw.LocalSGD(), hw.All())
        made = hw.Run(algorithm, blobs(sizes=(5, 6)), hw.Task(lambda: torch.nn.Linear(4, 3)), rounds=2)
        list(made)
        return made

    plain, aged = run(), run(hw.Staleness())
    assert torch.equal(plain.state.params, aged.state.params)
    (warning,) = aged.algorithm.explain().warnings
    assert "every update is of age 0" in warning


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"by": "linear"}, "'constant', 'polynomial' or 'hinge'"),
        ({"power": -1.0}, "power must be at least 0"),
        ({"slope": float("inf")}, "slope must be a finite number"),
        ({"grace": -1}, "grace must be at least 0"),
    ],
)
def test_bad_settings(options, says):
    with pytest.raises(hw.ConfigError, match=says):
        hw.Staleness(**options)


def follow(chain, quorum, move, rounds=15):
    """Runs a chain on slow clients, and beside it `move(x_t, [(age, x_{t - age}, delta)])`; the ages."""
    trainer = hw.LocalSGD(lr=0.1, batch_size=4)
    data, task = blobs(sizes=tuple(range(5, 15))), hw.Task(lambda: torch.nn.Linear(4, 3), dtype="float64")
    fleet = hw.DeviceFleet(examples_per_s=10.0, speed_spread=1.5)
    algorithm = hw.Algorithm(chain, trainer, hw.Uniform(count=6), quorum)
    made = hw.Run(algorithm, data, task, rounds=rounds, engine=hw.ClockEngine(fleet=fleet), seed=4)
    alone = hw.Run(hw.Algorithm(hw.chain(hw.Mean()), trainer, hw.All()), data, task, rounds=1, seed=4)
    x, ages = made.state.params.clone(), []
    versions, data = [x], made.data
    for report in made:
        updates = []
        for client in report.clients:
            age = int(client.metrics["age"])
            asked = report.round - 1 - age
            ask = Ask(Train(Message(versions[asked]), asked), (client.client,))
            update = alone.engine.execution.setup.training.train(
                client.client, ask, data.train_of(client.client), None
            ).update
            updates.append((age, versions[asked], update.delta))
        x = move(x, updates)
        torch.testing.assert_close(made.state.params, x, rtol=1e-10, atol=1e-12)
        versions.append(made.state.params.clone())
        ages += [age for age, _, _ in updates]
    return ages


@pytest.mark.parametrize("by", ["polynomial", "hinge"])
def test_fedbuff_against_a_direct_implementation(by):
    """`x <- x + (lr / K) sum s(age) delta`, each delta trained from the model that its client was asked with."""
    stage = hw.Staleness(by, slope=1.0, grace=0)

    def move(x, updates):
        return x + 0.7 / 2 * sum(factors(stage, [float(age)])[0] * delta for age, _, delta in updates)

    chain = hw.chain(stage, hw.Mean(over="clients"), hw.ServerSGD(lr=0.7))
    assert max(follow(chain, hw.Quorum(count=2, late="keep"), move)) > 2


@pytest.mark.parametrize("by", ["constant", "polynomial", "hinge"])
def test_fedasync_against_a_direct_implementation(by):
    """`x <- (1 - a_t) x + a_t y`, `a_t = alpha s(age)`, y being the model of the one client that has come."""
    stage = hw.Staleness(by, slope=1.0, grace=0)

    def move(x, updates):
        ((age, asked, delta),) = updates
        alpha = 0.6 * factors(stage, [float(age)])[0]
        return (1 - alpha) * x + alpha * (asked + delta)

    chain = hw.chain(stage, hw.Rebase(), hw.Mean(over="clients"), hw.ServerSGD(lr=0.6))
    assert max(follow(chain, hw.Quorum(count=1, late="keep"), move)) > 2


def test_what_is_rebased_is_shortened_whole():
    with pytest.raises(hw.ChainRefused, match="put Staleness before Rebase"):
        hw.chain(hw.Rebase(), hw.Staleness(), hw.Mean())
    explained = hw.Algorithm(hw.chain(hw.Rebase(), hw.Mean()), hw.LocalSGD(), hw.All()).explain()
    assert "Rebase has nothing to do" in explained.warnings[0]


def test_a_secure_sum_is_refused():
    """The server would see the sum alone, and could not shorten each by its age."""
    from conformance.teststages import FixedPoint, PairwiseMasks

    with pytest.raises(hw.ChainRefused, match="vectors that add"):
        hw.chain(hw.Staleness(), FixedPoint(), PairwiseMasks(), hw.Mean())
