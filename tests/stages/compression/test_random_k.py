"""The same coordinates of all clients: their sums are sums, and over rounds nothing is lost."""

from dataclasses import replace

import pytest
import torch
from conformance.cases import case
from conformance.teststages import PairwiseMasks
from conformance.tiny import engine, quadratics

import headway as hw
from headway.core.flow import Flow
from headway.core.layout import Layout
from headway.core.update import Update
from headway.numerics.keys import Key
from headway.stages import Clip, Mean, Quantize, RandomK, Weigh

SIZE = 40
LAYOUT = Layout.of({"w": torch.zeros(SIZE, dtype=torch.float64)})
X = Key.root(3).uniform(3 * SIZE).reshape(3, SIZE) - 0.5


def there_and_back(stage, update, round, age=0):
    flow = hw.chain(stage, Mean()).trace(Flow(size=SIZE))[0]
    ctx = replace(case(stage).ctx, layout=LAYOUT, flow=flow, round=round)
    sent, _ = stage.send(update, {}, ctx)
    server = replace(case(stage).server, layout=LAYOUT, flow=flow, round=round + age, age=torch.tensor(age))
    return sent, stage.decode(sent, server)


def test_clients_send_the_same_coordinates_and_other_rounds_others():
    _, back = there_and_back(RandomK(0.25), Update.of(X), 4)
    chosen = [row.nonzero().flatten().tolist() for row in back.delta]
    assert chosen[0] == chosen[1] == chosen[2]
    assert len(chosen[0]) == 10
    torch.testing.assert_close(back.delta[:, chosen[0]], 4 * X[:, chosen[0]])
    _, later = there_and_back(RandomK(0.25), Update.of(X), 5)
    assert later.delta[0].nonzero().flatten().tolist() != chosen[0]


def test_over_rounds_the_mean_is_the_delta():
    """Each coordinate is chosen in a quarter of 500 rounds, within six standard errors."""
    rounds = 500
    total = sum(there_and_back(RandomK(0.25), Update.of(X[0]), round)[1].delta for round in range(rounds))
    share = total / rounds / X[0]
    assert bool(((share - 1).abs() < 6 * (3 / rounds) ** 0.5).all())


def test_a_late_update_is_put_where_its_own_round_had_chosen():
    sent, now = there_and_back(RandomK(0.25), Update.of(X[0]), 4)
    _, late = there_and_back(RandomK(0.25), Update.of(X[0]), 4, age=3)
    assert torch.equal(late.delta, now.delta)
    stage, rounds = RandomK(0.25), torch.tensor([[4.0], [7.0]])
    both, _ = stage.send(Update.of(X[:2]), {}, replace(case(stage).ctx, layout=LAYOUT, round=rounds))
    assert torch.equal(both.delta[0], sent.delta)
    server = replace(case(stage).server, layout=LAYOUT, round=8, age=torch.tensor([4, 1]))
    assert torch.equal(stage.decode(both, server).delta[0], now.delta)


def test_few_coordinates_are_at_least_one():
    sent, _ = there_and_back(RandomK(1e-6), Update.of(X[0]), 0)
    assert sent.delta.shape == (1,)


def test_all_coordinates_are_fedavg_to_the_bit():
    assert torch.equal(engine(RandomK(1.0), Mean()).run(3).params, engine(Mean()).run(3).params)


@pytest.mark.parametrize("weighing", [(), (Weigh("capped", 7),)], ids=["clients", "weights"])
def test_behind_a_mask_the_sum_is_that_of_single_updates(weighing):
    """The clip is of the update and not of its product with the weight: weights are multiplied in after it."""
    mean, problems = Mean("examples" if weighing else "clients"), quadratics(4, 8)
    parts = (*weighing, RandomK(0.5), Clip(0.2), Quantize(30))
    masked = engine(*parts, PairwiseMasks(), mean, problems=problems).run(3)
    plain = engine(*parts, mean, problems=problems).run(3)
    torch.testing.assert_close(masked.params, plain.params, rtol=0, atol=1e-7)
    start = engine(*parts, mean, problems=problems).start()
    assert float((plain.params - start.params).norm()) > 0.05


def test_a_part_of_a_part_is_refused():
    flow = Flow(size=SIZE)
    half = RandomK(0.5).connect(flow)
    with pytest.raises(hw.ChainRefused, match=r"a part of the parameters; caused by: RandomK; .*keep one"):
        RandomK(0.25).connect(half)
